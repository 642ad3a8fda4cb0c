"""The children that a set should have, and the order in which they are written."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from disaggregatedset.cluster import objects
from disaggregatedset.reconcile.desired import (
    HISTORY_LIMIT,
    Stages,
    desired_pods,
    optional_roles,
    stages,
    wanted_groups,
)
from disaggregatedset.render import TierRevision, services
from disaggregatedset.rollout import Remove, Scale
from tests.api.cases import changed
from tests.unit.builders import World, full_spec, live, make_set, observed

Object = dict[str, Any]


def _stages(world: World, *writes: Scale | Remove) -> Stages:
    return stages(world.dset, world.tiers, world.view(), writes)


def _names(children: list[Any]) -> list[str]:
    return [f"{kind.name} {child['metadata']['name']}" for kind, child in children]


def _other(tier: TierRevision, revision: str) -> TierRevision:
    return TierRevision(tier.group, revision, tier.model_revision, tier.roles)


def test_desired_pods_and_what_waits_for_what() -> None:
    dset = make_set()
    assert desired_pods(dset) == {
        "weights": {"weights": 2},
        "kv-coordinator": {"kv-coordinator": 1},
        "kv-cache": {"kv-cache": 3},
        "compute": {"prefill": 1, "decode": 2},
    }
    wanted = World(dset).wanted
    assert {group: want.waits_for for group, want in wanted.items()} == {
        "weights": (),
        "kv-coordinator": (),
        "kv-cache": ("kv-coordinator",),
        "compute": ("weights", "kv-cache"),
    }
    assert [group for group, want in wanted.items() if want.exclusive] == ["kv-coordinator"]


@pytest.mark.parametrize(
    ("change", "optional", "compute_waits_for"),
    [
        ({"kvCache.required": False}, {"kv-cache", "kv-coordinator"}, ("weights",)),
        ({"kvCache": None}, set(), ("weights",)),
        ({"weights": None}, set(), ("kv-cache",)),
        ({"weights": None, "kvCache": None}, set(), ()),
    ],
)
def test_tiers_that_are_optional(change: Object, optional: set[str], compute_waits_for: tuple[str, ...]) -> None:
    world = World(make_set(changed(full_spec(), change)))
    assert optional_roles(world.dset) == optional
    assert wanted_groups(world.dset, world.tiers)["compute"].waits_for == compute_waits_for


def test_a_new_set_is_recorded_before_anything_of_it_exists() -> None:
    world = World(make_set())
    scale = Scale("weights", world.tiers["weights"].revision, 2, "")
    made = _stages(world, scale)
    assert {kind for kind, _ in made.records} == {objects.CONTROLLER_REVISION}
    assert {kind for kind, _ in made.supporting} == {objects.SERVICE, objects.CLAIM_TEMPLATE, objects.DISRUPTION_BUDGET}
    assert made.running == []
    assert [(w, m["kind"], m["spec"]["replicas"]) for w, m in made.planned] == [(scale, "Deployment", 2)]
    assert made.unneeded == []


def test_a_role_of_no_pods_has_no_budget() -> None:
    world = World(make_set(changed(full_spec(), {"compute.roles[1].replicas": 0})))
    budgets = [name for name in _names(_stages(world).supporting) if name.startswith("PodDisruptionBudget")]
    assert budgets == [f"PodDisruptionBudget llama-{r}" for r in ("weights", "kv-coordinator", "kv-cache", "prefill")]


def test_what_the_plan_leaves_alone_is_kept_as_it_asks_for() -> None:
    world = World(make_set()).run_all(decode=observed(7))
    revision = world.tiers["compute"].revision
    made = _stages(world, Scale("prefill", revision, 4, ""))
    replicas = {m["metadata"]["labels"]["disaggregatedset.dev/role"]: m["spec"]["replicas"] for _, m in made.running}
    assert replicas == {"weights": 2, "kv-coordinator": 1, "kv-cache": 3, "decode": 7}, (
        "scaling is the planner's business"
    )
    assert [m["spec"]["replicas"] for _, m in made.planned] == [4]


def test_an_older_revision_keeps_what_its_pods_need_as_long_as_it_has_any() -> None:
    world = World(make_set())
    old = _other(world.tiers["compute"], "old")
    world.run_all().run(old, "prefill", observed(1))
    made = _stages(world)
    assert {"ResourceClaimTemplate llama-prefill-old", "Service llama-prefill-old"} <= set(_names(made.supporting))
    assert "Deployment llama-prefill-old" in _names(made.running)
    assert made.unneeded == []
    remove = _stages(world, Remove("prefill", "old", ""))
    assert [m["metadata"]["name"] for _, m in remove.planned] == ["llama-prefill-old"]


def test_what_a_revision_needed_goes_after_its_last_pod() -> None:
    world = World(make_set())
    old = _other(world.tiers["compute"], "old")
    world.run_all().run(old, "prefill", observed(1))
    world.children[objects.SERVICE] += [live(service) for service in services(world.dset, old, "prefill")]
    world.running.pop()
    world.children[objects.DEPLOYMENT].pop()
    unneeded = _names(_stages(world).unneeded)
    assert sorted(unneeded) == ["ResourceClaimTemplate llama-prefill-old", "Service llama-prefill-old"]


def test_a_service_of_several_revisions_follows_the_wanted_one() -> None:
    world = World(
        make_set(changed(full_spec(), {"compute.roles[1].template.spec.containers[0].ports": [{"containerPort": 2}]}))
    )
    old = World(make_set()).tiers["compute"]
    world.run(old, "decode", observed(2))
    service = next(m for _, m in _stages(world).supporting if m["metadata"]["name"] == "llama-decode")
    assert [port["port"] for port in service["spec"]["ports"]] == [2]


def _number(world: World) -> int:
    made = _stages(world).records
    return next(m["revision"] for _, m in made if m["data"]["group"] == "compute")


def test_numbering() -> None:
    world = World(make_set())
    assert _number(world) == 1
    world.keep(_other(world.tiers["compute"], "old"), 4)
    world.keep(_other(world.tiers["weights"], "weights-old"), 9)
    assert _number(world) == 5, "numbers of other groups don't matter"
    world.keep(world.tiers["compute"], 5)
    assert _number(world) == 5
    world.keep(_other(world.tiers["compute"], "newer"), 6)
    assert _number(world) == 7, "going back to a revision makes it the newest again"


def test_the_oldest_revisions_are_dropped_from_the_history() -> None:
    world = World(make_set())
    for number in range(1, HISTORY_LIMIT + 3):
        world.keep(_other(world.tiers["compute"], f"r{number}"), number)
    world.run_all()
    assert _names(_stages(world).unneeded) == [
        "ControllerRevision llama-compute-r1",
        "ControllerRevision llama-compute-r2",
    ]


@pytest.mark.parametrize("live_ones", list(itertools.combinations(range(1, 9), 2)))
def test_trimming_never_drops_a_revision_that_has_pods(live_ones: tuple[int, ...]) -> None:
    world = World(make_set())
    for number in range(1, 9):
        world.keep(_other(world.tiers["compute"], f"r{number}"), number)
    for number in live_ones:
        world.run(_other(world.tiers["compute"], f"r{number}"), "decode", observed(1))
    idle = [number for number in range(1, 9) if number not in live_ones]
    dropped = [
        int(name.rpartition("-r")[2]) for name in _names(_stages(world).unneeded) if "ControllerRevision" in name
    ]
    assert dropped == idle[:-HISTORY_LIMIT]
