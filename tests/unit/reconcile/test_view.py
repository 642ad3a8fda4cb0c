"""What is read from the cache of a set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile.controller import WATCHED
from disaggregatedset.reconcile.view import Claims, View, view
from disaggregatedset.render import SET_LABEL
from disaggregatedset.rollout import Observed, Running
from tests.unit.builders import World, live, make_set, observed

KEY = Key("inference", "llama")


def _view(world: World, *more: tuple[objects.Kind, Any]) -> View:
    cache = Cache(WATCHED, SET_LABEL)
    for kind, children in world.children.items():
        for child in children:
            cache.store(kind, child)
    for kind, child in more:
        cache.store(kind, child)
    return view(cache, KEY, "uid-of-set")


def test_a_set_with_everything() -> None:
    world = World(make_set()).run_all()
    for child in world.children[objects.DEPLOYMENT]:
        asked = child["spec"]["replicas"]
        child["status"] = {"replicas": asked, "readyReplicas": asked, "observedGeneration": 1}
    seen = _view(world)
    assert sorted(seen.running, key=repr) == sorted(world.running, key=repr)
    assert {key: number for key, (_, number) in seen.history.items()} == {
        (tier.group, tier.revision): 1 for tier in world.tiers.values()
    }
    assert all(seen.history[tier.group, tier.revision][0] == tier for tier in world.tiers.values())


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, Observed(2, 0, 0, current=False)),
        ({"observedGeneration": 2, "replicas": 2, "readyReplicas": 2}, Observed(2, 2, 2, current=False)),
        ({"observedGeneration": 3, "replicas": 2}, Observed(2, 2, 0, current=True)),
    ],
)
def test_what_a_deployment_says(status: Any, expected: Observed) -> None:
    world = World(make_set())
    world.run(world.tiers["compute"], "decode", observed(2))
    [deployment] = world.children[objects.DEPLOYMENT]
    deployment["metadata"]["generation"] = 3
    deployment["status"] = status
    [running] = _view(world).running
    tier = world.tiers["compute"]
    assert running == Running("compute", "decode", tier.revision, tier.model_revision, expected)


def test_children_of_others_are_not_seen() -> None:
    world = World(make_set()).run_all()
    for child in world.children[objects.DEPLOYMENT]:
        child["metadata"]["ownerReferences"][0]["uid"] = "a set of the same name that was deleted"
    assert _view(world).running == []


def test_claims_are_counted_by_role() -> None:
    def claim(name: str, role: str | None, *, allocated: bool) -> tuple[objects.Kind, Any]:
        labels = {SET_LABEL: "llama"} | ({"disaggregatedset.dev/role": role} if role else {})
        status = {"allocation": {"devices": {}}} if allocated else {}
        metadata = {"name": name, "namespace": "inference", "labels": labels, "resourceVersion": "1"}
        return objects.CLAIM, {"metadata": metadata, "status": status}

    seen = _view(
        World(make_set()),
        claim("a", "prefill", allocated=True),
        claim("b", "prefill", allocated=False),
        claim("c", "decode", allocated=True),
        claim("d", None, allocated=True),
    )
    assert seen.claims["prefill"] == Claims(allocated=1, pending=1)
    assert seen.claims["decode"] == Claims(allocated=1, pending=0)


@pytest.mark.parametrize("label", ["role", "revision", "tier", "model-revision"])
@pytest.mark.parametrize("value", [None, "wrong"])
def test_a_deployment_whose_labels_were_edited_is_still_known(label: str, value: str | None) -> None:
    """Otherwise the edit could never be repaired. What it selects can't be edited, and its pods carry the rest."""
    world = World(make_set())
    world.run(world.tiers["compute"], "decode", observed(2))
    before = _view(world).running
    [deployment] = world.children[objects.DEPLOYMENT]
    labels = dict(deployment["metadata"]["labels"])
    if value is None:
        del labels[f"disaggregatedset.dev/{label}"]
    else:
        labels[f"disaggregatedset.dev/{label}"] = value
    world.children[objects.DEPLOYMENT] = [live(deployment, labels=labels)]
    assert _view(world).running == before


def test_a_revision_whose_record_is_gone_is_read_off_its_deployments() -> None:
    """A person deletes a ControllerRevision: what runs can still be scaled, and its claim templates stay."""
    world = World(make_set())
    tier = replace(world.tiers["compute"], revision="old")
    world.run(tier, "prefill", observed(1), kept=False)
    read, number = _view(world).history["compute", "old"]
    assert number == 0
    assert read == replace(tier, roles={"prefill": tier.roles["prefill"]})
