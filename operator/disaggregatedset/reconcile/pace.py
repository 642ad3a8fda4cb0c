"""When a status is written that can wait.

While a set comes up or rolls, its numbers change with every pod, and each write of a status costs the API server more
than the pod's. So numbers wait a second, to be written together, and those of all sets are written at most so many a
second: one set is always up to date, and a thousand that start at once don't drown the API server in their numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from disaggregatedset.cluster.objects import Key


class Pace:
    """Gives each status that can wait its turn. Forgetting it costs a write.

    Parameters
    ----------
    wait
        Seconds that one waits at least.
    apart
        Seconds between two of them.
    clock
        Seconds that never go back.
    """

    def __init__(self, wait: float = 1.0, apart: float = 0.25, clock: Callable[[], float] = time.monotonic) -> None:
        self._wait = wait
        self._apart = apart
        self._clock = clock
        self._turns: dict[Key, float] = {}
        self._last = 0.0

    def turn_in(self, key: Key) -> float:
        """Say in how many seconds it is the turn of a set; 0: now."""
        now = self._clock()
        if key not in self._turns:
            self._last = max(now + self._wait, self._last + self._apart)
            self._turns[key] = self._last
        return max(0.0, self._turns[key] - now)

    def forget(self, key: Key) -> None:
        """Forget a set whose status is written, or need not be."""
        self._turns.pop(key, None)
