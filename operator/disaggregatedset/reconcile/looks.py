"""When to look at the pods of a set: only while a role is not as desired, soon at first and then less and less often.

Pods are the busiest kind of a cluster, so they are not watched; their Deployments' status says when they change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from disaggregatedset.cluster.objects import Key

FIRST_SECONDS: Final = 3.0
LONGEST_SECONDS: Final = 60.0
#: What changes all the time is looked at this often.
ALWAYS_CHANGING_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Look:
    seen: Hashable
    due: float
    interval: float
    since: float


class Looks:
    """Keeps, for each set, when its pods are looked at next. Forgetting it costs one more look.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: dict[Key, _Look] = {}

    def due_in(self, key: Key, seen: Hashable, *, at_once: bool) -> float:
        """Say in how many seconds the pods should be looked at; 0: now.

        Parameters
        ----------
        key
            The set.
        seen
            What its Deployments say; a change starts from the shortest interval again.
        at_once
            Whether an unknown set is looked at without a delay.
        """
        now = self._clock()
        look = self._looks.get(key)
        if look is None or look.seen != seen:
            first = 0.0 if at_once and look is None else FIRST_SECONDS
            since = look.since if look is not None else now
            due = min(now + first, since + ALWAYS_CHANGING_SECONDS)
            look = self._looks[key] = _Look(seen, due, FIRST_SECONDS, since)
        return max(0.0, look.due - now)

    def looked(self, key: Key) -> float:
        """Take note that the pods were looked at, and say in how many seconds to look again."""
        look = self._looks[key]
        look.interval = min(LONGEST_SECONDS, look.interval * 2)
        look.since = self._clock()
        look.due = look.since + look.interval
        return look.interval

    def forget(self, key: Key) -> None:
        """Forget a set that is as desired, or gone."""
        self._looks.pop(key, None)
