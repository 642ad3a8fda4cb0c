"""What is read from the cache of a set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile.controller import WATCHED
from disaggregatedset.reconcile.diagnose import Cause, Diagnoses, Diagnosis
from disaggregatedset.reconcile.view import Claims, View, view
from disaggregatedset.render import SET_LABEL
from disaggregatedset.rollout import Observed, Running
from tests.api.cases import changed
from tests.unit.builders import World, full_spec, live, make_set, observed, other

KEY = Key("inference", "llama")


def _claim(name: str, role: str | None, *, allocated: bool) -> tuple[objects.Kind, Any]:
    labels = {SET_LABEL: "llama"} | ({"disaggregatedset.dev/role": role} if role else {})
    status = {"allocation": {"devices": {}}} if allocated else {}
    metadata = {"name": name, "namespace": "inference", "labels": labels, "resourceVersion": "1"}
    return objects.CLAIM, {"metadata": metadata, "status": status}


def _view(world: World, *more: tuple[objects.Kind, Any], diagnoses: Diagnoses = Diagnoses()) -> View:  # noqa: B008
    cache = Cache(WATCHED, SET_LABEL)
    for kind, children in world.children.items():
        for child in children:
            cache.store(kind, child)
    for kind, child in more:
        cache.store(kind, child)
    return view(cache, KEY, "uid-of-set", diagnoses)


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
        (None, Observed(2, ready=0, replicas=0, current=False)),
        ({"observedGeneration": 2, "replicas": 2, "readyReplicas": 2}, Observed(2, 2, 2, current=False)),
        ({"observedGeneration": 3, "replicas": 2}, Observed(2, ready=0, replicas=2, current=True)),
        ({"observedGeneration": 4, "replicas": 2, "readyReplicas": 1}, Observed(2, ready=1, replicas=2)),
        # What is terminating is still there: two coordinators must not be.
        ({"observedGeneration": 3, "replicas": 2, "terminatingReplicas": 3}, Observed(2, ready=0, replicas=5)),
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
    assert running == Running("compute", "decode", tier.revision, "", expected)


def test_children_of_others_are_not_seen() -> None:
    world = World(make_set()).run_all()
    for child in world.children[objects.DEPLOYMENT]:
        child["metadata"]["ownerReferences"][0]["uid"] = "a set of the same name that was deleted"
    assert _view(world).running == []


def test_claims_are_counted_by_role() -> None:
    seen = _view(
        World(make_set()),
        _claim("a", "prefill", allocated=True),
        _claim("b", "prefill", allocated=False),
        _claim("c", "decode", allocated=True),
        _claim("d", None, allocated=True),
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
    world.run_all()
    tier = other(world.tiers["compute"], "old")
    world.run(tier, "prefill", observed(1), kept=False)
    read, number = _view(world).history["compute", "old"]
    assert number == 0
    assert read == replace(tier, roles={"prefill": tier.roles["prefill"]})


def test_what_an_unrecorded_revision_uses_is_guessed_by_what_is_there_of_its_model_or_its_own() -> None:
    scoped = World(make_set(changed(full_spec(), {"kvCache.scope": "Revision"})))
    scoped.run_all()
    scoped.history.clear()
    scoped.children[objects.CONTROLLER_REVISION].clear()
    assert {key: read for key, (read, _) in _view(scoped).history.items()} == {
        (tier.group, tier.revision): replace(tier, needs=tier.needs if tier.group == "compute" else {})
        for tier in scoped.tiers.values()
    }


def test_the_identity_of_what_runs() -> None:
    for scope, of in (("Model", "model_revision"), ("Revision", "compute_revision")):
        world = World(make_set(changed(full_spec(), {"kvCache.scope": scope}))).run_all()
        identities = {r.group: r.identity for r in _view(world).running}
        expected = getattr(world.tiers["kv-cache"], of)
        assert identities["kv-cache"] == identities["kv-coordinator"] == expected
        assert identities["weights"] == world.tiers["weights"].model_revision
        assert identities["compute"] == ""


@pytest.mark.parametrize(
    ("waiting", "ready", "claims", "expected"),
    [
        (2, 0, None, 2),
        (2, 1, None, 2),
        (2, 2, None, 1),  # one has found its device since
        (2, 3, None, 0),
        (2, 0, Claims(allocated=2, pending=1), 1),
        (2, 0, Claims(allocated=3, pending=0), 0),
    ],
)
def test_how_many_pods_wait_for_devices(waiting: int, ready: int, claims: Claims | None, expected: int) -> None:
    """What was seen when pods were last looked at, as far as it can still be true."""
    world = World(make_set())
    tier = world.tiers["compute"]
    world.run(tier, "prefill", observed(3)).run(tier, "decode", observed(3))
    for deployment in world.children[objects.DEPLOYMENT]:
        deployment["status"] = {"observedGeneration": 1, "replicas": 3, "readyReplicas": ready}
    found = Diagnosis(Cause.DEVICES_EXHAUSTED, "", {Cause.DEVICES_EXHAUSTED: waiting, Cause.STARTING: 1})
    counted = claims or Claims()
    made = [_claim(f"a{n}", "prefill", allocated=True) for n in range(counted.allocated)]
    made += [_claim(f"p{n}", "prefill", allocated=False) for n in range(counted.pending)]
    diagnoses = Diagnoses({}, {("prefill", tier.revision): found, ("decode", "another"): found})
    seen = {r.role: r.observed.without_devices for r in _view(world, *made, diagnoses=diagnoses).running}
    assert seen == {"prefill": expected, "decode": 0}
