"""From events and lists to keys on the queue, and whole reconciles, against an API server of our own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.client import Client
from disaggregatedset.cluster.events import Recorder
from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile.controller import WATCHED, Controller
from disaggregatedset.reconcile.reconciler import Reconciler
from disaggregatedset.reconcile.view import SET
from disaggregatedset.render import SET_LABEL, deployment
from disaggregatedset.runtime.queue import WorkQueue
from tests.unit.builders import World, full_spec, live, make_set
from tests.unit.fake_api_server import FakeApiServer, Object, status_of

KEY = Key("inference", "llama")
SET_PATH = "/apis/disaggregatedset.dev/v1alpha1/namespaces/inference/disaggregatedsets/llama"
DEPLOYMENTS = "/apis/apps/v1/namespaces/inference/deployments"


def _set_object(spec: Object | None = None) -> Object:
    metadata = {"name": "llama", "namespace": "inference", "uid": "uid-of-set", "labels": {}}
    return {"apiVersion": SET.api_version, "kind": SET.name, "metadata": metadata, "spec": spec or full_spec()}


class Operator:
    """The operator without kopf."""

    def __init__(self, client: Client) -> None:
        self.cache = Cache(WATCHED, SET_LABEL)
        self.queue: WorkQueue[Key] = WorkQueue()
        recorder = Recorder(client, controller="test", instance="test")
        self.controller = Controller(client, self.cache, self.queue, Reconciler(client, self.cache, recorder))

    def keys(self) -> set[Key]:
        """Return what is queued, and take it off."""
        queued = set(self.queue._waiting)
        self.queue._waiting.clear()
        self.queue._ready = asyncio.Queue()
        return queued


@pytest.fixture
def operator(client: Client) -> Operator:
    return Operator(client)


@pytest.fixture
async def working(server: FakeApiServer, operator: Operator) -> AsyncIterator[Operator]:
    """An operator with a worker that has seen what there is."""
    server.put("/apis/resource.k8s.io/v1/deviceclasses/gpu.example.com", {"metadata": {"name": "gpu.example.com"}})
    server.put(
        "/apis/resource.k8s.io/v1/namespaces/inference/resourceclaimtemplates/other", {"metadata": {"name": "o"}}
    )
    server.put(SET_PATH, _set_object())
    await operator.controller.resync()
    worker = asyncio.create_task(operator.controller.work())
    yield operator
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker


async def _until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(10):
        while not (found := condition()):  # noqa: ASYNC110 - what it waits for is at the other end of a connection
            await asyncio.sleep(0.001)
    return found


def _conditions(server: FakeApiServer) -> dict[str, str]:
    status = server.objects[SET_PATH].get("status") or {}
    return {c["type"]: f"{c['status']}/{c['reason']}" for c in status.get("conditions", [])}


def _deployments(server: FakeApiServer) -> dict[str, str]:
    return {
        o["metadata"]["labels"]["disaggregatedset.dev/role"]: p
        for p, o in server.objects.items()
        if p.startswith(DEPLOYMENTS)
    }


def _turn_ready(server: FakeApiServer, operator: Operator) -> None:
    """Play the Deployment controller, and the watch that tells of it."""
    for path in _deployments(server).values():

        def ready(obj: Object) -> None:
            n = obj["spec"]["replicas"]
            status = {"replicas": n, "readyReplicas": n, "observedGeneration": obj["metadata"]["generation"]}
            obj["status"] = status

        operator.controller.observe(objects.DEPLOYMENT, "MODIFIED", server.edit(path, ready))


def _child(of_set: str, version: int, **labels: str) -> Object:
    dset = make_set(name=of_set)
    tier = World(dset).tiers["weights"]
    return live(deployment(dset, tier, "weights", 1), name="x", resourceVersion=str(version)) | {"status": {}}


async def test_events_queue_the_set_that_they_concern(operator: Operator) -> None:
    observe = operator.controller.observe
    observe(objects.DEPLOYMENT, None, _child("a", 1))
    assert operator.keys() == {Key("inference", "a")}
    observe(objects.DEPLOYMENT, "MODIFIED", _child("a", 2))
    assert operator.keys() == set(), "nothing has changed that matters"
    observe(objects.DEPLOYMENT, "DELETED", _child("a", 3))
    assert operator.keys() == {Key("inference", "a")}
    observe(SET, "ADDED", live(_set_object()))
    assert operator.keys() == {KEY}
    gpu = {"metadata": {"name": "gpu", "resourceVersion": "1"}}
    observe(objects.DEVICE_CLASS, "ADDED", gpu)
    assert operator.keys() == {KEY}, "it may wait for the class"


async def test_a_child_that_moves_to_another_set_concerns_both(operator: Operator) -> None:
    operator.controller.observe(objects.DEPLOYMENT, None, _child("a", 1))
    operator.keys()
    operator.controller.observe(objects.DEPLOYMENT, "MODIFIED", _child("b", 2))
    assert operator.keys() == {Key("inference", "a"), Key("inference", "b")}


async def test_a_set_comes_up_tier_by_tier(server: FakeApiServer, working: Operator) -> None:
    await _until(lambda: _conditions(server).get("Progressing") == "True/Starting")
    assert _deployments(server).keys() == {"weights", "kv-coordinator"}
    _turn_ready(server, working)
    await _until(lambda: "kv-cache" in _deployments(server))
    assert "decode" not in _deployments(server)
    _turn_ready(server, working)
    await _until(lambda: "decode" in _deployments(server))
    _turn_ready(server, working)
    await _until(lambda: _conditions(server).get("Available") == "True/AllRolesReady")
    reasons = [r.body["reason"] for r in server.requests if r.path.endswith("/events")]
    assert reasons.count("Starting") == 3
    await _until(lambda: not len(working.queue) and not working.queue._working)
    server.requests.clear()
    working.controller.observe(SET, "MODIFIED", server.edit(SET_PATH, lambda o: o["metadata"]["labels"].update(a="b")))
    await _until(lambda: not len(working.queue) and not working.queue._working)
    assert server.writes() == [], "nothing at rest"


async def test_a_deleted_set_is_left_alone(server: FakeApiServer, working: Operator) -> None:
    await _until(lambda: _conditions(server))
    await _until(lambda: not len(working.queue) and not working.queue._working)
    server.requests.clear()
    working.controller.observe(SET, "DELETED", server.remove(SET_PATH))
    await _until(lambda: not len(working.queue) and not working.queue._working)
    assert server.writes() == []


async def test_what_cannot_be_accepted_touches_nothing(server: FakeApiServer, operator: Operator) -> None:
    server.put(SET_PATH, _set_object())
    await operator.controller.resync()
    assert not operator.controller.serves(objects.CLAIM_TEMPLATE), "this cluster has no DRA"
    worker = asyncio.create_task(operator.controller.work())
    await _until(lambda: _conditions(server).get("Accepted") == "False/DRANotAvailable")
    worker.cancel()
    assert {w for w in server.writes() if not w.endswith("/events")} == {f"PATCH {SET_PATH}/status"}


@pytest.mark.parametrize(
    "answer",
    [lambda: status_of(500, "InternalError", "etcd is down"), lambda: status_of(409, "Conflict", "changed")],
    ids=["500", "409"],
)
async def test_what_fails_is_tried_again(server: FakeApiServer, working: Operator, answer: Callable[[], Any]) -> None:
    server.answers += [answer() for _ in range(3)]
    await _until(lambda: _conditions(server).get("Accepted") == "True/Accepted")


async def test_a_set_that_the_models_do_not_know_ends_nothing(server: FakeApiServer, working: Operator) -> None:
    await _until(lambda: _conditions(server))
    odd = live(_set_object({"model": 1}), name="odd", resourceVersion="99999")
    working.controller.observe(SET, "ADDED", odd)
    await _until(lambda: working.queue._failures.get(Key("inference", "odd")))


async def test_a_resync_finds_what_the_watch_missed(
    server: FakeApiServer, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    server.put(SET_PATH, _set_object())
    await operator.controller.resync()
    assert operator.controller.synced.is_set()
    assert operator.keys() == {KEY}
    assert "missed" not in caplog.text, "the first list misses nothing"
    server.remove(SET_PATH)
    await operator.controller.resync()
    assert "watches have missed changes of disaggregatedsets: inference/llama" in caplog.text
    assert operator.cache.get(SET, KEY) is None


async def test_listing_goes_on_when_the_server_does_not_answer(server: FakeApiServer, operator: Operator) -> None:
    server.answers += [status_of(500, "InternalError", "etcd is down")]
    listing: Awaitable[None] = operator.controller.keep_in_sync(3600)
    task = asyncio.ensure_future(listing)
    await asyncio.wait_for(operator.controller.synced.wait(), 10)
    task.cancel()
