"""Roles scale by hand, each on its own: with kubectl, whatever else is under way."""

from __future__ import annotations

import pytest

from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from e2e.operator import Operator
from tests.integration.recorder import Recorder
from tests.integration.rolling import NAME, engines, start, wait_rolled
from tests.integration.scaled import (
    EXTERNAL,
    asked,
    conditions,
    held,
    scale,
    scaler,
    steps,
    wait_scaled,
    wait_scaler,
    wait_started,
)
from tests.integration.sets import API, PATIENCE, Sets, changed, compute, condition, role, spec, template

ROLES = ("weights", "kv-cache", "prefill", "decode")


def _spec(version: int = 1) -> Object:
    """A set whose roles are scaled by hand; one follows decode."""
    engine = template(f"engine:{version}", ready_after="200ms")
    by_hand = {"replicas": 2, **EXTERNAL}
    follows = {"scaling": {"mode": "Follow", "follow": {"role": "decode", "ratio": "1:2"}}}
    return spec(
        weights={**by_hand, "template": template("weights:1")},
        kvCache={**by_hand, "template": template("kv:1"), "scaleDown": {"maxStep": 4, "periodSeconds": 1}},
        compute=compute(
            prefill={**by_hand, "template": engine},
            decode={**by_hand, "template": engine},
            encode={**follows, "template": engine},
        ),
    )


def _alone(sets: Sets, name: str, replicas: int, followers: int = 1) -> None:
    """Scale a role, and check that no other moves; encode follows."""
    before = {other: asked(sets, other) for other in ROLES if other != name}
    with Recorder(sets, NAME) as recorder:
        scale(sets, name, replicas)
        wait_scaled(sets, **{name: replicas, "encode": followers})
    recording = recorder.recording
    assert {other: steps(recording.total(other)) for other in before} == {
        other: [number] for other, number in before.items()
    }, recording.table()


def test_kubectl_scales_each_role_before_and_after_a_rollout(sets: Sets) -> None:
    start(sets, _spec())
    for name in ("weights", "kv-cache", "prefill"):
        _alone(sets, name, 3)
    _alone(sets, "decode", 5, followers=3)
    scaled = {"weights": 3, "kv_cache": 3, "prefill": 3, "decode": 5, "encode": 3}

    with Recorder(sets, NAME) as recorder:
        sets.apply(NAME, _spec(2))
        wait_rolled(sets)
    wait_scaled(sets, **scaled)
    for name, number in scaled.items():
        ready = recorder.recording.ready(name.replace("_", "-"))
        assert min(ready) == number, recorder.recording.table()

    for name in ("weights", "kv-cache", "prefill"):
        _alone(sets, name, 1, followers=3)
    _alone(sets, "decode", 2, followers=1)
    seen = scaler(sets, "decode")
    assert seen["spec"] == {"role": "decode", "mode": "External", "replicas": 2}
    wait_scaler(sets, "decode", lambda s: (
        s["status"]["replicas"] == s["status"]["desiredReplicas"] == 2
        and s["status"]["observedGeneration"] == s["metadata"]["generation"]
        and conditions(s)["ScalingActive"]["status"] == "True"
    ))  # fmt: skip


def test_kubectl_scales_each_role_in_mid_rollout(sets: Sets) -> None:
    start(sets, _spec())
    with held(sets.cluster) as holder:
        sets.apply(NAME, holder.holding(_spec(2)))
        wait_started(sets)
        for name, number in {"weights": 3, "kv-cache": 4, "prefill": 4, "decode": 6}.items():
            others = [other for other in ROLES if other != name]
            with Recorder(sets, NAME) as recorder:
                scale(sets, name, number)
                # New pods can't run: that they are asked for is all that can be.
                wait_for(f"{number} pods of {name}", lambda n=name, m=number: asked(sets, n) in {m, m + 1}, PATIENCE)
                sets.wait(NAME, lambda s, n=name, m=number: role(s, n)["desired"] == m)
            for other in others:
                assert min(recorder.recording.ready(other)) >= 2, recorder.recording.table()
                total = recorder.recording.total(other)
                assert max(total) - min(total) <= 1, recorder.recording.table()  # the one of the surge
        with Recorder(sets, NAME) as recorder:
            scale(sets, "decode", 3)
            sets.wait(NAME, lambda s: role(s, "decode")["desired"] == 3 and role(s, "encode")["desired"] == 2)
            wait_for(
                "fewer pods of decode", lambda: asked(sets, "decode") <= 5, PATIENCE
            )  # the two old ones are needed
            holder.release()
            wait_rolled(sets)
            wait_scaled(sets, weights=3, kv_cache=4, prefill=4, decode=3, encode=2)
        assert min(recorder.recording.ready("decode")) >= 2, recorder.recording.table()
        assert min(recorder.recording.ready("weights")) >= 3, recorder.recording.table()
    assert scaler(sets, "decode")["spec"]["replicas"] == 3


