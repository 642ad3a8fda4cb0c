"""When a status is written that can wait.

While a set comes up or rolls, its numbers change with every pod, and each write of a status costs the API server more
than the pod's. So numbers wait a second, to be written together, and those of all sets are written at most so many a
second: one set is always up to date, and a thousand that start at once don't drown the API server in their numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from disaggregatedset.cluster.objects import Key

WAIT_SECONDS: Final = 1.0
APART_SECONDS: Final = 0.25


class Pace:
    """Gives each status that can wait its turn. Forgetting it costs a write.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turns: dict[Key, float] = {}
        self._last = 0.0

    def turn_in(self, key: Key) -> float:
        """Say in how many seconds it is the turn of a set; 0: now."""
        now = self._clock()
        if key not in self._turns:
            self._last = max(now + WAIT_SECONDS, self._last + APART_SECONDS)
            self._turns[key] = self._last
        return max(0.0, self._turns[key] - now)

    def forget(self, key: Key) -> None:
        """Forget a set whose status is written, or need not be."""
        self._turns.pop(key, None)
