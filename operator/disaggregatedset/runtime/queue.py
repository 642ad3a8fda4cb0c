"""A work queue of keys, with the guarantees of client-go's: a key waits at most once, and is worked on by one worker.

A key that is added while it is worked on is handed out again when that work is done. Failed keys come back after an
exponentially growing time, with jitter; a delayed key comes back when the earliest of its delays is over.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

from disaggregatedset.runtime.metrics import QUEUE_ADDS, QUEUE_DEPTH, QUEUE_LATENCY, QUEUE_RETRIES

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """A queue of distinct keys, for one event loop.

    Parameters
    ----------
    base_delay
        The first delay of a failed key, in seconds; it doubles with each failure in a row.
    max_delay
        The longest delay of a failed key, in seconds.
    rng
        Source of the jitter.
    """

    def __init__(self, *, base_delay: float = 0.05, max_delay: float = 60.0, rng: random.Random | None = None) -> None:
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._rng = rng or random.Random()  # noqa: S311 - jitter needs no secrecy
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: dict[K, float] = {}  # since when, by the monotonic clock
        self._working: set[K] = set()
        self._delayed: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K) -> None:
        """Hand the key to a worker as soon as one is free."""
        if (timer := self._delayed.pop(key, None)) is not None:
            timer.cancel()
        if key in self._waiting:
            return
        QUEUE_ADDS.inc()
        self._waiting[key] = time.monotonic()
        QUEUE_DEPTH.set(len(self._waiting))
        if key not in self._working:
            self._ready.put_nowait(key)

    def add_after(self, key: K, delay: float) -> None:
        """Add the key after a delay in seconds, unless it is added earlier."""
        if delay <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._delayed.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + delay:
                return
            timer.cancel()
        self._delayed[key] = loop.call_later(delay, self._due, key)

    def retry(self, key: K, *, at_least: float = 0.0, at_most: float = float("inf")) -> float:
        """Add a failed key after its backoff, and return the delay in seconds.

        Parameters
        ----------
        key
            The key.
        at_least, at_most
            Bounds of the delay, in seconds; the first wins.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        QUEUE_RETRIES.inc()
        delay = min(self._max_delay, at_most, self._base_delay * 2.0 ** min(failures, 30))
        delay = max(at_least, delay * self._rng.uniform(0.5, 1.0))
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """Forget the failures of a key."""
        self._failures.pop(key, None)

    def clear(self) -> set[K]:
        """Forget all keys but those that are worked on, with their delays and failures, and return them."""
        dropped = {*self._waiting, *self._delayed}
        for timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        self._failures.clear()
        self._waiting.clear()
        while not self._ready.empty():
            self._ready.get_nowait()
        QUEUE_DEPTH.set(0)
        return dropped

    async def get(self) -> K:
        """Wait for a key; call :meth:`done` when the work on it is over."""
        key = await self._ready.get()
        QUEUE_LATENCY.observe(time.monotonic() - self._waiting.pop(key))
        QUEUE_DEPTH.set(len(self._waiting))
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """Take note that the work on a key is over."""
        self._working.discard(key)
        if key in self._waiting:
            self._ready.put_nowait(key)

    def _due(self, key: K) -> None:
        del self._delayed[key]
        self.add(key)