@pytest.mark.parametrize("mode", ["Static", "Follow"])
def test_a_role_that_the_set_decides_says_so(sets: Sets, mode: str) -> None:
    start(sets, _spec() | {"compute": compute(prefill={}, decode={**_FOLLOWS} if mode == "Follow" else {})})
    refused = sets.cluster.kubectl("scale", f"dscale/{NAME}-decode", "--replicas=6", "-n", sets.namespace, check=False)
    assert refused.returncode
    assert f"the DisaggregatedSet decides how many pods this role has (scaling.mode {mode})" in refused.stderr
    assert ("scale the role that it follows" if mode == "Follow" else "change replicas there") in refused.stderr
    assert "or set scaling.mode External there to scale it here" in refused.stderr
    assert asked(sets, "decode") == 1


_FOLLOWS = {"scaling": {"mode": "Follow", "follow": {"role": "prefill", "ratio": "1:1"}}}


def test_bounds_hold_whatever_is_asked_for(sets: Sets) -> None:
    bounded = {"replicas": 3, "scaling": {"mode": "External", "minReplicas": 2, "maxReplicas": 4}}
    start(sets, engines(1, prefill={}, decode=bounded))
    for number, within, reason in ((9, 4, "TooManyReplicas"), (1, 2, "TooFewReplicas"), (3, 3, "DesiredWithinRange")):
        scale(sets, "decode", number)
        wait_scaled(sets, decode=within)
        wait_scaler(sets, "decode", lambda s, r=reason: conditions(s)["ScalingLimited"]["reason"] == r)
    # Whoever edits the bounds finds them as the set says.
    kind = (API, "RoleScaler", f"{NAME}-decode", sets.namespace)
    sets.cluster.client.patch(*kind, {"spec": {"maxReplicas": 20, "minReplicas": None, "mode": "Static"}})
    wanted = {"role": "decode", "mode": "External", "replicas": 3, "minReplicas": 2, "maxReplicas": 4}
    wait_scaler(sets, "decode", lambda s: s["spec"] == wanted)
    wait_scaled(sets, decode=3)


def test_a_role_scaler_that_is_deleted_comes_back_with_its_number(sets: Sets) -> None:
    start(sets, engines(1, prefill={}, decode={"replicas": 1, **EXTERNAL}))
    scale(sets, "decode", 3)
    wait_scaled(sets, decode=3)
    uid = scaler(sets, "decode")["metadata"]["uid"]
    with Recorder(sets, NAME) as recorder:
        sets.cluster.client.delete(API, "RoleScaler", f"{NAME}-decode", sets.namespace)
        wait_scaler(sets, "decode", lambda s: s["metadata"]["uid"] != uid and "fixedReplicas" not in s["spec"])
        wait_scaled(sets, decode=3)
    assert set(recorder.recording.total("decode")) == {3}, recorder.recording.table()
    assert scaler(sets, "decode")["spec"]["replicas"] == 3
    scale(sets, "decode", 2)
    wait_scaled(sets, decode=2)


@pytest.mark.parametrize("label", ["role", "set", "tier"])
@pytest.mark.parametrize("to", [None, "x"], ids=["removed", "changed"])
def test_labels_of_a_role_scaler_are_put_back(sets: Sets, label: str, to: str | None) -> None:
    start(sets, engines(1, prefill={}, decode={"replicas": 3, **EXTERNAL}))
    scale(sets, "decode", 2)
    wait_scaled(sets, decode=2)
    before = scaler(sets, "decode")
    kind = (API, "RoleScaler", f"{NAME}-decode", sets.namespace)
    with Recorder(sets, NAME) as recorder:
        sets.cluster.client.patch(*kind, {"metadata": {"labels": {f"disaggregatedset.dev/{label}": to}}})
        after = wait_scaler(sets, "decode", lambda s: (
            s["metadata"]["labels"] == before["metadata"]["labels"] and "fixedReplicas" not in s["spec"]
        ))  # fmt: skip
        assert after["spec"] == before["spec"]
        scale(sets, "decode", 3)
        wait_scaled(sets, decode=3)
    assert steps(recorder.recording.total("decode")) == [2, 3], recorder.recording.table()


