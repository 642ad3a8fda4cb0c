"""Evictions, as of a node that is drained: as many as a role's budget says, over all its revisions."""

from __future__ import annotations

import pytest

from e2e.cluster.client import ApiError, Object
from e2e.cluster.wait import wait_for
from tests.integration.rolling import NAME, Pool, engines, reserved, revisions, role, start
from tests.integration.scaled import pods, wait_scaled
from tests.integration.sets import PATIENCE, Sets, changed

BUDGET = ("policy/v1", "PodDisruptionBudget")


def _evict(sets: Sets, pod: Object) -> None:
    name = pod["metadata"]["name"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": sets.namespace}}
    path = f"{sets.cluster.client.path('v1', 'Pod', name, sets.namespace)}/eviction"
    sets.cluster.client.request("POST", path, body)


def _wait_allowed(sets: Sets, name: str, allowed: int, expected: int) -> Object:
    def seen(budget: Object) -> bool:
        status = budget.get("status") or {}
        return status.get("observedGeneration") == budget["metadata"]["generation"] and (
            status["disruptionsAllowed"],
            status["expectedPods"],
        ) == (allowed, expected)

    return sets.cluster.client.wait(*BUDGET, f"{NAME}-{name}", sets.namespace, seen, timeout=PATIENCE)


def _ready_of_both(sets: Sets) -> bool:
    found = sets.deployments(NAME, tier="compute")
    ready = [min(d["spec"]["replicas"], (d.get("status") or {}).get("readyReplicas", 0)) for d in found]
    return len(found) == 4 and all(ready)


def _cordon(pool: Pool, *, closed: bool) -> None:
    pool.cluster.client.patch("v1", "Node", pool.name, None, {"spec": {"unschedulable": closed}})


def test_an_eviction_beyond_the_budget_is_refused_whatever_the_revision(sets: Sets) -> None:
    with reserved(sets.cluster) as pool:

        def made(version: int) -> Object:
            return pool.only(engines(version, ready_after="500ms", prefill=role(2), decode=role(4)))

        start(sets, made(1))
        (old,) = revisions(sets)
        sets.apply(NAME, made(2))
        wait_for("pods of both revisions", lambda: _ready_of_both(sets), PATIENCE)
        sets.apply(NAME, made(2) | {"rollout": {"paused": True}})
        sets.wait(NAME, lambda s: all(r["ready"] == r["replicas"] >= r["desired"] for r in s["roles"]))
        total = len(pods(sets, role="decode"))
        budget = _wait_allowed(sets, "decode", 1, total)
        assert budget["spec"]["maxUnavailable"] == 1
        (new,) = revisions(sets) - {old}

        _cordon(pool, closed=True)  # so that what takes a pod's place has none
        _evict(sets, pods(sets, role="decode", revision=old)[0])
        with pytest.raises(ApiError) as refused:
            _evict(sets, pods(sets, role="decode", revision=new)[0])
        assert refused.value.status == 429
        assert "would violate the pod's disruption budget" in refused.value.message
        # Another role has a budget of its own.
        _evict(sets, pods(sets, role="prefill", revision=new)[0])
        _wait_allowed(sets, "decode", 0, total)
        _wait_allowed(sets, "prefill", 0, len(pods(sets, role="prefill")))

        _cordon(pool, closed=False)
        _wait_allowed(sets, "decode", 1, total)
        sets.apply(NAME, made(2))
        wait_for("the rollout to end", lambda: revisions(sets) == {new}, PATIENCE)
        _wait_allowed(sets, "decode", 1, 4)


def test_the_budget_is_as_the_set_says(sets: Sets) -> None:
    made = engines(
        1,
        prefill={"replicas": 4, "disruption": {"maxUnavailable": "50%"}},
        decode={"replicas": 2, "disruption": {"maxUnavailable": 0}},
    )
    start(sets, made)
    _wait_allowed(sets, "prefill", 2, 4)
    _wait_allowed(sets, "decode", 0, 2)
    with pytest.raises(ApiError, match="429"):
        _evict(sets, pods(sets, role="decode")[0])
    sets.apply(NAME, changed(made, lambda s: s["compute"]["roles"][1]["disruption"].update(maxUnavailable=1)))
    _wait_allowed(sets, "decode", 1, 2)
    _evict(sets, pods(sets, role="decode")[0])
    wait_scaled(sets, decode=2)


def test_an_unready_pod_keeps_no_node_from_being_drained(sets: Sets) -> None:
    start(sets, engines(1, prefill={}, decode={"replicas": 2}))
    _wait_allowed(sets, "decode", 1, 2)
    (bad, good) = pods(sets, role="decode")
    annotations = {"e2e.disaggregatedset.dev/behaviour": "never-ready"}
    sets.cluster.client.patch(
        "v1", "Pod", bad["metadata"]["name"], sets.namespace, {"metadata": {"annotations": annotations}}
    )
    _wait_allowed(sets, "decode", 0, 2)
    with pytest.raises(ApiError, match="429"):
        _evict(sets, good)
    _evict(sets, bad)
    wait_scaled(sets, decode=2)


def test_a_role_without_pods_has_no_budget(sets: Sets) -> None:
    def made(replicas: int) -> Object:
        return engines(1, prefill={"replicas": 1}, decode={"replicas": replicas, "allowZero": True})

    start(sets, made(2))
    assert sets.cluster.client.get(*BUDGET, f"{NAME}-decode", sets.namespace)
    sets.apply(NAME, made(0))
    sets.cluster.client.wait_gone(*BUDGET, f"{NAME}-decode", sets.namespace, timeout=PATIENCE)
    assert sets.cluster.client.get(*BUDGET, f"{NAME}-prefill", sets.namespace)
    sets.apply(NAME, made(1))
    wait_scaled(sets, decode=1)
    _wait_allowed(sets, "decode", 1, 1)
