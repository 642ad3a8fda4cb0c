"""The order of the tiers, exhaustively for the states that the groups can be in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from disaggregatedset.rollout import GroupPlan, Observed, Remove, Running, Scale, Wanted, plan_set
from tests.unit.builders import observed

GROUPS = ("weights", "kv-coordinator", "kv-cache", "compute")
NEW, OLD = "new-model", "old-model"


def _wanted(
    *, weights: bool = True, kv: bool = True, coordinator: bool = True, required: bool = True
) -> dict[str, Wanted]:
    """What desired.wanted_groups would make of a set with these tiers."""
    there = {"weights": weights, "kv-coordinator": kv and coordinator, "kv-cache": kv, "compute": True}
    waits = {
        "kv-cache": ("kv-coordinator",) if coordinator else (),
        "compute": (("weights",) if weights else ()) + (("kv-cache",) if kv and required else ()),
    }
    return {
        group: Wanted(
            revision=f"{group}-2",
            model_revision=NEW,
            desired={"prefill": 1, "decode": 2} if group == "compute" else {group: 1},
            waits_for=waits.get(group, ()),
            exclusive=group == "kv-coordinator",
        )
        for group in GROUPS
        if there[group]
    }


def _deployments(group: str, seen: Observed, revision: str = "2", model: str = NEW) -> list[Running]:
    roles = ("prefill", "decode") if group == "compute" else (group,)
    return [Running(group, role, f"{group}-{revision}", model, seen) for role in roles]


def _plan(wanted: dict[str, Wanted], *running: list[Running]) -> dict[str, GroupPlan]:
    return plan_set(wanted, [r for each in running for r in each], last="compute")


def _started(plans: dict[str, GroupPlan]) -> set[str]:
    return {group for group, plan in plans.items() if any(isinstance(write, Scale) for write in plan.writes)}


def _removed(plans: dict[str, GroupPlan]) -> set[tuple[str, str]]:
    return {(w.role, w.revision) for plan in plans.values() for w in plan.writes if isinstance(w, Remove)}


_STATES = {"absent": None, "starting": observed(9, ready=0), "ready": observed(9), "stale": observed(9, current=False)}


def _all_shapes() -> Iterator[dict[str, bool]]:
    flags = ("weights", "kv", "coordinator", "required")
    for values in itertools.product((True, False), repeat=4):
        yield dict(zip(flags, values, strict=True))


def test_what_starts_when_for_every_shape_and_every_state_of_the_others() -> None:
    cases = 0
    for shape in _all_shapes():
        wanted = _wanted(**shape)
        others = [group for group in wanted if group != "compute"]
        for states in itertools.product(_STATES, repeat=len(others)):
            state = dict(zip(others, states, strict=True))
            running = [_deployments(g, seen) for g, name in state.items() if (seen := _STATES[name]) is not None]
            plans = _plan(wanted, *running)
            for group, want in wanted.items():
                waits_for = tuple(other for other in want.waits_for if state[other] != "ready")
                fresh = state.get(group, "absent") == "absent"
                assert plans[group].waits_for == (waits_for if fresh else ()), (shape, state, group)
                if fresh:
                    assert (group in _started(plans)) == (not waits_for), (shape, state, group)
                    assert not plans[group].ready
                    assert not plans[group].complete
            cases += 1
    assert cases > 200


def test_the_first_tiers_do_not_wait_for_each_other() -> None:
    assert _started(_plan(_wanted())) == {"weights", "kv-coordinator"}


def test_compute_starts_whole_and_all_at_once() -> None:
    plans = _plan(_wanted(weights=False, kv=False))
    assert [(w.role, w.replicas) for w in plans["compute"].writes if isinstance(w, Scale)] == [
        ("prefill", 1),
        ("decode", 2),
    ]


def test_an_optional_kv_cache_is_not_waited_for_but_its_coordinator_still_is_by_it() -> None:
    plans = _plan(_wanted(required=False), _deployments("weights", observed(1)))
    assert _started(plans) == {"kv-coordinator", "compute"}
    assert plans["kv-cache"].waits_for == ("kv-coordinator",)


@pytest.mark.parametrize("group", GROUPS)
def test_what_has_started_goes_on_whatever_it_once_waited_for(group: str) -> None:
    """Weights that fail later don't hold compute back: its roles are scaled, and it is not reported as waiting."""
    plans = _plan(_wanted(), _deployments(group, observed(9, ready=0)))
    assert group in _started(plans)  # 9 are asked for, other numbers are desired
    assert plans[group].waits_for == ()


