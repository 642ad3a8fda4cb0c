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
from disaggregatedset.reconcile.view import ROLE_SCALER, SET
from disaggregatedset.render import SET_LABEL
from disaggregatedset.runtime.queue import WorkQueue
from tests.api.cases import changed
from tests.unit.builders import NOW
from tests.unit.fake_api_server import FakeApiServer, Object, RefusedError, status_of

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
        monkeypatch.setattr(module, "_clock", lambda: self.now)
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
        self.reconciler._looks, self.reconciler._pace = Looks(self._seconds), Pace(clock=self._seconds)
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


# Scaling.

ROLE_SCALERS = "/apis/disaggregatedset.dev/v1alpha1/namespaces/inference/rolescalers"
DECODE = f"{ROLE_SCALERS}/llama-decode"
AUTOSCALER = "/apis/autoscaling/v2/namespaces/inference/horizontalpodautoscalers/llama-decode"
POOL = "/apis/inference.networking.k8s.io/v1/namespaces/inference/inferencepools/llama"
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
HPA = {"mode": "HPA", "maxReplicas": 9, "metrics": [CPU]}
FOLLOW = {"mode": "Follow", "follow": {"role": "prefill", "ratio": "2:1"}}


def _scaling(scaling: Object) -> Object:
    return {"spec.compute.roles[1].scaling": scaling}


def _scaler(world: World) -> Object:
    return {k: v for k, v in world.server.objects[DECODE]["spec"].items() if k not in {"role", "metrics"}}


def _scale(world: World, replicas: int, manager: str = "kubectl") -> None:
    edited = world.server.edit(DECODE, lambda obj: obj["spec"].update(replicas=replicas), manager)
    world.controller.observe(ROLE_SCALER, "MODIFIED", edited)


async def test_role_scalers_of_a_static_set_say_that_it_decides(world: World) -> None:
    assert _scaler(world) == {"mode": "Static", "replicas": 2, "fixedReplicas": 2}
    status = world.server.objects[DECODE]["status"]
    assert (status["replicas"], status["desiredReplicas"]) == (2, 2)
    assert status["selector"] == "disaggregatedset.dev/set=llama,disaggregatedset.dev/role=decode"
    world.edit({"spec.compute.roles[1].replicas": 5})
    await world.settle()
    assert _scaler(world) == {"mode": "Static", "replicas": 5, "fixedReplicas": 5}


async def test_who_scales_a_role_is_handed_its_number(world: World) -> None:
    """The set's own number is another one by then: nothing drains, and it is left alone from then on."""
    world.edit(_scaling({"mode": "External", "maxReplicas": 8}) | {"spec.compute.roles[1].replicas": 1})
    await world.settle()
    assert _scaler(world) == {"mode": "External", "replicas": 2, "maxReplicas": 8}
    assert world.asked == GOOD
    _scale(world, 6)
    world.server.requests.clear()
    await world.turn()
    assert world.asked == GOOD | {"decode engine:1": 6}
    assert f"PATCH {DECODE}" not in world.server.writes()
    world.roll("engine:2")
    await world.settle()
    assert world.asked == {"prefill engine:2": 1, "decode engine:2": 6}, "it is kept through a rollout"
    _scale(world, 99)
    await world.settle()
    assert world.asked["decode engine:2"] == 8
    assert _scaler(world)["replicas"] == 99, "whoever scales it owns the number"


async def test_any_mode_after_any_other_keeps_the_number(world: World) -> None:
    world.edit({"spec.compute.roles[1].replicas": 4, "spec.compute.roles[0].replicas": 2})
    await world.settle()
    static, external = {"mode": "Static"}, {"mode": "External"}
    modes: list[Object] = [external, HPA, FOLLOW, HPA, static, FOLLOW, external, static]
    for scaling in modes:
        world.edit(_scaling(scaling))
        for _ in range(6):
            await world.turn()
            assert world.asked == {"prefill engine:1": 2, "decode engine:1": 4}, scaling
            scaler = _scaler(world)
            assert scaler["replicas"] == 4
            assert scaler.get("fixedReplicas", 4) == 4
            if AUTOSCALER in world.server.objects and scaling["mode"] == "HPA":
                assert "fixedReplicas" not in scaler, "it could not scale"
        await world.settle()
        assert ("fixedReplicas" in _scaler(world)) == (scaling["mode"] in {"Static", "Follow"})
        assert (AUTOSCALER in world.server.objects) == (scaling["mode"] == "HPA")


