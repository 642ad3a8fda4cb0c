"""Pods of a compute revision in one topology domain, by the real scheduler."""

from __future__ import annotations

from collections import defaultdict

import pytest

from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from tests.integration.rolling import NAME, engines, revisions, start, wait_rolled
from tests.integration.scaled import labelled_nodes, only_on, pods
from tests.integration.sets import LABEL, PATIENCE, Sets, changed, condition, role

RACKS = ("rack-a", "rack-b", "rack-c")


def _spec(key: str, version: int = 1, prefill: int = 2, decode: int = 3, **placement: object) -> Object:
    """A set whose compute pods each take a CPU, on nodes of these racks."""
    made = engines(version, prefill={"replicas": prefill}, decode={"replicas": decode})
    for of in made["compute"]["roles"]:
        of["template"]["spec"] |= only_on(key)
        of["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1"}}
    made["compute"]["placement"] = {"topologyKey": key, **placement}
    return made


def _racks(sets: Sets, key: str, name: str = NAME) -> dict[str, set[str]]:
    """The racks that the compute pods of each revision run in; one without a node is in none."""
    of_node = {
        n["metadata"]["name"]: n["metadata"]["labels"].get(key, "") for n in sets.cluster.client.list("v1", "Node")
    }
    found: dict[str, set[str]] = defaultdict(set)
    for pod in sets.children("v1", "Pod", name, tier="compute"):
        if node := pod["spec"].get("nodeName"):
            found[pod["metadata"]["labels"][f"{LABEL}/revision"]].add(of_node.get(node, ""))
    return found


@pytest.mark.parametrize("policy", ["Required", "Preferred"])
def test_pods_of_a_revision_are_in_one_domain(sets: Sets, policy: str) -> None:
    with labelled_nodes(sets.cluster, *RACKS, each=2) as key:
        start(sets, _spec(key, policy=policy))
        ((old, racks),) = _racks(sets, key).items()
        assert len(racks) == 1, racks
        assert racks < set(RACKS)
        sets.apply(NAME, _spec(key, 2, policy=policy))
        wait_rolled(sets)
        (new,) = revisions(sets)
        assert new != old
        assert len(_racks(sets, key)[new]) == 1
        # What is added later, is added there.
        before = _racks(sets, key)[new]
        sets.apply(NAME, _spec(key, 2, prefill=3, decode=6, policy=policy))
        sets.wait(NAME, lambda s: role(s, "decode")["ready"] == 6 and role(s, "prefill")["ready"] == 3)
        assert _racks(sets, key)[new] == before


def test_with_required_pods_wait_for_room_and_the_status_says_so(sets: Sets) -> None:
    with labelled_nodes(sets.cluster, *RACKS, cpu="4") as key:
        sets.apply(NAME, _spec(key, policy="Required"))
        status = sets.wait(NAME, lambda s: sum(r["ready"] for r in s["roles"]) == 4 and any(
            "didn't match pod affinity rules" in r.get("message", "") for r in s["roles"]
        ))  # fmt: skip
        assert condition(status, "Available")["status"] == "False"
        (racks,) = _racks(sets, key).values()
        assert len(racks) == 1, racks

    with labelled_nodes(sets.cluster, *RACKS, cpu="4") as key:  # where it is only preferred, they go elsewhere
        start(sets, _spec(key, policy="Preferred"))
        wait_rolled(sets)
        (racks,) = [found for found in _racks(sets, key).values() if found]
        assert len(racks) == 2, racks


def test_exclusive_sets_have_a_domain_each(sets: Sets) -> None:
    # A set of the same name in another namespace is another set.
    namespace = f"{sets.namespace}-other"[:63]
    sets.cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    sets.cluster.client.wait("v1", "ServiceAccount", "default", namespace, bool)
    others = Sets(sets.cluster, namespace)
    try:
        with labelled_nodes(sets.cluster, "rack-a", "rack-b", cpu="16") as key:
            exclusive = _spec(key, policy="Required", exclusive=True)
            sets.apply(NAME, exclusive)
            others.apply(NAME, exclusive)
            for each in (sets, others):
                each.wait_available(NAME)
            mine, theirs = (next(iter(_racks(each, key).values())) for each in (sets, others))
            assert len(mine) == len(theirs) == 1
            assert mine != theirs

            # There is no room for a third one, and none for one that doesn't ask to be alone.
            for name, third in (("third", exclusive), ("modest", _spec(key, policy="Preferred"))):
                sets.apply(name, third)
                status = sets.wait(name, lambda s: any(
                    "anti-affinity rules" in r.get("message", "") for r in s["roles"]
                ))  # fmt: skip
                assert condition(status, "Available")["status"] == "False"
                assert not _racks(sets, key, name)
            sets.cluster.client.delete("disaggregatedset.dev/v1alpha1", "DisaggregatedSet", "modest", sets.namespace)

            # A rollout stays at home, as the neighbour's rack is taken.
            sets.apply(NAME, _spec(key, 2, policy="Required", exclusive=True))
            wait_rolled(sets)
            assert next(racks for racks in _racks(sets, key).values() if racks) == mine

            # Whoever waits moves in when one goes.
            others.cluster.client.delete("disaggregatedset.dev/v1alpha1", "DisaggregatedSet", NAME, namespace)
            sets.wait_available("third")
            assert next(iter(_racks(sets, key, "third").values())) == theirs
    finally:
        sets.cluster.client.delete("v1", "Namespace", namespace)


def test_placement_rolls_only_compute_and_only_where_it_changes_pods(sets: Sets) -> None:
    with labelled_nodes(sets.cluster, *RACKS) as key:
        made = _spec(key)
        made["weights"] = {"template": {"spec": {"containers": [{"name": "w", "image": "w:1"}]}}}
        start(sets, made)
        before = {d["metadata"]["name"] for d in sets.deployments(NAME)}
        (revision,) = revisions(sets)
        # Preferred and not exclusive are what is so if nothing is said.
        said = {"policy": "Preferred", "exclusive": False}
        sets.apply(NAME, changed(made, lambda s: s["compute"]["placement"].update(said)))
        sets.wait_available(NAME)
        assert revisions(sets) == {revision}
        sets.apply(NAME, changed(made, lambda s: s["compute"]["placement"].update(policy="Required")))
        wait_for("another revision", lambda: revisions(sets) - {revision}, PATIENCE)
        wait_rolled(sets)
        weights = {name for name in before if "-weights-" in name}
        assert weights < {d["metadata"]["name"] for d in sets.deployments(NAME)}
        assert all("podAffinity" in p["spec"]["affinity"] for p in pods(sets, tier="compute"))
        # The user's own affinity is still there.
        assert all("nodeAffinity" in p["spec"]["affinity"] for p in pods(sets, tier="compute"))