def test_compute_that_was_started_by_half_is_completed() -> None:
    half = [r for r in _deployments("compute", observed(1)) if r.role == "prefill"]
    plans = _plan(_wanted(), half)
    assert [w.role for w in plans["compute"].writes] == ["decode"]


def _everything(revision: str, model: str, seen: Observed | None = None) -> list[Running]:
    counts = {"prefill": observed(1), "decode": observed(2)}
    return [
        Running(group, r.role, r.revision, model, seen or counts.get(r.role, observed(1)))
        for group in GROUPS
        for r in _deployments(group, observed(1), revision, model)
    ]


def test_a_set_as_it_should_be_needs_nothing() -> None:
    plans = _plan(_wanted(), _everything("2", NEW))
    assert all(plan == GroupPlan((), complete=True, ready=True) for plan in plans.values())


def test_another_model_stays_until_compute_has_left_it() -> None:
    old = _everything("1", OLD)
    new = [r for r in _everything("2", NEW) if r.group != "compute"]
    at_first = _plan(_wanted(), old)
    assert _removed(at_first) == set()
    assert _started(at_first) == {"weights", "kv-coordinator"}, "the new model's come up beside the old one's"
    before = _plan(_wanted(), old, new)
    assert _started(before) == {"compute"}
    assert _removed(before) == set()
    both = _plan(_wanted(), old, _everything("2", NEW))
    assert _removed(both) == {("prefill", "compute-1"), ("decode", "compute-1")}, "compute goes first"
    assert not any(both[group].complete for group in GROUPS)
    after = _plan(_wanted(), [r for r in old if r.group != "compute"], _everything("2", NEW))
    assert _removed(after) == {(group, f"{group}-1") for group in GROUPS if group != "compute"}
    assert after["compute"].complete
    assert not any(after[group].complete for group in GROUPS if group != "compute")
    assert all(plan.ready for plan in after.values())


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "compute"])
def test_a_tier_that_is_no_longer_wanted_stays_until_compute_has_rolled(group: str) -> None:
    wanted = {name: want for name, want in _wanted().items() if name != group}
    wanted = {
        name: Wanted(w.revision, w.model_revision, w.desired, tuple(o for o in w.waits_for if o != group), w.exclusive)
        for name, w in wanted.items()
    }
    there = [r for r in _everything("2", NEW) if r.group not in {group, "compute"}]
    leftover = _deployments(group, observed(1), "1")
    old = _deployments("compute", observed(1), "1")
    rolling = _plan(wanted, there, leftover, old)
    assert _removed(rolling) == set()
    assert not rolling[group].complete
    assert rolling[group].ready
    done = _plan(wanted, there, leftover, [r for r in _everything("2", NEW) if r.group == "compute"])
    assert _removed(done) == {(group, f"{group}-1")}


def test_two_coordinators_of_a_model_never_have_pods_at_the_same_time() -> None:
    """Every state of the old one: the new one is created only when nothing of the old one is left."""
    wanted = _wanted()
    for asked, replicas, current in itertools.product((0, 1), (0, 1), (True, False)):
        old = _deployments("kv-coordinator", Observed(asked, replicas, ready=replicas, current=current), "1")
        plan = _plan(wanted, old)["kv-coordinator"]
        assert not any(isinstance(w, Scale) and w.replicas for w in plan.writes), (asked, replicas, current)
        gone = asked == 0 and replicas == 0 and current
        assert any(isinstance(w, Remove) for w in plan.writes) == gone
        assert any(isinstance(w, Scale) and w.revision == "kv-coordinator-1" for w in plan.writes) == bool(asked)
    assert [w.role for w in _plan(wanted)["kv-coordinator"].writes] == ["kv-coordinator"]


def test_two_coordinators_of_two_models_stand_side_by_side() -> None:
    plans = _plan(_wanted(), _everything("1", OLD))
    assert [w.revision for w in plans["kv-coordinator"].writes] == ["kv-coordinator-2"]


def test_stores_can_roll_without_their_coordinator() -> None:
    running = [r for r in _everything("2", NEW) if r.group != "kv-cache"]
    plans = _plan(_wanted(), running, _deployments("kv-cache", observed(1), "1"))
    assert [(w.role, w.revision) for w in plans["kv-cache"].writes] == [("kv-cache", "kv-cache-2")]
    assert plans["kv-coordinator"] == GroupPlan((), complete=True, ready=True)
    assert plans["compute"].writes == ()
