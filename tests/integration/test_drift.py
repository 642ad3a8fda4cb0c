"""What others do to the children, to the set and to the operator."""

from __future__ import annotations

import pytest

from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from e2e.operator import Operator
from tests.integration.sets import CHILD_KINDS, PATIENCE, Sets, changed, compute, gpus, spec, template

SPEC = spec(weights={"template": template()}, compute=compute(prefill={}, decode={"accelerators": gpus()}))
WRITES = ("apply", "create", "delete")


def _without_what_the_server_sets(children: dict[str, Object]) -> dict[str, object]:
    return {
        name: (_metadata(child), child.get("revision"), child.get("data"), _spec(child))
        for name, child in children.items()
    }


def _metadata(child: Object) -> object:
    metadata = child["metadata"]
    ours = {name: v for name, v in metadata["annotations"].items() if name != "deployment.kubernetes.io/revision"}
    return metadata.get("labels"), metadata.get("ownerReferences"), ours


def _spec(child: Object) -> object:
    given = {"clusterIP", "clusterIPs"}  # another address is given to a Service that is made again
    return {name: value for name, value in (child.get("spec") or {}).items() if name not in given}


@pytest.mark.parametrize("kind", CHILD_KINDS, ids=lambda kind: kind[1])
def test_a_child_that_is_deleted_comes_back(sets: Sets, kind: tuple[str, str]) -> None:
    sets.apply("llama", SPEC)
    sets.wait_available("llama")
    before = sets.all_children("llama")
    for child in sets.children(*kind, "llama"):
        sets.cluster.client.delete(*kind, child["metadata"]["name"], sets.namespace)
    uids = {child["metadata"]["uid"] for child in before.values()}

    def back() -> bool:
        after = sets.all_children("llama")
        new = [c for name, c in after.items() if name.startswith(kind[1]) and c["metadata"]["uid"] not in uids]
        expected = [name for name in before if name.startswith(kind[1])]
        return len(new) == len(expected) and after.keys() == before.keys()

    wait_for(f"{kind[1]}s to come back", back)
    sets.wait_available("llama")
    # The status that it is available by may be one from before.
    wait_for(f"{kind[1]}s to be as they were", lambda: (
        _without_what_the_server_sets(sets.all_children("llama")) == _without_what_the_server_sets(before)
    ))  # fmt: skip


EDITS = {
    "Deployment": {
        "spec": {"template": {"spec": {"containers": [{"name": "engine", "image": "evil:1"}]}}, "replicas": 3}
    },
    "Service": {"spec": {"selector": {"app": "other"}, "ports": [{"name": "tcp-8000", "port": 8000, "targetPort": 9}]}},
    "PodDisruptionBudget": {
        "spec": {"maxUnavailable": "100%"},
        "metadata": {"labels": {"disaggregatedset.dev/set": None}},
    },
    "ResourceClaimTemplate": {
        "metadata": {
            "labels": {"disaggregatedset.dev/role": "x"},
            "annotations": {"disaggregatedset.dev/manifest-hash": "x"},
        }
    },
    "ControllerRevision": {"metadata": {"labels": {"disaggregatedset.dev/tier": "x"}}},
}


@pytest.mark.parametrize("kind", CHILD_KINDS, ids=lambda kind: kind[1])
def test_a_child_that_is_edited_is_put_back(sets: Sets, kind: tuple[str, str]) -> None:
    sets.apply("llama", SPEC)
    sets.wait_available("llama")
    before = _without_what_the_server_sets(sets.all_children("llama"))
    (name, *_) = [child["metadata"]["name"] for child in sets.children(*kind, "llama")]
    edited = sets.cluster.client.patch(*kind, name, sets.namespace, EDITS[kind[1]])
    assert _without_what_the_server_sets({name: edited})[name] != before[f"{kind[1]}/{name}"]

    def put_back() -> bool:
        return _without_what_the_server_sets(sets.all_children("llama")) == before

    wait_for(f"{kind[1]} {name} to be put back", put_back)
    sets.wait_available("llama")


