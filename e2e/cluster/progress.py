"""Shows what is being built: live on a terminal, as plain lines elsewhere."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class BuildProgress:
    """Progress of a list of builds, on standard error.

    Parameters
    ----------
    total
        How many builds there will be.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal and not os.environ.get("CI")

    @contextmanager
    def building(self, what: str) -> Iterator[None]:
        """Show that something is being built while the block runs."""
        number = f"{self._done + 1} of {self._total}"
        started = time.monotonic()
        if self._live:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            with Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True) as progress:
                progress.add_task(f"building {what}", total=self._total, completed=self._done)
                yield
        else:
            self.say(f"building {what} ({number}) ...")
            yield
        self._done += 1
        self.say(f"built {what} ({number}) in {time.monotonic() - started:.0f} s")

    def say(self, line: str) -> None:
        """Print a line above the live display."""
        self._console.print(line, soft_wrap=True)
