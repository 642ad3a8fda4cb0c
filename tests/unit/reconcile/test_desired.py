"""The children that a set should have, and the order in which they are written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from disaggregatedset.api import Scaling, Tier
from disaggregatedset.cluster import objects
from disaggregatedset.reconcile.desired import (
    Stages,
    known_revisions,
    not_handed_over,
    optional_roles,
    scaled_role,
    stages,
)
from disaggregatedset.reconcile.scaling import desired_pods
from disaggregatedset.reconcile.view import ROLE_SCALER
from disaggregatedset.render import horizontal_pod_autoscaler, inference_pool, role_scaler, services
from disaggregatedset.rollout import Deletion, Outcome, Phase, Plan, Role, State, Write
from tests.api.cases import changed
from tests.unit.builders import World, full_spec, live, make_set, observed, other, starting

Object = dict[str, Any]
HISTORY_LIMIT = 5


def _stages(
    world: World,
    writes: Iterable[Write] = (),
    *,
    deletions: Iterable[Deletion] = (),
    removals: Iterable[Deletion] = (),
    target: str | None = None,
    good: str | None = None,
    accepted: bool = True,
) -> Stages:
    """Carry out a plan of compute; the other tiers are at rest."""
    idle = Plan((), (), done=True, phase=Phase.COMPLETE, message="")
    outcomes = {group: Outcome(tier.revision, idle, State(tier.revision)) for group, tier in world.tiers.items()}
    plan = replace(idle, writes=tuple(writes), deletions=tuple(deletions))
    compute = replace(outcomes["compute"], plan=plan, removals=tuple(removals))
    compute = replace(compute, target=target or compute.target, state=State(good or compute.state.good))
    view, outcomes = world.view(), outcomes | {"compute": compute}
    return stages(world.dset, world.tiers, world.scales, view, outcomes, accepted=accepted)


def _names(children: list[Any]) -> list[str]:
    return [f"{kind.name} {child['metadata']['name']}" for kind, child in children]


def test_desired_pods_and_what_waits_for_what() -> None:
    dset = make_set()
    assert desired_pods(World(dset).scales) == {
        "weights": {"weights": 2},
        "kv-coordinator": {"kv-coordinator": 1},
        "kv-cache": {"kv-cache": 3},
        "compute": {"prefill": 1, "decode": 2},
    }
    inputs = World(dset).inputs
    assert {group: tier.waits_for for group, tier in inputs.items()} == {
        "weights": (),
        "kv-coordinator": (),
        "kv-cache": ("kv-coordinator",),
        "compute": ("weights", "kv-cache"),
    }
    assert [group for group, tier in inputs.items() if tier.recreate] == ["kv-coordinator"]
    assert {group: tier.wanted.identity for group, tier in inputs.items()} == {
        "weights": World(dset).tiers["weights"].model_revision,
        "kv-coordinator": World(dset).tiers["weights"].model_revision,
        "kv-cache": World(dset).tiers["weights"].model_revision,
        "compute": "",
    }


def test_what_the_planner_is_told_of_roles() -> None:
    rollout = {"maxSurge": "25%", "maxUnavailable": 2}
    dset = make_set(changed(full_spec(), {"compute.roles[1].rollout": rollout, "weights.rollout": {"maxSurge": 3}}))
    roles = {name: role for tier in World(dset).inputs.values() for name, role in tier.roles.items()}
    assert roles == {
        "weights": Role("weights", 2, 3, 0),
        "kv-coordinator": Role("kv-coordinator", 1),
        "kv-cache": Role("kv-cache", 3, 1, 0),
        "prefill": Role("prefill", 1, 1, 0),
        "decode": Role("decode", 2, "25%", 2),
    }
    assert scaled_role(dset, "kv-coordinator") is None
    assert scaled_role(dset, "a role that the spec has dropped") is None


def test_all_revisions_that_are_known() -> None:
    world = World(make_set())
    compute = world.tiers["compute"]
    world.keep(other(compute, "old"))
    known = known_revisions(world.tiers, world.view())
    assert known.keys() == {("compute", "old"), *((tier.group, tier.revision) for tier in world.tiers.values())}
    model = compute.model_revision
    assert known["compute", "old"].needs == {"weights": model, "kv-cache": model, "kv-coordinator": model}
    assert known["compute", "old"].roles == ("prefill", "decode")


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
    assert world.inputs["compute"].waits_for == compute_waits_for


def test_a_new_set_is_recorded_before_anything_of_it_exists() -> None:
    world = World(make_set())
    made = stages(world.dset, world.tiers, world.scales, world.view(), starting(world))
    assert {kind for kind, _ in made.records} == {objects.CONTROLLER_REVISION}
    assert {kind for kind, _ in made.supporting} == {objects.SERVICE, objects.CLAIM_TEMPLATE, objects.DISRUPTION_BUDGET}
    assert made.running == []
    assert [(m["kind"], m["spec"]["replicas"]) for _, m in made.planned] == [("Deployment", n) for n in (2, 1, 3, 1, 2)]
    assert made.unneeded == made.removed == []


def test_a_role_of_no_pods_has_no_budget() -> None:
    world = World(make_set(changed(full_spec(), {"compute.roles[1].replicas": 0})))
    budgets = [name for name in _names(_stages(world).supporting) if name.startswith("PodDisruptionBudget")]
    assert budgets == [f"PodDisruptionBudget llama-{r}" for r in ("weights", "kv-coordinator", "kv-cache", "prefill")]


def test_what_the_plan_leaves_alone_is_kept_as_it_asks_for() -> None:
    world = World(make_set()).run_all(decode=observed(7))
    revision = world.tiers["compute"].revision
    made = _stages(world, [Write("prefill", revision, 4, "")])
    replicas = {m["metadata"]["labels"]["disaggregatedset.dev/role"]: m["spec"]["replicas"] for _, m in made.running}
    assert replicas == {"weights": 2, "kv-coordinator": 1, "kv-cache": 3, "decode": 7}, (
        "scaling is the planner's business"
    )
    assert [m["spec"]["replicas"] for _, m in made.planned] == [4]


def test_an_older_revision_keeps_what_its_pods_need_as_long_as_it_has_any() -> None:
    world = World(make_set())
    old = other(world.tiers["compute"], "old")
    world.run_all().run(old, "prefill", observed(1))
    made = _stages(world)
    assert {"ResourceClaimTemplate llama-prefill-old", "Service llama-prefill-old"} <= set(_names(made.supporting))
    assert "Deployment llama-prefill-old" in _names(made.running)
    assert made.unneeded == []
    assert made.removed == []


@pytest.mark.parametrize("by", ["deletions", "removals"])
def test_a_deployment_that_goes_is_written_no_more(by: str) -> None:
    world = World(make_set())
    world.run_all().run(other(world.tiers["compute"], "old"), "prefill", observed(0))
    made = _stages(world, **{by: [Deletion("prefill", "old")]})
    assert _names(made.removed) == ["Deployment llama-prefill-old"]
    assert "Deployment llama-prefill-old" not in _names(made.running)


def test_the_plans_order_is_kept() -> None:
    world = World(make_set())
    old, new = other(world.tiers["compute"], "old"), world.tiers["compute"].revision
    world.run_all().run(old, "prefill", observed(1)).run(old, "decode", observed(2))
    writes = [Write("prefill", new, 1, ""), Write("decode", "old", 1, ""), Write("decode", new, 2, "")]
    assert _names(_stages(world, writes).planned) == [f"Deployment llama-{w.role}-{w.revision}" for w in writes]


def test_what_a_revision_needed_goes_after_its_last_pod() -> None:
    world = World(make_set())
    old = other(world.tiers["compute"], "old")
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


def test_it_follows_the_last_good_revision_after_a_rollback() -> None:
    ports = {"compute.roles[1].template.spec.containers[0].ports": [{"containerPort": 2}]}
    world = World(make_set(changed(full_spec(), ports)))
    old = World(make_set()).tiers["compute"]
    world.run(old, "decode", observed(2)).run(world.tiers["compute"], "decode", observed(0))
    made = _stages(world, target=old.revision, good=old.revision)
    service = next(m for _, m in made.supporting if m["metadata"]["name"] == "llama-decode")
    assert "ports" not in service["spec"]


def _number(world: World) -> int:
    made = _stages(world).records
    return next(m["revision"] for _, m in made if m["data"]["group"] == "compute")


def test_numbering() -> None:
    world = World(make_set())
    assert _number(world) == 1
    world.keep(other(world.tiers["compute"], "old"), 4)
    world.keep(other(world.tiers["weights"], "weights-old"), 9)
    assert _number(world) == 5, "numbers of other groups don't matter"
    world.keep(world.tiers["compute"], 5)
    assert _number(world) == 5
    world.keep(other(world.tiers["compute"], "newer"), 6)
    assert _number(world) == 7, "going back to a revision makes it the newest again"


def test_the_oldest_revisions_are_dropped_from_the_history() -> None:
    world = World(make_set())
    for number in range(1, HISTORY_LIMIT + 3):
        world.keep(other(world.tiers["compute"], f"r{number}"), number)
    world.run_all()
    assert _names(_stages(world).unneeded) == [
        "ControllerRevision llama-compute-r1",
        "ControllerRevision llama-compute-r2",
    ]


@pytest.mark.parametrize(("limit", "kept"), [(0, []), (1, [3]), (2, [2, 3]), (9, [1, 2, 3])])
def test_a_person_says_how_long_the_history_is(limit: int, kept: list[int]) -> None:
    world = World(make_set(changed(full_spec(), {"rollout": {"revisionHistoryLimit": limit}})))
    for number in (1, 2, 3):
        world.keep(other(world.tiers["compute"], f"r{number}"), number)
    world.run_all()
    dropped = [int(name.rpartition("-r")[2]) for name in _names(_stages(world).unneeded)]
    assert dropped == [number for number in (1, 2, 3) if number not in kept]


def test_the_last_good_revision_is_never_dropped_from_the_history() -> None:
    """Not even where it has no pods: a failed rollout must find it."""
    world = World(make_set(changed(full_spec(), {"rollout": {"revisionHistoryLimit": 0}})))
    for number in (1, 2, 3):
        world.keep(other(world.tiers["compute"], f"r{number}"), number)
    world.run_all()
    dropped = _names(_stages(world, good="r2").unneeded)
    assert dropped == ["ControllerRevision llama-compute-r1", "ControllerRevision llama-compute-r3"]
    assert "ControllerRevision llama-compute-r1" not in _names(_stages(world, target="r1", good="r2").unneeded)


@pytest.mark.parametrize("live_ones", list(itertools.combinations(range(1, 9), 2)))
def test_trimming_never_drops_a_revision_that_has_pods(live_ones: tuple[int, ...]) -> None:
    world = World(make_set())
    for number in range(1, 9):
        world.keep(other(world.tiers["compute"], f"r{number}"), number)
    for number in live_ones:
        world.run(other(world.tiers["compute"], f"r{number}"), "decode", observed(1))
    idle = [number for number in range(1, 9) if number not in live_ones]
    dropped = [
        int(name.rpartition("-r")[2]) for name in _names(_stages(world).unneeded) if "ControllerRevision" in name
    ]
    assert dropped == idle[:-HISTORY_LIMIT]


# What scales roles, and routes to them.

CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
MODES: dict[str, Object] = {
    "Static": {"mode": "Static"},
    "External": {"mode": "External", "minReplicas": 1, "maxReplicas": 9},
    "HPA": {"mode": "HPA", "maxReplicas": 9, "metrics": [CPU]},
    "Follow": {"mode": "Follow", "follow": {"role": "prefill", "ratio": "3:1"}},
}


def _scaled_world(mode: str, there: int | None = None, *, handed_over: bool = False) -> World:
    """A set whose decode has a scaling mode, and maybe a RoleScaler already."""
    world = World(make_set(changed(full_spec(), {"compute.roles[1].scaling": MODES[mode]}))).run_all()
    if there is not None:
        scaler = live(role_scaler(world.dset, Tier.COMPUTE, "decode", Scaling(), there))
        if handed_over:
            del scaler["spec"]["fixedReplicas"]
        world.children[ROLE_SCALER].append(scaler)
    return world


def _autoscaler(world: World) -> Object:
    scaling = Scaling.model_validate(MODES["HPA"])
    return live(horizontal_pod_autoscaler(world.dset, Tier.COMPUTE, "decode", scaling))


@pytest.mark.parametrize(
    ("mode", "there", "replicas"),
    [
        # Those of the set have its number, whatever there was; others have one at first only, to be handed over.
        ("Static", None, 2),
        ("Static", 7, 2),
        ("Follow", None, 3),
        ("Follow", 7, 3),
        ("External", None, 2),
        ("External", 7, None),
        ("HPA", None, 2),
        ("HPA", 7, None),
    ],
)
@pytest.mark.parametrize("handed_over", [False, True])
def test_the_role_scaler_of_a_role(mode: str, there: int | None, replicas: int | None, handed_over: bool) -> None:
    made = _stages(_scaled_world(mode, there, handed_over=handed_over)).scalers
    assert _names(made) == [f"RoleScaler llama-{role}" for role in ("weights", "kv-cache", "prefill", "decode")]
    spec = made[-1][1]["spec"]
    assert (spec["role"], spec["mode"]) == ("decode", mode)
    assert (spec.get("replicas"), spec.get("fixedReplicas")) == (replicas, replicas)
    bounds = {field: MODES[mode][field] for field in ("minReplicas", "maxReplicas") if field in MODES[mode]}
    assert {field: spec[field] for field in ("minReplicas", "maxReplicas") if field in spec} == bounds


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("there", "handed_over"), [(None, False), (2, False), (2, True)])
def test_an_autoscaler_starts_when_it_may_scale(mode: str, there: int | None, handed_over: bool) -> None:
    world = _scaled_world(mode, there, handed_over=handed_over)
    made = _names(_stages(world).autoscalers)
    assert made == (["HorizontalPodAutoscaler llama-decode"] if mode == "HPA" and handed_over else [])
    pending = mode in {"External", "HPA"} and there is not None and not handed_over
    assert not_handed_over(world.dset, world.view()) == ({"decode"} if pending else set())


def test_a_spec_that_is_not_accepted_replaces_no_autoscaler() -> None:
    world = _scaled_world("HPA", 2, handed_over=True)
    assert _stages(world, accepted=False).autoscalers == []
    world = _scaled_world("External", 2, handed_over=True)
    world.children[objects.AUTOSCALER].append(_autoscaler(world))
    assert _stages(world, accepted=False).unneeded == []
    assert _names(_stages(world).unneeded) == ["HorizontalPodAutoscaler llama-decode"]


def test_an_autoscaler_stays_while_its_role_scaler_is_handed_over() -> None:
    world = _scaled_world("HPA", 2)
    world.children[objects.AUTOSCALER].append(_autoscaler(world))
    made = _stages(world)
    assert (made.autoscalers, made.unneeded) == ([], [])


def test_the_role_scaler_of_a_role_that_is_gone_goes() -> None:
    world = World(make_set(changed(full_spec(), {"weights": None}))).run_all()
    world.children[ROLE_SCALER].append(live(role_scaler(world.dset, Tier.WEIGHTS, "weights", Scaling(), 1)))
    assert _names(_stages(world).unneeded) == ["RoleScaler llama-weights"]


def test_the_pool_of_a_set_stays_as_long_as_it_asks_for_one() -> None:
    routing = {"inferencePool": {"targetPorts": [{"number": 1}], "endpointPickerRef": {"name": "picker"}}}
    world = World(make_set(full_spec() | {"routing": routing})).run_all()
    pool = inference_pool(world.dset)
    assert pool is not None
    world.children[objects.INFERENCE_POOL].append(live(pool))
    assert _stages(world).unneeded == []
    for spec in (full_spec(), full_spec() | {"routing": {}}):
        without = World(make_set(spec)).run_all()
        without.children[objects.INFERENCE_POOL] = world.children[objects.INFERENCE_POOL]
        assert _names(_stages(without).unneeded) == ["InferencePool llama"]


def test_the_first_stage_alone_scales_nothing() -> None:
    made = _stages(_scaled_world("HPA", 2, handed_over=True)).records_alone()
    assert made.records
    assert made.scalers == made.autoscalers == made.planned == []
    assert made.unneeded == []