@pytest.mark.parametrize("scaling", [{"mode": "External"}, HPA, FOLLOW], ids=lambda scaling: scaling["mode"])
async def test_a_set_that_rests_writes_nothing_in_any_mode(world: World, scaling: Object) -> None:
    world.edit(_scaling(scaling) | {"spec.routing.inferencePool": PICKER})
    world.server.put(POOL.replace("llama", "other"), {"metadata": {"name": "other", "namespace": "inference"}})
    await world.start()
    await world.settle()
    await world.start()
    world.controller.observe(objects.INFERENCE_POOL, "ADDED", world.server.objects[POOL])
    world.server.requests.clear()
    for _ in range(3):
        await world.turn(60)
    assert world.server.requests == []


async def test_what_others_are_to_scale_comes_without_any_event(world: World) -> None:
    world.edit(_scaling(HPA))
    await world.start()
    for _ in range(10):
        result = await world.turn()
        if result.again_after != 0:
            break
    assert _scaler(world) == {"mode": "HPA", "replicas": 2, "maxReplicas": 9}
    assert AUTOSCALER in world.server.objects


@pytest.mark.parametrize("dies_after", range(8))
async def test_dying_after_any_write_of_a_hand_over(world: World, dies_after: int) -> None:
    world.edit(_scaling(HPA))
    world.server.answers += [None] * dies_after + [status_of(500, "InternalError", "gone") for _ in range(20)]
    for _ in range(5):
        try:
            await world.turn()
        except ApiError:
            break
        assert _scaler(world)["replicas"] == 2
    assert world.asked == GOOD
    world.server.answers.clear()
    await world.start()
    await world.settle()
    assert _scaler(world) == {"mode": "HPA", "replicas": 2, "maxReplicas": 9}
    assert AUTOSCALER in world.server.objects
    assert world.asked == GOOD


async def test_a_new_role_that_others_scale_has_the_number_of_the_set_first(world: World) -> None:
    world.server.remove(DECODE)
    world.edit(_scaling({"mode": "External"}))
    await world.start()
    result = await world.turn()
    assert _scaler(world) == {"mode": "External", "replicas": 2, "fixedReplicas": 2}
    assert result.again_after == 0
    await world.settle()
    assert _scaler(world) == {"mode": "External", "replicas": 2}


async def test_a_role_scaler_that_somebody_deletes_comes_back_as_it_was(world: World) -> None:
    world.edit(_scaling({"mode": "External"}))
    await world.settle()
    _scale(world, 5)
    await world.settle()
    world.controller.observe(ROLE_SCALER, "DELETED", world.server.remove(DECODE))
    await world.settle()
    assert _scaler(world) == {"mode": "External", "replicas": 5}
    assert world.asked["decode engine:1"] == 5


async def test_a_role_scaler_that_lost_its_labels_is_put_right(world: World) -> None:
    def spoil(obj: Object) -> None:
        del obj["metadata"]["labels"]["disaggregatedset.dev/role"]

    world.controller.observe(ROLE_SCALER, "MODIFIED", world.server.edit(DECODE, spoil))
    await world.settle()
    assert world.server.objects[DECODE]["metadata"]["labels"]["disaggregatedset.dev/role"] == "decode"


async def test_an_autoscaler_that_is_refused(world: World) -> None:
    def refuse(obj: Object) -> None:
        if obj.get("kind") == "HorizontalPodAutoscaler" and obj["spec"]["maxReplicas"] == 7:
            raise RefusedError(422, "Invalid", "spec.metrics: Invalid value")

    world.edit(_scaling(HPA))
    await world.settle()
    before = world.server.objects[AUTOSCALER]
    world.server.mutate = refuse
    world.edit(_scaling(HPA | {"maxReplicas": 7}))
    result = await world.turn()
    await world.turn()
    assert result.failed
    accepted = world.condition("Accepted")
    words = "spec.compute.roles[decode].scaling: spec.metrics: Invalid value"
    assert (accepted["status"], accepted["reason"], accepted["message"]) == ("False", "Rejected", words)
    assert world.server.objects[AUTOSCALER] == before
    assert world.asked == GOOD
    world.edit(_scaling(HPA | {"maxReplicas": 8}))
    await world.settle()
    assert world.server.objects[AUTOSCALER]["spec"]["maxReplicas"] == 8
    assert world.condition("Accepted")["status"] == "True"


# A KV cache that shrinks.

KV = {
    "replicas": 4,
    "scaleDown": {"periodSeconds": 100},
    "template": {"spec": {"containers": [{"name": "store", "image": "store:1"}]}},
}
STORE = "kv-cache store:1"


