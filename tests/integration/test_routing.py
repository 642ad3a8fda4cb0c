"""The InferencePool of a set, on clusters with and without its CRD, which may come and go any time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.client import ApiError, Object
from e2e.cluster.foreign import install_foreign_crds
from e2e.cluster.wait import wait_for
from e2e.operator import Operator
from tests.integration.rolling import NAME, start
from tests.integration.scaled import pods
from tests.integration.sets import LABEL, PATIENCE, Sets, changed, compute, condition, spec, template

POOL = ("inference.networking.k8s.io/v1", "InferencePool")
_CRD = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "inferencepools.inference.networking.k8s.io")


def _routed(**more: object) -> Object:
    picker = {"name": "picker", **more}
    return {"inferencePool": {"targetPorts": [{"number": 8000}], "endpointPickerRef": picker}}


SPEC = spec(
    weights={"template": template("weights:1")},
    kvCache={"replicas": 2, "template": template("kv:1"), "coordinator": {"template": template("master:1")}},
    compute=compute(prefill={"replicas": 2}, decode={"replicas": 2}),
    routing=_routed(),
)


def _remove_crd(cluster: Cluster) -> None:
    cluster.client.delete(*_CRD)
    cluster.client.wait_gone(*_CRD, timeout=PATIENCE)
    wait_for("InferencePools not to be served", lambda: not _served(cluster), PATIENCE)


def _served(cluster: Cluster) -> bool:
    try:
        resources = cluster.client.request("GET", f"/apis/{POOL[0]}")["resources"]
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return any(r["name"] == "inferencepools" for r in resources)


@pytest.fixture
def without_pools(cluster: Cluster) -> Iterator[None]:
    _remove_crd(cluster)
    yield
    _remove_crd(cluster)


@pytest.fixture(scope="module")
def with_pools(cluster: Cluster, operator: Operator) -> Iterator[None]:
    install_foreign_crds(cluster, "inference-pool")
    # kopf looks for a new kind when its CRD changes, which may be a moment before the API server tells of the kind.
    operator.stop()
    operator.start()
    yield
    _remove_crd(cluster)


def _wait_routed(sets: Sets, reason: str) -> Object:
    return sets.wait(NAME, lambda s: condition(s, "Routed")["reason"] == reason)


def _wait_pool(sets: Sets) -> Object:
    return sets.cluster.client.wait(*POOL, NAME, sets.namespace, bool, timeout=PATIENCE)


def _selected(sets: Sets, pool: Object) -> list[Object]:
    labels = ",".join(f"{key}={value}" for key, value in pool["spec"]["selector"]["matchLabels"].items())
    return sets.cluster.client.list("v1", "Pod", sets.namespace, labels=labels)


def test_the_crd_comes_and_goes_while_the_operator_runs(without_pools: None, sets: Sets) -> None:
    sets.apply(NAME, SPEC)
    status = sets.wait_available(NAME)
    routed = condition(status, "Routed")
    assert (routed["status"], routed["reason"]) == ("False", "InferencePoolNotServed")
    assert "install the CRDs of the Gateway API inference extension; everything else works without" in routed["message"]

    install_foreign_crds(sets.cluster, "inference-pool")
    _wait_routed(sets, "InferencePoolReady")
    _wait_pool(sets)

    _remove_crd(sets.cluster)
    # Whatever happens next: the rest works.
    sets.apply(NAME, changed(SPEC, lambda s: s["compute"]["roles"][1].update(replicas=3)))
    status = sets.wait_available(NAME)
    assert condition(status, "Available")["status"] == "True"
    _wait_routed(sets, "InferencePoolNotServed")
    install_foreign_crds(sets.cluster, "inference-pool")
    _wait_routed(sets, "InferencePoolReady")
    _wait_pool(sets)


def test_a_set_without_routing_says_nothing_of_it(sets: Sets) -> None:
    status = start(sets, changed(SPEC, lambda s: s.pop("routing")))
    assert not condition(status, "Routed")["status"]


def test_the_pool_selects_exactly_the_compute_pods(with_pools: None, sets: Sets) -> None:
    start(sets, SPEC)
    sets.apply("other", changed(SPEC, lambda s: s.pop("routing")))
    sets.wait_available("other")
    _wait_routed(sets, "InferencePoolReady")
    pool = _wait_pool(sets)
    selected = _selected(sets, pool)
    assert sorted(p["metadata"]["labels"][f"{LABEL}/role"] for p in selected) == ["decode"] * 2 + ["prefill"] * 2
    assert {p["metadata"]["labels"][f"{LABEL}/set"] for p in selected} == {NAME}
    assert {p["metadata"]["labels"]["llm-d.ai/role"] for p in selected} == {"prefill", "decode"}
    there = {p["metadata"]["labels"][f"{LABEL}/role"] for p in pods(sets)}
    assert there == {"weights", "kv-cache", "kv-coordinator", "prefill", "decode"}
    assert pool["spec"]["targetPorts"] == [{"number": 8000}]
    picker = {"group": "", "kind": "Service", "name": "picker", "port": {"number": 9002}, "failureMode": "FailClose"}
    assert pool["spec"]["endpointPickerRef"] == picker

    # What the set says next, and what others say.
    sets.apply(NAME, changed(SPEC, lambda s: s.update(routing=_routed(failureMode="FailOpen", port={"number": 9999}))))
    sets.cluster.client.wait(*POOL, NAME, sets.namespace, lambda p: (
        p["spec"]["endpointPickerRef"]["failureMode"], p["spec"]["endpointPickerRef"]["port"]["number"]
    ) == ("FailOpen", 9999), timeout=PATIENCE)  # fmt: skip
    edit = {"spec": {"selector": {"matchLabels": {f"{LABEL}/tier": "kvCache"}}, "targetPorts": [{"number": 1}]}}
    sets.cluster.client.patch(*POOL, NAME, sets.namespace, edit)
    sets.cluster.client.wait(*POOL, NAME, sets.namespace, lambda p: (
        p["spec"]["selector"] == pool["spec"]["selector"] and p["spec"]["targetPorts"] == [{"number": 8000}]
    ), timeout=PATIENCE)  # fmt: skip

    sets.cluster.client.delete(*POOL, NAME, sets.namespace)
    uid = pool["metadata"]["uid"]
    sets.cluster.client.wait(*POOL, NAME, sets.namespace, lambda p: p["metadata"]["uid"] != uid, timeout=PATIENCE)
    assert len(_selected(sets, _wait_pool(sets))) == 4

    # Without it in the spec it goes, and the condition too.
    sets.apply(NAME, changed(SPEC, lambda s: s.pop("routing")))
    sets.cluster.client.wait_gone(*POOL, NAME, sets.namespace, timeout=PATIENCE)
    status = sets.wait(NAME, lambda s: not condition(s, "Routed")["status"])
    assert condition(status, "Available")["status"] == "True"


def test_somebody_else_s_pool_is_left_alone(with_pools: None, sets: Sets) -> None:
    picker = {"name": "theirs", "port": {"number": 1}}
    theirs = {"selector": {"matchLabels": {"app": "x"}}, "targetPorts": [{"number": 1}], "endpointPickerRef": picker}
    metadata = {"name": NAME, "namespace": sets.namespace}
    made = sets.cluster.client.create({"apiVersion": POOL[0], "kind": POOL[1], "metadata": metadata, "spec": theirs})
    sets.apply(NAME, SPEC)
    sets.wait_available(NAME)
    status = _wait_routed(sets, "NameConflict")
    assert "does not belong to this set" in condition(status, "Routed")["message"]
    assert sets.cluster.client.get(*POOL, NAME, sets.namespace)["spec"] == made["spec"]
    sets.cluster.client.delete(*POOL, NAME, sets.namespace)
    _wait_routed(sets, "InferencePoolReady")
