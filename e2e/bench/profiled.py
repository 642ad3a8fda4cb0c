"""Runs the operator under a sampling profiler: ``python -m e2e.bench.profiled OUTPUT [FLAGS OF THE OPERATOR]``.

SIGUSR1 starts the sampling and SIGUSR2 ends it and writes the output, so that a profile is of exactly what is measured,
without the imports. Every few milliseconds of the process's CPU time, whatever Python code then runs is noted. Unlike
with a tracing profiler such as cProfile, many cheap calls, of which asyncio has many, seem no dearer than they are.
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Final

from disaggregatedset.cli import main

#: Of CPU time. The kernel's clock may tick less often, and then so many samples are lost.
_INTERVAL: Final = 0.001


class Sampler:
    """Counts call stacks.

    Parameters
    ----------
    output
        Where they go: a line per stack, its functions from the outermost on, joined by ``;``, and how often it was
        seen, as tools that draw flame graphs expect it.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._stacks: Counter[tuple[str, ...]] = Counter()

    def start(self, *_: object) -> None:
        """Start to sample."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)

    def stop(self, *_: object) -> None:
        """Stop to sample, and write what was seen."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        lines = [f"{';'.join(stack)} {count}\n" for stack, count in self._stacks.items()]
        # Whoever waits for the file must not find half of it.
        written = self._output.with_suffix(".part")
        written.write_text("".join(lines))
        written.rename(self._output)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            stack.append(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        self._stacks[tuple(reversed(stack))] += 1


if __name__ == "__main__":
    sampler = Sampler(Path(sys.argv[1]))
    signal.signal(signal.SIGUSR1, sampler.start)
    signal.signal(signal.SIGUSR2, sampler.stop)
    sys.exit(main(sys.argv[2:]))
