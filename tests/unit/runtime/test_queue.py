"""The queue's guarantees, under any order of calls and with the clock in our hands."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import REGISTRY

from disaggregatedset.runtime.queue import WorkQueue
from tests.unit.runtime.virtual_time import VirtualTimeLoop

KEYS = st.sampled_from("abc")
DELAYS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0])


class QueueMachine(RuleBasedStateMachine):
    """Compares a queue with what its docstring says."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.queue: WorkQueue[str] = WorkQueue(base_delay=1.0, max_delay=8.0, rng=random.Random(0))
        self.waiting: set[str] = set()
        self.working: set[str] = set()
        self.due: dict[str, float] = {}
        self.failures: dict[str, int] = {}

    def teardown(self) -> None:
        """Nothing is lost: with time and workers, every key that was added is handed out."""
        self.pass_time(100.0)
        for key in list(self.working):
            self.done(key)
        while self.waiting:
            self.done(self.get())
        assert len(self.queue) == 0
        self.loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _call(self, method: Any, *args: Any) -> Any:
        return method(*args)

    def _later(self, key: str, delay: float) -> None:
        if delay <= 0:
            self._now(key)
        else:
            self.due[key] = min(self.due.get(key, float("inf")), self.loop.now + delay)

    def _now(self, key: str) -> None:
        self.due.pop(key, None)
        self.waiting.add(key)

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self._now(key)

    @rule(key=KEYS, delay=DELAYS)
    def add_after(self, key: str, delay: float) -> None:
        self._run(self._call(self.queue.add_after, key, delay))
        self._later(key, delay)

    @rule(key=KEYS, at_least=DELAYS)
    def retry(self, key: str, at_least: float) -> None:
        delay = self._run(self._retry(key, at_least))
        longest = min(8.0, 2.0 ** self.failures.get(key, 0))
        assert max(at_least, longest / 2) <= delay <= max(at_least, longest)
        self.failures[key] = self.failures.get(key, 0) + 1
        self._later(key, delay)

    async def _retry(self, key: str, at_least: float) -> float:
        return self.queue.retry(key, at_least=at_least)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.failures.pop(key, None)

    @precondition(lambda self: self.waiting - self.working)
    @rule()
    def start(self) -> None:
        self.get()

    def get(self) -> str:
        key: str = self._run(self.queue.get())
        assert key in self.waiting
        assert key not in self.working
        self.waiting.discard(key)
        self.working.add(key)
        return key

    @rule()
    def give_up_waiting(self) -> None:
        """A worker that is cancelled while it waits takes no key with it."""
        if self.waiting - self.working:
            return
        self._run(self._wait_in_vain())

    async def _wait_in_vain(self) -> None:
        waiting = asyncio.create_task(self.queue.get())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done(), "handed out a key that is worked on, or that nobody added"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.done(data.draw(st.sampled_from(sorted(self.working))))

    def done(self, key: str) -> None:
        self.queue.done(key)
        self.working.discard(key)

    @rule(seconds=DELAYS)
    def pass_time(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))
        for key, due in list(self.due.items()):
            if due <= self.loop.now:
                self._now(key)

    @invariant()
    def as_many_wait_as_were_added(self) -> None:
        assert len(self.queue) == len(self.waiting)


TestQueueMachine = QueueMachine.TestCase


@pytest.fixture
def loop() -> Iterator[VirtualTimeLoop]:
    made = VirtualTimeLoop()
    yield made
    made.close()


def test_the_earliest_delay_wins(loop: VirtualTimeLoop) -> None:
    async def run() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", 5)
        queue.add_after("a", 2)
        queue.add_after("a", 9)
        queue.add_after("b", 3)
        return [(await queue.get(), loop.now - 1000) for _ in range(2)]

    assert loop.run_until_complete(run()) == [("a", 2), ("b", 3)]


def test_a_key_that_is_added_at_once_does_not_come_back_later(loop: VirtualTimeLoop) -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", 5)
        queue.add("a")
        assert await queue.get() == "a"
        queue.done("a")
        await asyncio.sleep(10)
        assert len(queue) == 0

    loop.run_until_complete(run())


def test_failures_come_back_later_and_later_until_they_are_forgotten(loop: VirtualTimeLoop) -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue(base_delay=1, max_delay=10)
        delays = [queue.retry("a") for _ in range(6)]
        for delay, longest in zip(delays, [1, 2, 4, 8, 10, 10], strict=True):
            assert longest / 2 <= delay <= longest
        assert queue.retry("b") <= 1, "each key has failures of its own"
        queue.forget("a")
        assert queue.retry("a") <= 1

    loop.run_until_complete(run())


def test_backoff_has_jitter_and_never_overflows(loop: VirtualTimeLoop) -> None:
    async def run() -> None:
        queue: WorkQueue[int] = WorkQueue(base_delay=1, max_delay=10, rng=random.Random(1))
        assert len({queue.retry(key) for key in range(20)}) == 20
        for _ in range(2000):
            assert queue.retry(0) <= 10

    loop.run_until_complete(run())


def test_a_retry_comes_no_later_than_it_may(loop: VirtualTimeLoop) -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue(base_delay=1, max_delay=60)
        assert max(queue.retry("a", at_most=5) for _ in range(20)) <= 5
        assert queue.retry("a") > 5
        assert queue.retry("a", at_least=30, at_most=5) == 30

    loop.run_until_complete(run())


def test_a_server_that_asks_to_wait_longer_is_obeyed(loop: VirtualTimeLoop) -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue(base_delay=1, max_delay=10)
        assert queue.retry("a", at_least=30) == 30
        assert await queue.get() == "a"
        assert loop.now == 1030

    loop.run_until_complete(run())


def test_keys_come_in_the_order_in_which_they_were_added(loop: VirtualTimeLoop) -> None:
    async def run() -> list[str]:
        queue: WorkQueue[str] = WorkQueue()
        for key in "abcab":
            queue.add(key)
        return [await queue.get() for _ in range(3)]

    assert loop.run_until_complete(run()) == ["a", "b", "c"]


def test_clearing_forgets_all_but_what_is_worked_on(loop: VirtualTimeLoop) -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue(base_delay=1)
        for key in "ab":
            queue.add(key)
        assert await queue.get() == "a"
        queue.add("a")
        queue.add_after("c", 5)
        queue.retry("d")
        getting = asyncio.create_task(queue.get())  # it is about to get b
        await asyncio.sleep(0)
        assert await getting == "b"
        getting = asyncio.create_task(queue.get())
        assert queue.clear() == {"a", "c", "d"}
        assert len(queue) == 0
        await asyncio.sleep(20)
        assert not getting.done()
        queue.done("a")
        queue.done("b")
        assert not getting.done(), "it was added again while it was worked on, but forgotten since"
        assert queue.retry("d") <= 1, "its failures are forgotten"
        queue.add("a")
        assert await getting == "a"

    loop.run_until_complete(run())


def test_metrics(loop: VirtualTimeLoop) -> None:
    def value(name: str) -> float:
        return REGISTRY.get_sample_value(name) or 0.0

    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        adds, retries, waited = (
            value(name)
            for name in ("workqueue_adds_total", "workqueue_retries_total", "workqueue_queue_duration_seconds_count")
        )
        queue.add("a")
        queue.add("a")
        queue.add("b")
        assert value("workqueue_depth") == 2
        await queue.get()
        assert value("workqueue_depth") == 1
        queue.retry("a")
        assert value("workqueue_adds_total") == adds + 2
        assert value("workqueue_retries_total") == retries + 1
        assert value("workqueue_queue_duration_seconds_count") == waited + 1

    loop.run_until_complete(run())
