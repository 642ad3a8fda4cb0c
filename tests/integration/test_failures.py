"""Revisions that never turn ready: back to the last good one with full capacity, and words that say what failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from tests.integration.rolling import (
    NAME,
    Pool,
    engines,
    misbehave,
    reason,
    recorded,
    reserved,
    retry,
    revisions,
    role,
    start,
    wait_rolled,
    wanted,
)
from tests.integration.sets import LABEL, Sets, changed, condition, gpus, spec, template

# How long what is to fail may go without progress; what is to succeed has all the time that it takes.
SOON = {"progressDeadlineSeconds": 5}


def _pair(version: int, decode: int = 2, **rollout: object) -> Object:
    return engines(version, prefill=role(2), decode=role(decode)) | {"rollout": rollout}


def _behaves(how: str) -> Callable[[Object], Any]:
    return lambda s: _decode(s)["template"]["metadata"]["annotations"].update(
        {"e2e.disaggregatedset.dev/behaviour": how}
    )


def _decode(spec: Object) -> Object:
    decode: Object = spec["compute"]["roles"][1]
    return decode


@dataclass(frozen=True)
class Broken:
    """What breaks a revision, the reason that is told, and words of whoever knows."""

    change: Callable[[Object], Any]
    reason: str
    words: str


def _asks_for_too_much(spec: Object) -> None:
    _decode(spec)["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1000"}}


def _finds_no_devices(spec: Object) -> None:
    """Decode waits for devices that don't exist, which alone would stop the clock; prefill never turns ready."""
    spec["rollout"]["whenExhausted"] = "Wait"
    _decode(spec)["accelerators"] = gpus(8)
    prefill = spec["compute"]["roles"][0]
    prefill["template"]["metadata"]["annotations"]["e2e.disaggregatedset.dev/behaviour"] = "never-ready"