def _path(world: World, role: str) -> str:
    [path] = [path for path in world.server.objects if path.startswith(f"{DEPLOYMENTS}/llama-{role}-")]
    return path


async def test_a_cache_shrinks_step_by_step_and_each_step_is_written_down_first(world: World) -> None:
    world.edit({"spec.kvCache": KV})
    await world.settle()
    assert world.asked[STORE] == 4
    world.edit({"spec.kvCache.replicas": 2})
    world.server.requests.clear()
    result = await world.turn()
    assert result.again_after == 0
    assert world.writes() == [f"PATCH {SET_PATH}/status"]
    assert world.asked[STORE] == 4
    await world.start()
    await world.turn()
    assert world.asked[STORE] == 3
    world.pods()
    result = await world.turn(1)
    assert result.again_after is not None
    assert world.asked[STORE] == 3
    assert world.condition("Progressing")["reason"] == "Scaling"
    assert "the next step is due at" in world.condition("Progressing")["message"]
    for seconds in (98, 0):
        await world.turn(seconds)
    assert world.asked[STORE] == 3
    for seconds in (2, 0):
        await world.turn(seconds)
    assert world.asked[STORE] == 2
    await world.settle()
    assert world.condition("Progressing")["reason"] == "Complete"


async def test_a_pod_of_the_cache_that_is_not_ready_stops_it(world: World) -> None:
    world.edit({"spec.kvCache": KV})
    await world.settle()
    edited = world.server.edit(_path(world, "kv-cache"), lambda obj: obj["status"].update(readyReplicas=3))
    world.controller.observe(objects.DEPLOYMENT, "MODIFIED", edited)
    world.edit({"spec.kvCache.replicas": 1})
    for _ in range(4):
        await world.turn(200)
    assert world.asked[STORE] == 4
    cache = next(role for role in world.status["roles"] if role["name"] == "kv-cache")
    assert (cache["desired"], cache["scaleDown"]) == (1, {"replicas": 4})
    assert "now at 4, the next step waits until all of them are ready" in cache["message"]
    world.pods()
    await world.turn()
    await world.turn()
    assert world.asked[STORE] == 3


async def test_a_cache_grows_at_once_and_what_it_grew_by_is_not_lost_in_one_step(world: World) -> None:
    """Its new number is written down before the first pod comes, whatever happens then."""
    world.edit({"spec.kvCache": KV})
    await world.settle()
    world.edit({"spec.kvCache.replicas": 8})
    await world.turn()
    world.server.answers += [None, status_of(500, "InternalError", "gone")]
    with pytest.raises(ApiError):
        await world.turn()
    world.server.answers.clear()
    await world.start()
    await world.turn()
    assert world.asked[STORE] == 8
    world.pods()
    world.edit({"spec.kvCache.replicas": 2})
    for _ in range(4):
        await world.turn()
        world.pods()
    assert world.asked[STORE] == 7


async def test_pods_of_the_cache_without_a_node_go_at_once_and_no_other(world: World) -> None:
    world.edit({"spec.kvCache": KV | {"replicas": 6}})
    for _ in range(3):
        await world.turn()
    path = _path(world, "kv-cache")
    unready = {"replicas": 6, "readyReplicas": 4}

    def act(obj: Object) -> None:
        obj["status"] = unready | {"observedGeneration": obj["metadata"]["generation"]}

    world.controller.observe(objects.DEPLOYMENT, "MODIFIED", world.server.edit(path, act))
    labels = world.server.objects[path]["spec"]["template"]["metadata"]["labels"]
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    for n in range(2):
        pod = {"name": f"p{n}", "namespace": "inference", "labels": labels}
        status = {"phase": "Pending", "conditions": [condition]}
        world.server.put(f"/api/v1/namespaces/inference/pods/p{n}", {"metadata": pod, "status": status})
    for _ in range(3):
        await world.turn(20)
    world.edit({"spec.kvCache.replicas": 1})
    for _ in range(4):
        await world.turn()
    assert world.asked[STORE] == 4, "no pod with a node has gone"


# Routing.

