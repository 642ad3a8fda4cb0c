"""Rollouts as the API server sees them: what is written in which order, and what is remembered where."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.client import ApiError, Client
from disaggregatedset.cluster.events import Recorder
from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile import reconciler as module
from disaggregatedset.reconcile.controller import WATCHED, Controller
from disaggregatedset.reconcile.looks import Looks
from disaggregatedset.reconcile.pace import Pace
from disaggregatedset.reconcile.reconciler import Reconciler
from disaggregatedset.reconcile.view import SET
from disaggregatedset.render import SET_LABEL
from disaggregatedset.runtime.queue import WorkQueue
from tests.api.cases import changed
from tests.unit.builders import NOW
from tests.unit.fake_api_server import FakeApiServer, Object, status_of

KEY = Key("inference", "llama")
SET_PATH = "/apis/disaggregatedset.dev/v1alpha1/namespaces/inference/disaggregatedsets/llama"
DEPLOYMENTS = "/apis/apps/v1/namespaces/inference/deployments"
IMAGES = [f"spec.compute.roles[{n}].template.spec.containers[0].image" for n in range(2)]
SPEC: Object = {
    "model": {"name": "llama", "source": "hf://llama"},
    "rollout": {"progressDeadlineSeconds": 100},
    "compute": {
        "roles": [
            {
                "name": "prefill",
                "replicas": 1,
                "template": {"spec": {"containers": [{"name": "engine", "image": "engine:1"}]}},
            },
            {
                "name": "decode",
                "replicas": 2,
                "template": {"spec": {"containers": [{"name": "engine", "image": "engine:1"}]}},
            },
        ]
    },
}


class World:
    """A set without servers, an operator that can die and come back, and a clock."""

    def __init__(self, server: FakeApiServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self._client, self.now = server, client, NOW
        monkeypatch.setattr(module, "_now", lambda: self.now)
        metadata = {"name": "llama", "namespace": "inference", "uid": "uid-of-set", "generation": 1}
        made = {"apiVersion": SET.api_version, "kind": SET.name, "metadata": metadata, "spec": SPEC}
        server.put(SET_PATH, made)
        some = "/apis/resource.k8s.io/v1/namespaces/inference/resourceclaimtemplates/other"
        server.put(some, {"metadata": {"name": "other", "namespace": "inference"}})
        self.bad: set[str] = set()

    async def start(self) -> None:
        """Start an operator that knows nothing."""
        cache = Cache(WATCHED, SET_LABEL)
        recorder = Recorder(self._client, controller="test", instance="test")
        self.reconciler = Reconciler(self._client, cache, recorder)
        self.reconciler._looks, self.reconciler._pace = Looks(self._seconds), Pace(self._seconds)
        self.controller = Controller(self._client, cache, WorkQueue(), self.reconciler)
        await self.controller.resync()

    def _seconds(self) -> float:
        return self.now.timestamp()

    async def turn(self, seconds: float = 0) -> module.Result:
        self.now += timedelta(seconds=seconds)
        return await self.reconciler.reconcile(KEY)

    def pods(self) -> None:
        """Play the Deployment controller, the kubelet, and the watch that tells of it."""
        for path, obj in list(self.server.objects.items()):
            if path.startswith(DEPLOYMENTS):
                image = obj["spec"]["template"]["spec"]["containers"][0]["image"]

                def act(obj: Object, image: str = image) -> None:
                    n = obj["spec"]["replicas"]
                    obj["status"] = {"replicas": n, "observedGeneration": obj["metadata"]["generation"]}
                    if image not in self.bad:
                        obj["status"]["readyReplicas"] = n

                self.controller.observe(objects.DEPLOYMENT, "MODIFIED", self.server.edit(path, act))

    async def settle(self) -> None:
        """Let it come to rest."""
        quiet = 0
        for _ in range(40):
            self.server.requests.clear()
            await self.turn(20)
            self.pods()
            quiet = 0 if self.server.writes() else quiet + 1
            if quiet == 2:
                return
        raise AssertionError(self.status)

    def edit(self, changes: dict[str, Any]) -> None:
        def change(obj: Object) -> None:
            obj |= changed(obj, changes)

        self.controller.observe(SET, "MODIFIED", self.server.edit(SET_PATH, change))

    def roll(self, image: str, more: Object | None = None) -> None:
        self.edit(dict.fromkeys(IMAGES, image) | (more or {}))

    @property
    def status(self) -> Object:
        status: Object = self.server.objects[SET_PATH]["status"]
        return status

    def condition(self, kind: str) -> Object:
        found: Object = next(c for c in self.status["conditions"] if c["type"] == kind)
        return found

    @property
    def asked(self) -> dict[str, int]:
        """Pods that are asked for, by image and role."""
        found = {}
        for path, obj in self.server.objects.items():
            if path.startswith(DEPLOYMENTS):
                role = obj["metadata"]["labels"]["disaggregatedset.dev/role"]
                image = obj["spec"]["template"]["spec"]["containers"][0]["image"]
                found[f"{role} {image}"] = obj["spec"]["replicas"]
        return found

    def writes(self) -> list[str]:
        """Return what was written, in order, without what is only told."""
        kinds = ("/deployments", "/status")
        return [w for w in self.server.writes() if any(kind in w for kind in kinds)]


@pytest.fixture
async def world(server: FakeApiServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(server, client, monkeypatch)
    await made.start()
    await made.settle()
    return made


GOOD = {"prefill engine:1": 1, "decode engine:1": 2}


def test_a_set_at_rest(world: World) -> None:
    assert world.asked == GOOD
    assert world.condition("Progressing")["reason"] == "Complete"
    assert world.status["goodRevisions"] == {"compute": world.status["roles"][0]["revision"]}
    assert "rollouts" not in world.status


async def test_what_was_desired_is_stored_before_the_first_pod_moves(world: World) -> None:
    world.roll("engine:2")
    world.server.requests.clear()
    result = await world.turn()
    assert result.again_after == 0
    assert world.writes() == [f"PATCH {SET_PATH}/status"]
    [rollout] = world.status["rollouts"]
    assert rollout["oldReplicas"] == {"prefill": 1, "decode": 2}
    await world.start()  # it dies, and another one goes on
    await world.turn()
    assert world.asked["prefill engine:2"] == 1
    assert world.status["rollouts"][0]["startedAt"] == rollout["startedAt"]


@pytest.mark.parametrize("dies_after", range(1, 12))
async def test_dying_after_any_write(world: World, dies_after: int) -> None:
    world.roll("engine:2")
    world.server.answers += [None] * dies_after + [status_of(500, "InternalError", "gone") for _ in range(20)]
    for _ in range(9):
        try:
            await world.turn()
        except ApiError:
            break
        world.pods()
    world.server.answers.clear()
    await world.start()
    await world.settle()
    assert world.asked == {"prefill engine:2": 1, "decode engine:2": 2}
    assert "rollouts" not in world.status


async def test_a_revision_that_fails_is_left_and_said_why(world: World) -> None:
    world.bad.add("engine:2")
    world.roll("engine:2")
    good = world.status["goodRevisions"]["compute"]
    for _ in range(4):
        await world.turn()
        world.pods()
    revision = world.status["rollouts"][0]["to"]
    pod = {
        "metadata": {
            "name": "p",
            "namespace": "inference",
            "labels": {
                SET_LABEL: "llama",
                "disaggregatedset.dev/role": "prefill",
                "disaggregatedset.dev/revision": revision,
            },
        },
        "status": {
            "phase": "Pending",
            "containerStatuses": [
                {"name": "engine", "state": {"waiting": {"reason": "ErrImagePull", "message": "engine:2: not found"}}}
            ],
        },
    }
    world.server.put("/api/v1/namespaces/inference/pods/p", pod)
    await world.start()  # it looks at once where a set is in trouble, or after a moment
    await world.turn()
    result = await world.turn(200)
    assert result.again_after == 0, "what follows from it is done at once"
    [failed] = world.status["failedRevisions"]
    words = "prefill: 1 of 1 pods can't pull their image: container engine: engine:2: not found"
    assert (failed["revision"], failed["reason"]) == (revision, "ImagePull")
    assert words in failed["message"]
    await world.settle()
    assert world.asked == GOOD
    assert world.status["goodRevisions"]["compute"] == good
    assert world.condition("Degraded")["reason"] == "ImagePull"
    assert words in world.condition("Degraded")["message"]
    assert world.condition("Available")["status"] == "True"
    assert world.condition("Progressing")["reason"] == "RolledBack"
    world.roll("engine:3")
    await world.settle()
    assert "failedRevisions" not in world.status
    assert world.condition("Degraded")["status"] == "False"


async def test_without_anything_seen_the_reason_is_that_it_is_not_ready(world: World) -> None:
    world.bad.add("engine:2")
    world.roll("engine:2")
    for seconds in (0, 0, 0, 200, 0):
        await world.turn(seconds)
        world.pods()
    [failed] = world.status["failedRevisions"]
    assert failed["reason"] == "NotReady"
    assert failed["message"].startswith("waiting for prefill (0 of 1)")


async def test_a_retry_of_what_failed(world: World) -> None:
    world.bad.add("engine:2")
    world.roll("engine:2")
    for seconds in (0, 0, 0, 200, 0):
        await world.turn(seconds)
        world.pods()
    await world.settle()
    assert world.asked == GOOD
    world.bad.clear()
    world.edit({"metadata.annotations": {"disaggregatedset.dev/retry": "1"}})
    await world.settle()
    assert world.asked["prefill engine:2"] == 1
    assert "failedRevisions" not in world.status


async def test_a_spec_that_is_refused_in_mid_rollout_forgets_nothing(world: World) -> None:
    world.roll("engine:2")
    for _ in range(3):
        await world.turn()
    before = world.status
    assert before["rollouts"]
    world.roll("engine:3")
    world.server.answers.append(status_of(422, "Invalid", "spec.x: Invalid value"))
    result = await world.turn()
    assert result.failed
    assert world.condition("Accepted")["reason"] == "Rejected"
    assert world.status["goodRevisions"] == before["goodRevisions"]
    assert [r["to"] for r in world.status["rollouts"]] == [r["to"] for r in before["rollouts"]], "it goes on"
    world.roll("engine:1")
    await world.settle()
    assert world.asked == GOOD


async def test_the_record_of_the_good_revision_is_deleted(world: World) -> None:
    """It is read off its Deployments, and a rollout can still go back to it."""
    world.bad.add("engine:2")
    world.roll("engine:2")
    for _ in range(3):
        await world.turn()
        world.pods()
    good = world.status["goodRevisions"]["compute"]
    path = f"/apis/apps/v1/namespaces/inference/controllerrevisions/llama-compute-{good}"
    world.controller.observe(objects.CONTROLLER_REVISION, "DELETED", world.server.remove(path))
    await world.turn(200)
    await world.settle()
    assert world.asked == GOOD
    assert world.condition("Available")["status"] == "True"


async def test_paused_nothing_moves_until_it_is_resumed(world: World) -> None:
    world.roll("engine:2", {"spec.rollout.paused": True})
    await world.settle()
    assert world.asked == GOOD
    assert world.condition("Progressing")["reason"] == "Paused"
    world.edit({"spec.compute.roles[1].replicas": 3})
    await world.settle()
    assert world.asked == GOOD | {"decode engine:1": 3}
    world.edit({"spec.rollout.paused": False})
    await world.settle()
    assert world.asked["prefill engine:2"] == 1
    assert "rollouts" not in world.status


async def test_scaling_writes_no_record(world: World) -> None:
    world.edit({"spec.compute.roles[1].replicas": 5})
    world.server.requests.clear()
    await world.turn()
    assert [w for w in world.writes() if "deployments" in w], "at once"
    assert "rollouts" not in world.status