BROKEN = {
    "an image that can't be pulled": Broken(
        _behaves("image-pull-failure"), "ImagePull", 'container engine: Back-off pulling image "engine:2"'
    ),
    "a pod that crashes": Broken(
        _behaves("crash-loop"), "CrashLoop", "container engine ended with exit code 1 (Error)"
    ),
    "a pod that never turns ready": Broken(
        _behaves("never-ready"), "NotReady", "container engine does not pass its readiness probe"
    ),
    "a pod that fits on no node": Broken(_asks_for_too_much, "Unschedulable", "Insufficient cpu"),
    "devices that don't exist": Broken(_finds_no_devices, "DevicesExhausted", "cannot allocate all claims"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_revision_that_fails_is_rolled_back(sets: Sets, case: str) -> None:
    broken = BROKEN[case]
    start(sets, _pair(1))
    (good,) = revisions(sets)
    pods = {p["metadata"]["uid"] for p in sets.children("v1", "Pod", NAME)}
    with recorded(sets) as recorder:
        sets.apply(NAME, changed(_pair(2, **SOON), broken.change))
        status = sets.wait(NAME, lambda s: reason(s, "Progressing") == "RolledBack")
        assert revisions(sets) <= {good, wanted(status)}
        wait_for("the failed revision to go", lambda: revisions(sets) == {good})
    assert min(recorder.recording.coherent()) == 1
    assert {p["metadata"]["uid"] for p in sets.children("v1", "Pod", NAME, revision=good)} == pods

    (failed,) = status["failedRevisions"]
    assert (failed["group"], failed["revision"]) == ("compute", wanted(status))
    assert failed["reason"] == broken.reason
    assert broken.words in failed["message"]
    degraded = condition(status, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", broken.reason)
    assert broken.words in degraded["message"]
    assert f"went back to revision {good}" in degraded["message"]
    assert condition(status, "Available")["status"] == "True"
    sets.wait_event(NAME, f"RollingBack: compute: from revision {wanted(status)} to {good}")
    sets.wait_event(NAME, f"RolloutFailed: compute revision {wanted(status)}")
    described = sets.cluster.kubectl("describe", "dset", NAME, "-n", sets.namespace).stdout
    for text in ("RolloutFailed", broken.reason, broken.words, "RollingBack", wanted(status)):
        assert text in described, described

    with recorded(sets):
        sets.apply(NAME, _pair(3))
        status = wait_rolled(sets)
    assert reason(status, "Degraded") == "AsExpected"
    assert "failedRevisions" not in status


def test_a_failed_revision_is_tried_again_when_asked(sets: Sets, cluster: Cluster) -> None:
    start(sets, _pair(1))
    (good,) = revisions(sets)
    pool = {"nodeSelector": {"pool": sets.namespace}}
    bad = changed(_pair(2), lambda s: _decode(s)["template"]["spec"].update(pool))
    sets.apply(NAME, bad | {"rollout": SOON})
    status = sets.wait(NAME, lambda s: reason(s, "Progressing") == "RolledBack")
    assert status["failedRevisions"][0]["reason"] == "Unschedulable"
    assert "disaggregatedset.dev/retry" in condition(status, "Degraded")["message"]
    wait_for("the failed revision to go", lambda: revisions(sets) == {good})

    with recorded(sets):
        retry(sets, "too early")
        sets.wait(NAME, lambda s: s.get("rollouts") and s["rollouts"][0]["to"] == wanted(s))
        status = sets.wait(NAME, lambda s: reason(s, "Progressing") == "RolledBack")
        assert status["failedRevisions"][0]["retry"] == "too early"

    (node,) = cluster.add_nodes(1, labels={"pool": sets.namespace}, prefix="pool")
    try:
        with recorded(sets):
            sets.apply(NAME, bad)
            retry(sets, "there is a node now")
            sets.wait(NAME, lambda s: s["goodRevisions"]["compute"] == wanted(s))
            status = wait_rolled(sets)
        assert reason(status, "Degraded") == "AsExpected"
    finally:
        cluster.remove_node(node)


def test_hold_stays_where_it_is(sets: Sets) -> None:
    start(sets, _pair(1))
    (good,) = revisions(sets)
    with recorded(sets) as recorder:
        sets.apply(NAME, changed(_pair(2, onFailure="Hold", **SOON), _behaves("crash-loop")))
        status = sets.wait(NAME, lambda s: reason(s, "Progressing") == "Held")
        assert revisions(sets) == {good, wanted(status)}
        degraded = condition(status, "Degraded")
        assert (degraded["status"], degraded["reason"]) == ("True", "CrashLoop")
        assert "it stopped where it was" in degraded["message"]
        assert condition(status, "Available")["status"] == "True"
        # It still scales, and a new revision is not held.
        sets.apply(NAME, changed(_pair(2, 4, onFailure="Hold", **SOON), _behaves("crash-loop")))
        sets.wait(NAME, lambda s: _ready(s, "decode") == 4)
        assert len(revisions(sets)) == 2
        sets.apply(NAME, _pair(3, 4, onFailure="Hold"))
        wait_rolled(sets)
    assert min(recorder.recording.ready("decode")) == 2


def test_hold_scales_what_serves(sets: Sets) -> None:
    start(sets, _pair(1))
    sets.apply(NAME, changed(_pair(2, onFailure="Hold", **SOON), _behaves("crash-loop")))
    sets.wait(NAME, lambda s: reason(s, "Progressing") == "Held")
    sets.apply(NAME, changed(_pair(2, 3, onFailure="Hold", **SOON), _behaves("crash-loop")))
    sets.wait(NAME, lambda s: _ready(s, "decode") == 3, timeout=5)


def test_hold_leaves_no_orphans(sets: Sets) -> None:
    """One prefill pod without surge has no room beside the old one: the new decode pod stands alone at first."""

    def made(version: int, **rollout: object) -> Object:
        return engines(version, prefill=role(1, 0, 1), decode=role(2, 0, 1)) | {"rollout": rollout}

    start(sets, made(1))
    (good,) = revisions(sets)
    with recorded(sets) as recorder:
        sets.apply(NAME, changed(made(2, onFailure="Hold", **SOON), _behaves("never-ready")))
        sets.wait(NAME, lambda s: reason(s, "Progressing") == "Held")
        wait_for("the pairing to be undone", lambda: _with_pods(sets) == {good})
        sets.wait(NAME, lambda s: condition(s, "Available")["status"] == "True" and _all_ready(s))
    assert recorder.recording.total("decode")[-1] == 2


def _ready(status: Object, role: str) -> int:
    return next(int(r["ready"]) for r in status["roles"] if r["name"] == role)


def _with_pods(sets: Sets) -> set[str]:
    """The revisions that pods are asked for of."""
    return {d["metadata"]["labels"][f"{LABEL}/revision"] for d in sets.deployments(NAME) if d["spec"]["replicas"]}


def _all_ready(status: Object) -> bool:
    return all(r["ready"] == r["desired"] for r in status["roles"])


def test_a_first_rollout_that_fails_may_still_recover(sets: Sets) -> None:
    sets.apply(NAME, changed(_pair(1, **SOON), _behaves("never-ready")))
    status = sets.wait(NAME, lambda s: reason(s, "Progressing") == "ProgressDeadlineExceeded")
    (failed,) = status["failedRevisions"]
    assert failed["reason"] == "NotReady"
    degraded = condition(status, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "NotReady")
    assert "there is no good revision to go back to" in degraded["message"]
    assert condition(status, "Available")["status"] == "False"
    wait_for("all pods to be there", lambda: len(sets.children("v1", "Pod", NAME)) == 4)

    misbehave(sets, None, role="decode")
    status = sets.wait_available(NAME)
    assert reason(status, "Degraded") == "AsExpected"
    assert "failedRevisions" not in status
    assert status["goodRevisions"] == {"compute": wanted(status)}


def test_weights_that_fail_never_start_compute(sets: Sets) -> None:
    def made(model: int, weights: Object, **rollout: object) -> Object:
        compute = _pair(1, **rollout)
        tiers = {"weights": role(2, template=weights), "kvCache": role(2, template=template("kv:1"))}
        return compute | tiers | {"model": {"name": "m", "source": "hf://m/m", "revision": str(model)}}

    start(sets, made(1, template("weights:1")))
    before = {d["metadata"]["name"]: d["metadata"]["uid"] for d in sets.deployments(NAME)}
    (good,) = revisions(sets)
    with recorded(sets) as recorder:
        sets.apply(NAME, made(2, template("weights:1", behaviour="image-pull-failure"), **SOON))
        status = sets.wait(NAME, lambda s: s.get("failedRevisions"))
        (failed,) = status["failedRevisions"]
        assert (failed["group"], failed["reason"]) == ("weights", "ImagePull")
        status = sets.wait(NAME, lambda s: not s.get("rollouts"))
        assert condition(status, "Available")["status"] == "True"
        assert condition(status, "Degraded")["reason"] == "ImagePull"
        wait_for("the failed weights to go", lambda: len(sets.deployments(NAME, role="weights")) == 1)
    assert {key.revision for i in recorder.recording.instants for key in i.counts if not key.identity} == {good}
    left = {d["metadata"]["name"]: d["metadata"]["uid"] for d in sets.deployments(NAME)}
    assert left.items() >= before.items()

    with recorded(sets):
        sets.apply(NAME, made(2, template("weights:2")))
        wait_rolled(sets)
        wait_for("one Deployment for each role", lambda: len(sets.deployments(NAME)) == 4)


def test_a_rollback_that_fails_holds(sets: Sets, cluster: Cluster) -> None:
    """Old pods gave way to new ones that fail, and their node takes no more pods."""

    def made(version: int, *, behave: dict[str, str] | None = None) -> Object:
        return engines(version, **{name: role(2, 0, 1, behave=behave or {}) for name in ("prefill", "decode")})

    with reserved(cluster) as pool:
        start(sets, pool.only(made(1)))
        (good,) = revisions(sets)
        with recorded(sets) as recorder:
            _cordon(pool, on=True)
            sets.apply(NAME, made(2, behave={"behaviour": "never-ready"}) | {"rollout": SOON})
            status = sets.wait(NAME, lambda s: reason(s, "Degraded") == "RollbackFailed")
            (failed,) = status["failedRevisions"]
            assert failed["rollbackFailed"] is True
            assert failed["reason"] == "NotReady"
            message = condition(status, "Degraded")["message"]
            assert f"going back to revision {good} failed too" in message
            sets.wait_event(NAME, "RollbackFailed: compute revision")
            status = sets.wait(NAME, lambda s: reason(s, "Progressing") == "Held")

            # What was asked for may still come.
            _cordon(pool, on=False)
            sets.wait(NAME, _all_ready)
        assert min(recorder.recording.ready("prefill")) == 1
        with recorded(sets):
            sets.apply(NAME, made(3))
            status = wait_rolled(sets)
        assert reason(status, "Degraded") == "AsExpected"


def _cordon(pool: Pool, *, on: bool) -> None:
    pool.cluster.client.patch("v1", "Node", pool.name, None, {"spec": {"unschedulable": on}})


def test_a_kv_cache_alone_is_rolled_back(sets: Sets) -> None:
    """Compute stays as it is while a new KV image fails."""

    def made(kv: Object, **rollout: object) -> Object:
        return spec(kvCache=role(2, template=kv), compute=_pair(1)["compute"], rollout=rollout)

    start(sets, made(template("kv:1")))
    before = {d["metadata"]["name"]: d["metadata"]["generation"] for d in sets.deployments(NAME)}
    with recorded(sets) as recorder:
        sets.apply(NAME, made(template("kv:2", behaviour="crash-loop"), **SOON))
        status = sets.wait(NAME, lambda s: reason(s, "Progressing") == "RolledBack")
        assert [(f["group"], f["reason"]) for f in status["failedRevisions"]] == [("kv-cache", "CrashLoop")]
        wait_for("the failed revision to go", lambda: len(sets.deployments(NAME)) == len(before))
    assert {d["metadata"]["name"]: d["metadata"]["generation"] for d in sets.deployments(NAME)} == before
    assert min(recorder.recording.ready("kv-cache")) == 2