PICKER = {"targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "picker"}}


async def test_a_cluster_without_inference_pools_gets_them_later(world: World) -> None:
    world.edit({"spec.routing.inferencePool": PICKER})
    await world.settle()
    routed = world.condition("Routed")
    assert (routed["status"], routed["reason"]) == ("False", "InferencePoolNotServed")
    assert world.condition("Accepted")["status"] == "True"
    assert world.condition("Available")["status"] == "True"
    assert (await world.turn(60)).again_after is not None, "it looks again"
    world.server.put(POOL.replace("llama", "other"), {"metadata": {"name": "other", "namespace": "inference"}})
    await world.turn()
    assert world.server.objects[POOL]["spec"]["targetPorts"] == [{"number": 8000}]
    assert world.condition("Routed")["status"] == "True"
    await world.settle()
    world.edit({"spec.routing": None})
    await world.settle()
    assert POOL not in world.server.objects
    assert "Routed" not in {c["type"] for c in world.status["conditions"]}


@pytest.fixture
async def routed(world: World) -> World:
    world.server.put(POOL.replace("llama", "other"), {"metadata": {"name": "other", "namespace": "inference"}})
    await world.start()
    world.edit({"spec.routing.inferencePool": PICKER})
    await world.settle()
    return world


async def test_a_pool_over_the_compute_pods(routed: World) -> None:
    assert routed.server.objects[POOL]["spec"]["selector"] == {
        "matchLabels": {"disaggregatedset.dev/set": "llama", "disaggregatedset.dev/tier": "compute"}
    }
    condition = routed.condition("Routed")
    assert (condition["status"], condition["reason"]) == ("True", "InferencePoolReady")


async def test_a_pool_that_is_refused(routed: World) -> None:
    def refuse(obj: Object) -> None:
        if obj.get("kind") == "InferencePool":
            raise RefusedError(422, "Invalid", "spec.targetPorts: too many")

    routed.server.mutate = refuse
    routed.edit({"spec.routing.inferencePool.targetPorts": [{"number": 1}], "spec.compute.roles[1].replicas": 3})
    for _ in range(4):
        await routed.turn(20)
        routed.pods()
    condition = routed.condition("Routed")
    words = "spec.routing.inferencePool: spec.targetPorts: too many"
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "Rejected", words)
    assert routed.condition("Accepted")["status"] == "True"
    assert routed.asked["decode engine:1"] == 3, "the rest works"
    assert routed.server.objects[POOL]["spec"]["targetPorts"] == [{"number": 8000}]


async def test_a_pool_of_somebody_else(world: World) -> None:
    theirs = {"metadata": {"name": "llama", "namespace": "inference"}, "spec": {"targetPorts": [{"number": 1}]}}
    world.server.put(POOL, theirs)
    await world.start()
    world.edit({"spec.routing.inferencePool": PICKER})
    for _ in range(4):
        await world.turn(20)
    assert world.condition("Routed")["reason"] == "NameConflict"
    assert world.server.objects[POOL]["spec"] == {"targetPorts": [{"number": 1}]}


def _without_pools(obj: Object) -> None:
    if obj.get("kind") == "InferencePool":
        raise RefusedError(404, "NotFound", "the server could not find the requested resource")


@pytest.mark.parametrize("others", [True, False], ids=["the pool", "the CRD"])
async def test_what_no_watch_tells_of_pools_is_looked_for(routed: World, others: bool) -> None:
    gone = [POOL] if others else [POOL, POOL.replace("llama", "other")]
    for path in gone:
        routed.server.remove(path)
    if not others:
        routed.server.mutate = _without_pools
    assert (await routed.turn(60)).again_after is not None, "it looks again"
    await routed.settle()
    assert (POOL in routed.server.objects) == others
    assert routed.condition("Routed")["reason"] == ("InferencePoolReady" if others else "InferencePoolNotServed")
    if others:
        routed.controller.observe(objects.INFERENCE_POOL, "MODIFIED", routed.server.objects[POOL])
        assert (await routed.turn(60)).again_after is None, "a watch tells now"


async def test_the_crd_of_inference_pools_goes(routed: World) -> None:
    for path in (POOL, POOL.replace("llama", "other")):
        routed.controller.observe(objects.INFERENCE_POOL, "DELETED", routed.server.remove(path))
    answers = routed.server.answers
    routed.edit({"spec.compute.roles[1].replicas": 3})
    routed.server.mutate = _without_pools
    await routed.settle()
    assert not answers
    assert routed.condition("Routed")["reason"] == "InferencePoolNotServed"
    assert routed.asked["decode engine:1"] == 3


async def test_what_is_said_of_the_route_stays_while_it_is_not_looked_at(routed: World) -> None:
    before = routed.condition("Routed")
    routed.roll("engine:2")
    routed.server.requests.clear()
    await routed.turn()
    assert routed.writes() == [f"PATCH {SET_PATH}/status"], "the begin of a rollout alone"
    assert routed.condition("Routed") == before
    await routed.settle()
    assert routed.condition("Routed")["lastTransitionTime"] == before["lastTransitionTime"]