def test_fields_of_other_managers_stay(sets: Sets) -> None:
    sets.apply("llama", SPEC)
    sets.wait_available("llama")
    (deployment, *_) = sets.deployments("llama", role="decode")
    name = deployment["metadata"]["name"]
    theirs = {
        "metadata": {"annotations": {"team": "a"}, "labels": {"cost-center": "7"}},
        "spec": {"minReadySeconds": 1},
    }
    sets.cluster.client.patch("apps/v1", "Deployment", name, sets.namespace, theirs)
    # A change of ours, which is certainly after theirs was seen.
    sets.apply("llama", changed(SPEC, lambda s: s["compute"]["roles"][1].update(replicas=2)))
    sets.wait_available("llama")
    after = sets.cluster.client.get("apps/v1", "Deployment", name, sets.namespace)
    assert after["metadata"]["annotations"]["team"] == "a"
    assert after["metadata"]["labels"]["cost-center"] == "7"
    assert after["spec"]["minReadySeconds"] == 1
    assert after["spec"]["replicas"] == 2


def _writes(operator: Operator) -> float:
    lines = [line for line in operator.metrics().splitlines() if line.startswith("rest_client_requests_total")]
    return sum(float(line.split()[-1]) for line in lines if any(f'verb="{verb}"' in line for verb in WRITES))


def _resyncs(operator: Operator) -> float:
    (line,) = [
        line
        for line in operator.metrics().splitlines()
        if line.startswith("rest_client_requests_total")
        and 'code="200",resource="controllerrevisions",verb="list"' in line
    ]
    return float(line.split()[-1])


def _quiet(operator: Operator) -> None:
    """Wait until two resyncs, after each of which every set is reconciled, have gone by without a write."""
    state = {"writes": -1.0, "resyncs": 0.0}

    def look() -> bool:
        writes, resyncs = _writes(operator), _resyncs(operator)
        if writes != state["writes"]:
            state.update(writes=writes, resyncs=resyncs)
        return resyncs >= state["resyncs"] + 3

    wait_for("the operator to write nothing at rest", look, timeout=PATIENCE)


def test_at_rest_and_after_a_restart_nothing_is_written(sets: Sets, resyncing: Operator) -> None:
    sets.apply("llama", SPEC)
    sets.wait_available("llama")
    _quiet(resyncing)
    before = sets.written("llama")
    resyncing.stop()
    resyncing.start()
    _quiet(resyncing)
    assert sets.written("llama") == before


@pytest.mark.parametrize("running", [True, False], ids=["operator running", "operator stopped"])
def test_deleting_the_set_removes_all_children(sets: Sets, operator: Operator, running: bool) -> None:
    sets.apply("llama", SPEC)
    sets.wait_available("llama")
    if not running:
        operator.stop()
    try:
        sets.cluster.kubectl("delete", "dset", "llama", "-n", sets.namespace, f"--timeout={PATIENCE}s")
        wait_for("all children to go", lambda: not sets.all_children("llama"))
        wait_for("all claims to go", lambda: not sets.children("resource.k8s.io/v1", "ResourceClaim", "llama"))
    finally:
        if not running:
            operator.start()


def test_orphaned_children_are_taken_back_by_nobody(sets: Sets) -> None:
    """``--cascade=orphan`` leaves pods that serve; a new set of the same name must not touch what is not its own."""
    sets.apply("llama", SPEC)
    sets.wait_available("llama")
    sets.cluster.kubectl("delete", "dset", "llama", "-n", sets.namespace, "--cascade=orphan")
    wait_for("the garbage collector to let go", lambda: not any(
        c["metadata"].get("ownerReferences") for c in sets.all_children("llama").values()
    ))  # fmt: skip
    before = sets.written("llama")
    sets.apply("llama", SPEC)
    status = sets.wait("llama", lambda s: s["conditions"][0]["reason"] == "NameConflict")
    assert "does not belong to this set" in status["conditions"][0]["message"]
    after = sets.written("llama")
    deployments = [name for name in before if name.startswith("Deployment")]
    assert {name: after[name] for name in deployments} == {name: before[name] for name in deployments}
