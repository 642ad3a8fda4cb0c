"""Design, section 4: what a change rolls, and that nothing else does."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disaggregatedset.render.revisions import digest, revisions
from tests.api.cases import changed
from tests.unit.builders import full_spec, make_set

Object = dict[str, Any]

ALL = {"model", "weights", "kv-coordinator", "kv-cache", "compute"}
ROUTING = {"inferencePool": {"targetPorts": [{"number": 1}], "endpointPickerRef": {"name": "picker"}}}
GPU = {"requests": [{"name": "gpu", "deviceClassName": "gpu.example.com"}]}


def _revisions(spec: Object) -> dict[str, str]:
    made = revisions(make_set(spec).spec)
    return {"model": made.model} | dict(made.groups)


def _rolled(change: Callable[[Object], None] | dict[str, Any]) -> set[str]:
    """Return what has another revision after a change, or has one only before or after it."""
    before = full_spec()
    after = copy.deepcopy(before)
    if callable(change):
        change(after)
    else:
        after = changed(after, change)
    was, now = _revisions(before), _revisions(after)
    return {group for group in was.keys() | now.keys() if was.get(group) != now.get(group)}


@pytest.mark.parametrize(
    ("change", "rolled"),
    [
        ({"model.name": "other"}, ALL),
        ({"model.source": "hf://other"}, ALL),
        ({"model.revision": "v2"}, ALL),
        ({"weights.template.spec.containers[0].image": "new"}, {"weights"}),
        ({"weights.accelerators": GPU}, {"weights"}),
        ({"kvCache.template.spec.containers[0].image": "new"}, {"kv-cache"}),
        ({"kvCache.template.metadata": {"annotations": {"a": "b"}}}, {"kv-cache"}),
        ({"kvCache.accelerators": GPU}, {"kv-cache"}),
        ({"kvCache.coordinator.template.spec.containers[0].image": "new"}, {"kv-coordinator"}),
        ({"compute.roles[0].template.spec.containers[0].image": "new"}, {"compute"}),
        ({"compute.roles[1].template.spec.containers[0].args": ["--flag"]}, {"compute"}),
        ({"compute.roles[1].accelerators": GPU}, {"compute"}),
        ({"compute.roles[0].accelerators.requests[0].count": 2}, {"compute"}),
        ({"compute.roles[1].name": "encode"}, {"compute"}),
        # For the pods that are told about them.
        ({"weights": None}, {"weights", "compute"}),
        ({"kvCache.coordinator": None}, {"kv-coordinator", "kv-cache", "compute"}),
        ({"kvCache": None}, {"kv-coordinator", "kv-cache", "compute"}),
        ({"kvCache.scope": "Revision"}, {"kv-coordinator", "kv-cache", "compute"}),
        ({"kvCache.scope": "Model"}, set()),
        # Never part of a revision.
        ({"weights.replicas": 7}, set()),
        ({"kvCache.replicas": 0}, set()),
        ({"compute.roles[0].replicas": 7, "compute.roles[1].replicas": 0}, set()),
        ({"kvCache.required": False}, set()),
        ({"weights.disruption": {"maxUnavailable": "50%"}}, set()),
        ({"kvCache.disruption": {"maxUnavailable": 0}}, set()),
        ({"compute.roles[0].disruption": {"maxUnavailable": 3}}, set()),
        ({"weights.scaling": {"mode": "External", "maxReplicas": 9}}, set()),
        ({"kvCache.scaling": {"mode": "Follow", "follow": {"role": "decode", "ratio": "1:4"}}}, set()),
        ({"compute.roles[0].scaling": {"mode": "HPA", "maxReplicas": 9, "metrics": [{"type": "Pods"}]}}, set()),
        ({"kvCache.scaleDown": {"maxStep": 3, "periodSeconds": 9}}, set()),
        ({"compute.roles[0].allowZero": True}, set()),
        ({"routing": ROUTING}, set()),
        ({"compute.placement": {"topologyKey": "zone"}}, {"compute"}),
        ({"rollout": {"paused": True}}, set()),
        ({"rollout": {"progressDeadlineSeconds": 1, "onFailure": "Hold", "whenExhausted": "Wait"}}, set()),
        ({"rollout": {"revisionHistoryLimit": 0}}, set()),
        (lambda spec: spec["compute"]["roles"].reverse(), set()),
        (lambda spec: spec["compute"]["roles"].pop(), {"compute"}),
    ],
)
def test_what_a_change_rolls(change: Any, rolled: set[str]) -> None:
    assert _rolled(change) == rolled


@pytest.mark.parametrize(
    ("change", "rolled"),
    [
        ({"model.name": "other"}, ALL),
        ({"weights.template.spec.containers[0].image": "new"}, {"weights"}),
        ({"kvCache.template.spec.containers[0].image": "new"}, {"kv-cache"}),
        ({"kvCache.coordinator.template.spec.containers[0].image": "new"}, {"kv-coordinator"}),
        # Each compute revision has its own KV cache.
        ({"compute.roles[0].template.spec.containers[0].image": "new"}, {"kv-coordinator", "kv-cache", "compute"}),
        ({"compute.roles[1].name": "encode"}, {"kv-coordinator", "kv-cache", "compute"}),
        ({"weights": None}, {"weights", "kv-coordinator", "kv-cache", "compute"}),
        ({"compute.placement": {"topologyKey": "zone"}}, {"kv-coordinator", "kv-cache", "compute"}),
        ({"kvCache.scaleDown": {"maxStep": 3}, "routing": ROUTING}, set()),
        ({"kvCache.replicas": 9, "compute.roles[0].replicas": 0}, set()),
    ],
)
def test_what_a_change_rolls_where_the_kv_cache_is_of_a_revision(change: Any, rolled: set[str]) -> None:
    before = changed(full_spec(), {"kvCache.scope": "Revision"})
    was, now = _revisions(before), _revisions(changed(before, change))
    assert {group for group in was.keys() | now.keys() if was.get(group) != now.get(group)} == rolled


_SCALED = ("weights", "kvCache", "compute.roles[0]", "compute.roles[1]")


@given(
    where=st.sampled_from(_SCALED),
    replicas=st.integers(0, 100),
    surge=st.integers(1, 9) | st.integers(1, 100).map("{}%".format),
    unavailable=st.integers(0, 9) | st.integers(0, 100).map("{}%".format),
    paused=st.booleans(),
)
def test_no_number_is_ever_part_of_a_revision(
    where: str, replicas: int, surge: int | str, unavailable: int | str, paused: bool
) -> None:
    rollout = {"maxSurge": surge, "maxUnavailable": unavailable}
    change = {
        f"{where}.replicas": replicas,
        f"{where}.rollout": rollout,
        f"{where}.disruption": {"maxUnavailable": unavailable},
        "rollout": {"paused": paused, "progressDeadlineSeconds": replicas + 1},
    }
    for scope in ("Model", "Revision"):
        before = changed(full_spec(), {"kvCache.scope": scope})
        assert _revisions(changed(before, change)) == _revisions(before)


def test_what_the_crd_fills_in_rolls_nothing() -> None:
    """The API server stores the defaults of replicas, rollout and such; absent or as default is the same."""
    stored = full_spec()
    for role in (stored["weights"], stored["kvCache"], *stored["compute"]["roles"]):
        role.setdefault("replicas", 1)
        role["disruption"] = {"maxUnavailable": 1}
        role["rollout"] = {"maxSurge": 1, "maxUnavailable": 0}
    stored["kvCache"] |= {"required": True, "scope": "Model"}
    stored["rollout"] = {"paused": False, "progressDeadlineSeconds": 600, "onFailure": "Rollback"}
    assert _revisions(stored) == _revisions(full_spec())


ZONE = {"topologyKey": "topology.kubernetes.io/zone"}


@pytest.mark.parametrize(
    "written", [{"policy": "Preferred"}, {"exclusive": False}, {"policy": "Preferred", "exclusive": False}]
)
def test_defaults_of_a_placement_are_as_if_they_were_not_there(written: Object) -> None:
    placed = changed(full_spec(), {"compute.placement": ZONE})
    assert _revisions(changed(placed, {"compute.placement": ZONE | written})) == _revisions(placed)


@pytest.mark.parametrize("change", [{"topologyKey": "rack"}, {"policy": "Required"}, {"exclusive": True}])
def test_any_other_placement_rolls_compute(change: Object) -> None:
    was, now = (
        _revisions(changed(full_spec(), {"compute.placement": placement})) for placement in (ZONE, ZONE | change)
    )
    assert {group for group in was if was[group] != now[group]} == {"compute"}


def test_what_is_written_in_a_template_counts_even_if_it_is_a_default() -> None:
    assert _rolled({"weights.template.spec.restartPolicy": "Always"}) == {"weights"}


def _shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {key: _shuffled(child, rng) for key, child in items}
    return [_shuffled(child, rng) for child in value] if isinstance(value, list) else value


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: Any, rng: random.Random) -> None:
    assert digest(_shuffled(value, rng)) == digest(value)


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_in_a_set_does_not_matter(rng: random.Random) -> None:
    assert _revisions(_shuffled(full_spec(), rng)) == _revisions(full_spec())


@given(_JSON, _JSON)
def test_what_differs_has_another_digest(one: Any, other: Any) -> None:
    if json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert digest(one) != digest(other)


@given(_JSON)
def test_a_digest_may_be_part_of_a_dns_label_and_spells_nothing(value: Any) -> None:
    assert len(digest(value)) == 8
    assert set(digest(value)) <= set("bcdfghjklmnpqrstvwxz2456789")


_CHANGED = (
    "The hash has changed. Every set of every user would be replaced, pods and accelerators and all, when they upgrade "
    "the operator. If that is meant, raise HASH_VERSION, say so in the changelog, and write the new values down here."
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "rvvjlzkd"),
        ({"b": [1, True, None, 1.5], "a": {"ü": "€"}}, "p28r659l"),
        ("text", "tkhvqlmp"),
    ],
)
def test_digests_are_what_they_have_always_been(value: Any, expected: str) -> None:
    assert digest(value) == expected, _CHANGED


def test_revisions_are_what_they_have_always_been() -> None:
    assert _revisions(full_spec()) == {
        "model": "ktdhxzzv",
        "weights": "9xhpn4m2",
        "kv-coordinator": "6plqk6m7",
        "kv-cache": "qpml4hh2",
        "compute": "vkwnjwpx",
    }, _CHANGED


def test_revisions_with_a_placement_are_what_they_have_always_been() -> None:
    placed = changed(full_spec(), {"compute.placement": ZONE})
    assert _revisions(placed)["compute"] == "kqbmpmgw", _CHANGED