def test_a_set_from_before_role_scalers_needs_nothing(sets: Sets, operator: Operator) -> None:
    start(sets, engines(1, prefill={"replicas": 2}, decode={"replicas": 3}))
    before = {d["metadata"]["name"]: d["metadata"]["generation"] for d in sets.deployments(NAME)}
    operator.stop()
    try:
        sets.cluster.kubectl("delete", "dscale", "--all", "-n", sets.namespace)
        kept = {"observedGeneration", "conditions", "goodRevisions", "modelRevision", "summary", "roles"}
        status = {field: None for field in sets.get(NAME)["status"] if field not in kept}
        path = sets.cluster.client.path(API, "DisaggregatedSet", NAME, sets.namespace)
        sets.cluster.client.request(
            "PATCH", f"{path}/status", {"status": status}, content_type="application/merge-patch+json"
        )
    finally:
        operator.start()
    wait_scaler(sets, "decode", lambda s: s["spec"]["fixedReplicas"] == 3 and s.get("status"))
    wait_scaler(sets, "prefill", lambda s: s["spec"]["fixedReplicas"] == 2 and s.get("status"))
    wait_scaled(sets, prefill=2, decode=3)
    after = {d["metadata"]["name"]: d["metadata"]["generation"] for d in sets.deployments(NAME)}
    assert after == before


def test_a_role_that_goes_takes_its_role_scaler_along(sets: Sets) -> None:
    start(sets, engines(1, prefill={}, decode={}, encode={"replicas": 2, **EXTERNAL}))
    scale(sets, "encode", 3)
    wait_scaled(sets, encode=3)
    sets.apply(NAME, engines(1, prefill={}, decode={}))
    wait_rolled(sets)
    for kind in ((API, "RoleScaler"), ("policy/v1", "PodDisruptionBudget")):
        sets.cluster.client.wait_gone(*kind, f"{NAME}-encode", sets.namespace, timeout=PATIENCE)


def test_all_of_compute_scales_to_zero_and_back(sets: Sets) -> None:
    made = engines(1, prefill={"replicas": 2, **EXTERNAL}, decode={"replicas": 2, **EXTERNAL})
    start(sets, made)
    for name in ("prefill", "decode"):
        scale(sets, name, 0)
    status = sets.wait(NAME, lambda s: condition(s, "Available")["reason"] == "ScaledToZero")
    assert condition(status, "Available")["status"] == "True"
    assert "all compute roles are scaled to 0" in condition(status, "Available")["message"]
    wait_scaled(sets, prefill=0, decode=0)
    for name in ("prefill", "decode"):  # nothing is left for evictions to break
        sets.cluster.client.wait_gone(
            "policy/v1", "PodDisruptionBudget", f"{NAME}-{name}", sets.namespace, timeout=PATIENCE
        )
    # A change at zero costs nothing, and what comes back is the new revision.
    sets.apply(NAME, changed(made, lambda s: s["compute"]["roles"][0].update(template=template("engine:2"))))
    sets.wait_available(NAME)
    for name in ("prefill", "decode"):
        scale(sets, name, 3)
    wait_scaled(sets, prefill=3, decode=3)
    status = wait_rolled(sets)
    assert condition(status, "Available")["reason"] == "AllRolesReady"
    assert {c["image"] for p in sets.children("v1", "Pod", NAME, role="prefill") for c in p["spec"]["containers"]} == {
        "engine:2"
    }
    for name in ("prefill", "decode"):
        assert sets.cluster.client.get("policy/v1", "PodDisruptionBudget", f"{NAME}-{name}", sets.namespace)


def test_static_roles_start_at_zero_and_come_up(sets: Sets) -> None:
    status = start(sets, engines(1, prefill={"replicas": 0}, decode={"replicas": 0}))
    assert condition(status, "Available")["reason"] == "ScaledToZero"
    sets.apply(NAME, engines(1, prefill={"replicas": 1}, decode={"replicas": 2}))
    wait_scaled(sets, prefill=1, decode=2)
    sets.apply(NAME, engines(1, prefill={"replicas": 0}, decode={"replicas": 0}))
    wait_scaled(sets, prefill=0, decode=0)
    sets.wait(NAME, lambda s: condition(s, "Available")["reason"] == "ScaledToZero")


def test_one_role_at_zero_serves_nothing_unless_it_may_be(sets: Sets) -> None:
    made = engines(1, prefill={"replicas": 1, **EXTERNAL}, decode={"replicas": 2, **EXTERNAL})
    start(sets, made)
    scale(sets, "decode", 0)
    status = sets.wait(NAME, lambda s: condition(s, "Available")["reason"] == "RoleScaledToZero")
    assert condition(status, "Available")["status"] == "False"
    message = condition(status, "Available")["message"]
    assert message.startswith("decode is scaled to 0 while others are not, so nothing can be served: scale decode up")
    wait_scaled(sets, prefill=1, decode=0)  # it is reported, and done all the same
    sets.apply(NAME, changed(made, lambda s: s["compute"]["roles"][1].update(allowZero=True)))
    status = sets.wait(NAME, lambda s: condition(s, "Available")["status"] == "True")
    assert condition(status, "Available")["reason"] == "AllRolesReady"
    sets.apply(NAME, made)
    sets.wait(NAME, lambda s: condition(s, "Available")["reason"] == "RoleScaledToZero")
    scale(sets, "decode", 2)
    sets.wait_available(NAME)
