"""Waits for a condition to hold."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_INTERVAL = 0.05


def wait_for(what: str, probe: Callable[[], T | None], timeout: float = 60) -> T:
    """Call a probe until it returns something true, and return that.

    Parameters
    ----------
    what
        What is waited for, for the error.
    probe
        Is called about 20 times a second. An exception ends the wait.
    timeout
        Seconds after which to give up.

    Raises
    ------
    TimeoutError
        With `what` and the last thing that the probe returned.
    """
    deadline = time.monotonic() + timeout
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}; the last look returned {result!r}")
        time.sleep(_INTERVAL)
    return result
