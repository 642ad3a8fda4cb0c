"""The election among several processes, each with a clock of its own, with time in our hands."""

from __future__ import annotations

import asyncio
import copy
import itertools
import random
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from disaggregatedset.cluster.client import ApiError, NotLeaderError
from disaggregatedset.cluster.lease import MARGIN, Election, Elector, Fence
from disaggregatedset.cluster.objects import Kind, Object
from tests.unit.runtime.virtual_time import VirtualTimeLoop

DURATION, DEADLINE, RETRY = 15, 10.0, 2.0


class LeaseServer:
    """Keeps one Lease, with optimistic locking.

    Attributes
    ----------
    lease
        As it is stored.
    writes
        Who wrote it, and when.
    """

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self.loop = loop
        self.lease: Object | None = None
        self.writes: list[tuple[str, float]] = []
        self._versions = itertools.count(1)

    @property
    def spec(self) -> Object:
        assert self.lease is not None
        spec: Object = self.lease["spec"]
        return spec

    @property
    def holder(self) -> str:
        return self.lease["spec"]["holderIdentity"] if self.lease is not None else ""

    def get(self) -> Object:
        if self.lease is None:
            raise ApiError(404, "NotFound", "no such lease")
        return copy.deepcopy(self.lease)

    def create(self, obj: Object) -> Object:
        if self.lease is not None:
            raise ApiError(409, "AlreadyExists", "there is one")
        return self._store(obj)

    def update(self, obj: Object) -> Object:
        if self.lease is None:
            raise ApiError(404, "NotFound", "no such lease")
        if obj["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        return self._store(obj)

    def label(self, value: str) -> None:
        """Change what says nothing about who leads."""
        lease = self.get()
        self._store(lease | {"metadata": lease["metadata"] | {"labels": {"a": value}}})

    def _store(self, obj: Object) -> Object:
        obj = copy.deepcopy(obj)
        obj["metadata"]["resourceVersion"] = str(next(self._versions))
        self.lease = obj
        self.writes.append((obj["spec"]["holderIdentity"], self.loop.now))
        return self.get()


class Connection:
    """One process's way to the server.

    Attributes
    ----------
    trouble
        What requests end with instead; None: they are carried out.
    slowness
        Seconds on the way there, and again on the way back.
    deaf
        Whether requests are carried out, but answers are lost.
    """

    def __init__(self, server: LeaseServer) -> None:
        self._server = server
        self.trouble: Exception | None = None
        self.deaf = False
        self.rng: random.Random | None = None
        self.gets = 0

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object:
        assert (kind.name, namespace, name) == ("Lease", "system", "operator")
        self.gets += 1
        return await self._ask(self._server.get)

    async def create(self, kind: Kind, manifest: Object) -> Object:
        return await self._ask(self._server.create, copy.deepcopy(manifest))

    async def update(self, kind: Kind, obj: Object) -> Object:
        return await self._ask(self._server.update, copy.deepcopy(obj))

    async def _ask(self, what: Any, *args: Any) -> Object:
        await self._travel()
        if self.trouble is not None:
            raise self.trouble
        answer: Object = what(*args)
        await self._travel()
        if self.deaf or (self.rng is not None and self.rng.random() < 0.05):
            raise ApiError(0, "TimeoutError", "the API server did not answer")
        return answer

    async def _travel(self) -> None:
        if self.rng is not None:
            await asyncio.sleep(self.rng.choice([0.01, 0.01, 0.01, 0.5, 3.0]))
            if self.rng.random() < 0.05:
                raise ApiError(0, "TimeoutError", "the API server did not answer")


class Process:
    """A process that wants to lead.

    Attributes
    ----------
    led
        How often it has begun to lead.
    """

    def __init__(self, server: LeaseServer, name: str, rate: float = 1.0) -> None:
        self.name = name
        self.rate = rate
        self._loop = server.loop
        self._start = server.loop.now
        self.connection = Connection(server)
        election = Election("operator", "system", name, DURATION, DEADLINE, RETRY)
        self.fence = Fence(election, self.now)
        self.elector = Elector(self.connection, election, self.fence, self._lead, self.now)
        self.led = 0
        self.error: Exception | None = None

    def now(self) -> float:
        return 7.0 + (self._loop.now - self._start) * self.rate

    async def _lead(self) -> None:
        self.led += 1
        if self.error is not None:
            raise self.error
        self.fence.open()
        await asyncio.Event().wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.elector.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def may_write(self) -> bool:
        try:
            with self.fence.write() as write:
                write.check()
                write.answered = True
        except NotLeaderError:
            return False
        return True

    async def until(self, may_write: bool) -> None:
        while self.may_write() != may_write:  # noqa: ASYNC110 - time is what is waited for
            await asyncio.sleep(0.01)


@pytest.fixture
def loop() -> Iterator[VirtualTimeLoop]:
    made = VirtualTimeLoop()
    yield made
    made.close()


@pytest.fixture
def server(loop: VirtualTimeLoop) -> LeaseServer:
    return LeaseServer(loop)


def run(loop: VirtualTimeLoop, work: Coroutine[Any, Any, None]) -> None:
    loop.run_until_complete(work)


def test_the_first_takes_the_lease_and_renews_it(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a = Process(server, "a")

    async def story() -> None:
        assert not a.may_write(), "nobody leads before the election"
        async with a.running():
            await asyncio.sleep(21)
            assert a.elector.leads
            assert a.may_write()
            assert (server.spec["holderIdentity"], server.spec["leaseDurationSeconds"]) == ("a", DURATION)
            assert server.spec["leaseTransitions"] == 0
            assert server.spec["acquireTime"] < server.spec["renewTime"]
            assert server.spec["renewTime"].endswith("Z")
            times = [at - server.writes[0][1] for _, at in server.writes]
            assert times == pytest.approx([RETRY * n for n in range(11)])
            assert a.connection.gets == 1, "a holder doesn't look, it writes"
        assert not a.may_write(), "what has ended doesn't lead"

    run(loop, story())
    assert a.led == 1


def test_a_standby_waits_for_what_it_has_seen_itself(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a, b = Process(server, "a"), Process(server, "b")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(100)
        ended = loop.now
        last = server.writes[-1][1]
        # Whatever the wall clock in the record says.
        assert server.lease is not None
        server.lease["spec"]["renewTime"] = "2001-01-01T00:00:00.000000Z"
        async with b.running():
            while not b.elector.leads:
                assert not b.may_write()
                await asyncio.sleep(0.1)
            taken = server.writes[-1][1]
            assert taken >= ended + DURATION, "it first saw it then"
            assert taken <= ended + DURATION * (1 + MARGIN) + 1.1
            assert taken > last + DURATION
            assert server.spec["leaseTransitions"] == 1
            assert server.spec["acquireTime"] == server.spec["renewTime"]
            await asyncio.sleep(0)
            assert b.may_write()

    run(loop, story())


def test_a_standby_does_not_disturb(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a, b = Process(server, "a"), Process(server, "b")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(1)
            async with b.running():
                await asyncio.sleep(300)
                assert a.elector.leads
                assert not b.elector.leads
                assert {who for who, _ in server.writes} == {"a"}
                assert b.connection.gets == pytest.approx(300, abs=2), "once a second"

    run(loop, story())


def test_what_is_released_is_taken_within_two_seconds(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a, b = Process(server, "a"), Process(server, "b")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(1)
            async with b.running():
                await asyncio.sleep(10)
        await a.elector.resign()
        released = loop.now
        assert server.spec["holderIdentity"] == ""
        async with b.running():
            await b.until(True)
            assert loop.now <= released + 2
            await a.elector.resign()
            assert server.holder == "b", "what is not held is not released"

    run(loop, story())


def test_a_holder_that_cannot_renew_stops_before_anybody_else_begins(
    loop: VirtualTimeLoop, server: LeaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = Process(server, "a"), Process(server, "b")

    async def story() -> None:
        async with a.running(), b.running():
            await asyncio.sleep(5)
            assert (a.elector.leads, b.elector.leads) == (True, False)
            a.connection.trouble = ApiError(0, "ClientConnectorError", "the API server did not answer")
            last = server.writes[-1][1]
            await a.until(False)
            assert loop.now == pytest.approx(last + DEADLINE, abs=0.02)
            while not b.may_write():
                assert not a.may_write()
                await asyncio.sleep(0.01)
            assert loop.now >= last + DURATION
            assert (
                "lost the lease system/operator: it could not be renewed in time: the API server did not" in caplog.text
            )
            a.connection.trouble = None
            await asyncio.sleep(60)
            assert not a.may_write(), "it stays as a standby"
            assert b.may_write()

    run(loop, story())


def test_a_holder_alone_leads_again_when_the_server_is_back(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a = Process(server, "a")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(5)
            a.connection.trouble = ApiError(503, "ServiceUnavailable", "etcd is down")
            await asyncio.sleep(120)
            assert not a.elector.leads
            a.connection.trouble = None
            back = loop.now
            await a.until(True)
            assert loop.now <= back + 1.1, "the record still names it, so nobody else can have led"
            assert server.spec["leaseTransitions"] == 0
            assert a.led == 2

    run(loop, story())


def test_a_lost_answer_is_no_lost_lease(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a = Process(server, "a")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(3)
            a.connection.deaf = True
            await asyncio.sleep(5)
            a.connection.deaf = False
            await asyncio.sleep(30)
            assert a.led == 1

    run(loop, story())


def test_somebody_who_labels_the_lease_takes_nothing(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a = Process(server, "a")

    async def story() -> None:
        async with a.running():
            for n in range(30):
                await asyncio.sleep(1)
                server.label(str(n))
            await asyncio.sleep(5)
            assert a.led == 1
            assert server.lease is not None
            assert server.lease["metadata"]["labels"] == {"a": "29"}, "what others write stays"

    run(loop, story())


@pytest.mark.parametrize("gone", [True, False], ids=["deleted", "taken by hand"])
def test_a_lease_that_is_taken_away(
    loop: VirtualTimeLoop, server: LeaseServer, caplog: pytest.LogCaptureFixture, gone: bool
) -> None:
    a, b = Process(server, "a"), Process(server, "b")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(1)
            async with b.running():
                await asyncio.sleep(10)
                if gone:
                    server.lease = None
                else:
                    server.spec["holderIdentity"] = "by hand"
                    server.label("changed")
                while a.elector.leads:
                    assert not b.may_write()
                    await asyncio.sleep(0.1)
                assert not a.may_write()
                await asyncio.sleep(60)
                assert a.may_write() != b.may_write()

    run(loop, story())
    assert ("it was deleted" if gone else "by hand holds it") in caplog.text


def test_a_standby_does_not_take_a_lease_that_was_deleted_under_its_holder(
    loop: VirtualTimeLoop, server: LeaseServer
) -> None:
    a, b = Process(server, "a"), Process(server, "b")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(1)
            async with b.running():
                await asyncio.sleep(5)
                a.connection.trouble = ApiError(0, "TimeoutError", "no answer")
                server.lease = None
                deleted = loop.now
                while not b.may_write():
                    assert loop.now < deleted + 30
                    await asyncio.sleep(0.1)
                assert loop.now >= deleted + DURATION
                assert not a.may_write()

    run(loop, story())


def test_a_process_that_stood_still_leads_no_more(
    loop: VirtualTimeLoop, server: LeaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    a = Process(server, "a")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(5)
            with a.fence.write() as waiting:  # for a connection
                loop.now += 20  # nothing runs meanwhile
                assert not a.may_write(), "before anything else has run"
                with pytest.raises(NotLeaderError, match="the lease was not renewed for 10 s"):
                    waiting.check()
                await asyncio.sleep(10)
                assert a.led == 2
                assert a.may_write(), "it leads again"
                with pytest.raises(NotLeaderError, match="leads anew"):
                    waiting.check()
            assert a.fence.seconds_unknown == 0, "it was never sent"

    run(loop, story())
    assert "this process stood still" in caplog.text


def test_writes_get_the_time_that_is_left(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a = Process(server, "a")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(0.1)
            a.connection.trouble = ApiError(0, "TimeoutError", "no answer")
            await asyncio.sleep(8)
            with a.fence.write() as write:
                assert write.seconds == pytest.approx(DURATION - 8.1)
                await asyncio.sleep(1)
                assert write.seconds == pytest.approx(DURATION - 9.1)
                write.check()

    run(loop, story())


def test_resigning_waits_for_writes_that_are_under_way(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a = Process(server, "a")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(1)
            write = a.fence.write()
            under_way = write.__enter__()
            under_way.check()
        resigning = asyncio.create_task(a.elector.resign())
        await asyncio.sleep(1)
        assert server.holder == "a"
        assert not a.may_write(), "no other write starts"
        under_way.answered = True
        write.__exit__(None, None, None)
        await resigning
        assert server.holder == ""

    run(loop, story())


def test_a_lease_is_not_released_under_a_write_that_was_not_answered(
    loop: VirtualTimeLoop, server: LeaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    a = Process(server, "a")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(1)
            with a.fence.write() as write:
                write.sent = True
            assert 0 < a.fence.seconds_unknown <= DURATION
        await a.elector.resign()
        assert server.holder == "a"
        assert "a write was not answered" in caplog.text
        await asyncio.sleep(DURATION)
        await a.elector.resign()
        assert server.holder == "", "now it is sure that it won't be carried out"

    run(loop, story())


@pytest.mark.parametrize("status", [404, 409, 500])
def test_releasing_is_tried(loop: VirtualTimeLoop, server: LeaseServer, status: int) -> None:
    a = Process(server, "a")

    async def story() -> None:
        async with a.running():
            await asyncio.sleep(1)
        a.connection.trouble = ApiError(status, "Any", "no")
        await a.elector.resign()

    run(loop, story())


@pytest.mark.parametrize("trouble", [ApiError(500, "InternalError", "etcd is down"), KeyError("metadata")])
def test_no_answer_ends_the_campaign(loop: VirtualTimeLoop, server: LeaseServer, trouble: Exception) -> None:
    a = Process(server, "a")

    async def story() -> None:
        a.connection.trouble = trouble
        async with a.running():
            await asyncio.sleep(60)
            a.connection.trouble = None
            await asyncio.sleep(5)
            assert a.may_write()
            a.connection.trouble = trouble
            await asyncio.sleep(60)
            assert not a.may_write()
            a.connection.trouble = None
            await asyncio.sleep(20)
            assert a.may_write()

    run(loop, story())


def test_an_error_in_leading_is_not_hidden(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    a = Process(server, "a")
    a.error = RuntimeError("a bug")

    async def story() -> None:
        with pytest.raises(RuntimeError, match="a bug"):
            await a.elector.run()

    run(loop, story())


def test_a_foreign_record_that_says_little(loop: VirtualTimeLoop, server: LeaseServer) -> None:
    server.lease = {"metadata": {"name": "operator", "resourceVersion": "x"}, "spec": {"holderIdentity": "other"}}
    a = Process(server, "a")

    async def story() -> None:
        async with a.running():
            started = loop.now
            await a.until(True)
            assert loop.now >= started + DURATION
            assert server.spec["leaseTransitions"] == 1

    run(loop, story())


@pytest.mark.parametrize("seed", range(10, 40))
def test_no_write_lands_while_somebody_else_holds_the_lease(seed: int) -> None:  # noqa: C901 - a simulation
    """Three processes, each with a clock of its own and a slow and lossy way to the server; all stop at times."""
    loop = VirtualTimeLoop()
    rng = random.Random(seed)
    server = LeaseServer(loop)
    landed: list[str] = []

    async def write(process: Process) -> None:
        """Write all the time, as fast as the fence lets through, and as slowly as it allows."""
        while True:
            await asyncio.sleep(rng.uniform(0.2, 2))
            try:
                with process.fence.write() as write:
                    await asyncio.sleep(rng.choice([0, 0, 1, 6, 12]))  # for a connection
                    write.check()
                    write.sent = True
                    most = write.seconds / process.rate
                    await asyncio.sleep(min(most, rng.choice([0.01, 1, 20])))
                    assert server.holder == process.name, "somebody else may be writing"
                    landed.append(process.name)
                    write.answered = rng.random() < 0.5
            except NotLeaderError:
                pass

    async def trouble(process: Process) -> None:
        while True:
            await asyncio.sleep(rng.uniform(0, 60))
            process.connection.trouble = rng.choice(
                [None, None, ApiError(0, "TimeoutError", "no answer"), ApiError(500, "InternalError", "no")]
            )
            if rng.random() < 0.2:
                loop.now += rng.uniform(0, 30)

    async def come_and_go(process: Process) -> None:
        while True:
            async with process.running():
                await asyncio.sleep(rng.uniform(10, 120))
            if rng.random() < 0.7:
                await process.elector.resign()

    async def story() -> None:
        processes = [Process(server, name, rate) for name, rate in zip("abc", (1.0, 1.02, 0.98), strict=True)]
        parts: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as tasks:
            for process in processes:
                process.connection.rng = rng
                parts += [tasks.create_task(part(process)) for part in (come_and_go, trouble, write, write)]
            await asyncio.sleep(400)
            for part in parts:
                part.cancel()

    loop.run_until_complete(story())
    loop.close()
    assert len(landed) > 20
    assert len(set(landed)) > 1
