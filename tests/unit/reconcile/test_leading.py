"""A controller that is one of several: warm while it does not lead, and up to date before it writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.client import Client
from disaggregatedset.cluster.events import Recorder
from disaggregatedset.cluster.lease import Election, Fence
from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile.controller import WATCHED, Controller
from disaggregatedset.reconcile.reconciler import Reconciler, Result
from disaggregatedset.reconcile.view import SET
from disaggregatedset.render import SET_LABEL
from disaggregatedset.runtime.health import Vitals
from disaggregatedset.runtime.queue import WorkQueue
from tests.unit.builders import full_spec, live
from tests.unit.fake_api_server import FakeApiServer, Object, status_of

KEY = Key("inference", "llama")
SETS = "/apis/disaggregatedset.dev/v1alpha1/namespaces/inference/disaggregatedsets"


def _set(name: str = "llama", namespace: str = "inference") -> Object:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-of-{name}", "labels": {}}
    return {"apiVersion": SET.api_version, "kind": SET.name, "metadata": metadata, "spec": full_spec()}


class Replica:
    """The operator without kopf and without a Lease: the test elects.

    Attributes
    ----------
    reconciled
        What was reconciled, in order.
    """

    def __init__(self, server: FakeApiServer, *namespaces: str) -> None:
        self.fence = Fence(Election("x", "x", "x", duration=3600, renew_deadline=1800))
        self.client: Client = server.client(timeout=5, fence=self.fence)
        self.cache = Cache(WATCHED, SET_LABEL)
        self.queue: WorkQueue[Key] = WorkQueue()
        self.vitals = Vitals(3600)
        self.reconciled: list[Key] = []
        recorder = Recorder(self.client, controller="test", instance="test")
        self.reconciler = Reconciler(self.client, self.cache, recorder)
        self.controller = Controller(
            self.client,
            self.cache,
            self.queue,
            self.reconciler,
            namespaces=namespaces,
            elected=True,
            vitals=self.vitals,
        )
        self._reconcile = self.reconciler.reconcile
        self.reconciler.reconcile = self._noted  # type: ignore[method-assign]

    async def _noted(self, key: Key) -> Result:
        self.reconciled.append(key)
        return await self._reconcile(key)

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        def begin() -> None:
            self.fence.renewed(self.fence._now())
            self.fence.open()

        async with self.controller.leading(begin):
            try:
                yield
            finally:
                self.fence.close()

    def at_rest(self) -> bool:
        return not len(self.queue) and not self.queue._working


@pytest.fixture
async def replica(server: FakeApiServer) -> AsyncIterator[Replica]:
    """A replica that has seen what there is, with two workers."""
    server.put("/apis/resource.k8s.io/v1/deviceclasses/gpu.example.com", {"metadata": {"name": "gpu.example.com"}})
    server.put(
        "/apis/resource.k8s.io/v1/namespaces/inference/resourceclaimtemplates/other", {"metadata": {"name": "o"}}
    )
    server.put(f"{SETS}/llama", _set())
    made = Replica(server)
    await made.controller.resync()
    workers = [asyncio.create_task(made.controller.work()) for _ in range(2)]
    yield made
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)
    await made.client.close()


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for is at the other end of a connection
            await asyncio.sleep(0.001)


async def _a_while() -> None:
    for _ in range(50):
        await asyncio.sleep(0.001)


async def test_a_standby_sees_everything_and_does_nothing(server: FakeApiServer, replica: Replica) -> None:
    replica.controller.observe(SET, "ADDED", live(_set("other"), name="other", resourceVersion="99"))
    await replica.controller.resync()
    await _a_while()
    assert replica.cache.get(SET, KEY) is not None
    assert replica.controller.synced.is_set()
    assert (len(replica.queue), replica.reconciled, server.writes()) == (0, [], [])


async def test_everything_is_listed_anew_before_the_first_write(server: FakeApiServer, replica: Replica) -> None:
    """What the former leader has written last, no watch may have told yet."""
    server.edit(f"{SETS}/llama", lambda obj: obj["metadata"].update(annotations={"new": "yes"}))
    server.requests.clear()
    async with replica.leading():
        await _until(server.writes)
        lists = [
            r for r in server.requests if r.method == "GET" and r.path == SETS.replace("/namespaces/inference", "")
        ]
        assert server.requests.index(lists[0]) < next(i for i, r in enumerate(server.requests) if r.method != "GET")
        known = replica.cache.get(SET, KEY)
        assert known is not None
        assert known["metadata"]["annotations"] == {"new": "yes"}
        await _until(replica.at_rest)
    assert replica.reconciled[0] == KEY


async def test_it_does_not_lead_before_it_could_list(server: FakeApiServer, replica: Replica) -> None:
    server.answers.append(status_of(500, "InternalError", "etcd is down"))
    async with replica.leading():
        assert server.answers == []
        await _until(server.writes)


async def test_a_leader_that_is_none_any_more_stops_at_the_next_write(
    server: FakeApiServer, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with replica.leading():
        server.stuck.clear()
        before = len(server.requests)
        await _until(lambda: any(r.method != "GET" for r in server.requests[before:]))
    # The answer to what is under way comes when another leads.
    replica.controller.observe(SET, "ADDED", live(_set("other"), name="other", resourceVersion="99"))
    sent = len(server.writes())
    server.stuck.set()
    await _until(replica.at_rest)
    await _a_while()
    assert len(server.writes()) == sent
    assert replica.reconciled == [KEY]
    assert "inference/llama: not written: this process does not lead" in caplog.text
    assert not replica.queue._delayed


async def test_a_new_term_waits_for_what_the_last_one_has_begun(server: FakeApiServer, replica: Replica) -> None:
    async with replica.leading():
        server.stuck.clear()
        before = len(server.requests)
        await _until(lambda: any(r.method != "GET" for r in server.requests[before:]))
    began = asyncio.Event()

    async def lead() -> None:
        async with replica.leading():
            began.set()
            await asyncio.Event().wait()

    leading = asyncio.create_task(lead())
    await _a_while()
    requests = len(server.requests)
    assert not began.is_set()
    server.stuck.set()
    await began.wait()
    assert len(server.requests) > requests
    await _until(lambda: replica.reconciled.count(KEY) > 1)
    leading.cancel()
    await asyncio.wait([leading])


async def test_what_failed_before_is_tried_at_once(server: FakeApiServer, replica: Replica) -> None:
    failures = [True]

    async def fail(key: Key) -> Result:
        replica.reconciled.append(key)
        return Result(failed=bool(failures))

    replica.reconciler.reconcile = fail  # type: ignore[method-assign]
    async with replica.leading():
        await _until(lambda: len(replica.reconciled) >= 4)
    await _a_while()
    count = len(replica.reconciled)
    assert not replica.queue._delayed
    failures.clear()
    async with replica.leading():
        await _until(lambda: len(replica.reconciled) > count)
        assert not replica.queue._failures


async def test_sets_that_have_gone_meanwhile_are_forgotten(server: FakeApiServer, replica: Replica) -> None:
    async with replica.leading():
        await _until(lambda: replica.reconciled and replica.at_rest())
    replica.controller.observe(SET, "DELETED", server.remove(f"{SETS}/llama"))
    replica.reconciled.clear()
    async with replica.leading():
        await _until(lambda: replica.reconciled == [KEY])
        await _until(replica.at_rest)


async def test_resting(server: FakeApiServer, replica: Replica) -> None:
    async with replica.leading():
        await _until(lambda: replica.reconciled)
        await replica.controller.rest(10)
        assert not replica.queue._working
        replica.controller.observe(SET, "ADDED", live(_set("other"), name="other", resourceVersion="99"))
        await _a_while()
        assert Key("inference", "other") not in replica.reconciled


async def test_some_namespaces(server: FakeApiServer) -> None:
    for namespace in ("a", "b", "c"):
        path = SETS.replace("inference", namespace)
        server.put(f"{path}/llama", _set(namespace=namespace))
    server.put("/apis/resource.k8s.io/v1/deviceclasses/gpu.example.com", {"metadata": {"name": "gpu.example.com"}})
    server.put("/apis/resource.k8s.io/v1/namespaces/a/resourceclaimtemplates/other", {"metadata": {"name": "o"}})
    replica = Replica(server, "a", "b")
    await replica.controller.resync()
    assert {objects.key_of(o).namespace for o in replica.cache.all(SET)} == {"a", "b"}
    paths = {r.path for r in server.requests if r.path.count("/") > 3}
    assert "/apis/apps/v1/namespaces/a/deployments" in paths
    assert {p for p in paths if "/namespaces/" not in p} == {"/apis/resource.k8s.io/v1/deviceclasses"}
    server.remove(f"{SETS.replace('inference', 'a')}/llama")
    await replica.controller.resync()
    assert {objects.key_of(o).namespace for o in replica.cache.all(SET)} == {"b"}
    await replica.client.close()


async def test_a_silent_watch_shows(server: FakeApiServer, replica: Replica) -> None:
    def change(number: int) -> None:
        server.edit(f"{SETS}/llama", lambda obj: obj["metadata"].update(annotations={"n": str(number)}))

    for number in range(4):
        change(number)
        await replica.controller.resync()
    assert "watch of disaggregatedsets" in (replica.vitals.problem() or "")
    replica.controller.observe(SET, "MODIFIED", dict(server.objects[f"{SETS}/llama"]))
    assert replica.vitals.problem() is None
    for number in range(10, 20):
        change(number)
        await replica.controller.resync()
        replica.controller.observe(SET, "MODIFIED", dict(server.objects[f"{SETS}/llama"]))
        assert replica.vitals.problem() is None


async def test_an_api_server_that_is_down_is_no_reason_to_restart(server: FakeApiServer, replica: Replica) -> None:
    replica.vitals._patience = 0.5
    server.answers += [status_of(500, "InternalError", "etcd is down") for _ in range(2)]
    syncing = asyncio.create_task(replica.controller.keep_in_sync(3600))
    await _until(lambda: len(server.answers) < 2)
    await _a_while()
    assert replica.vitals.problem() is None
    syncing.cancel()
