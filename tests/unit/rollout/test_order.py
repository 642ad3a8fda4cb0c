"""The tiers together: what waits for what, what stays for whom, and what goes when."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from disaggregatedset.rollout import (
    Failure,
    Observed,
    OnFailure,
    Outcome,
    Phase,
    Policy,
    Record,
    Running,
    Spec,
    State,
    WhenExhausted,
    plan_set,
)
from tests.unit.builders import NOW, observed
from tests.unit.rollout.sets import GROUPS, SERVERS, Set

SPEC = Spec(Policy(deadline=timedelta(seconds=100)), WhenExhausted.DRAIN_FIRST, "", 1, NOW)
HOLD = replace(SPEC, policy=replace(SPEC.policy, on_failure=OnFailure.HOLD))
PAUSED = replace(SPEC, policy=replace(SPEC.policy, paused=True))
FIRST = Set()
NEW_MODEL = Set("m2", "c2")
FLAG = Set("m1", "c2")
UNREADY = observed(1, ready=0)


def outcomes(
    now: Set,
    *running: Iterable[Running],
    before: Iterable[Set] = (),
    states: Mapping[str, State] | None = None,
    spec: Spec = SPEC,
) -> dict[str, Outcome]:
    known = {key: revision for each in (*before, now) for key, revision in each.revisions.items()}
    there = [r for each in running for r in each]
    return plan_set(now.tiers, known, there, now.good if states is None else states, spec, last="compute")


def writes(made: Mapping[str, Outcome]) -> list[str]:
    return [f"{w.role} of {w.revision}: {w.replicas}" for outcome in made.values() for w in outcome.writes]


def started(made: Mapping[str, Outcome]) -> set[str]:
    return {group for group, outcome in made.items() if outcome.plan.writes}


def removed(made: Mapping[str, Outcome]) -> set[tuple[str, str]]:
    return {(gone.role, gone.revision) for outcome in made.values() for gone in outcome.removals}


def failed(group: str, of: Set, good: Set | None = None, **more: Any) -> dict[str, State]:
    """Remember that a tier of a set has failed, and that all of another one was good."""
    failure = Failure(of.revision(group).name, "CrashLoop", "boom", NOW, "")
    states = dict(good.good) if good else {}
    return states | {group: replace(states.get(group, State()), failure=replace(failure, **more))}


# A new set.

_STATES = {"absent": None, "starting": UNREADY, "ready": observed(1), "stale": observed(1, current=False)}


def _all_shapes() -> Iterator[Set]:
    for weights, kv, coordinator, required, scoped in itertools.product((True, False), repeat=5):
        yield Set(weights=weights, kv=kv, coordinator=coordinator, required=required, scoped=scoped)


def test_what_starts_when_for_every_shape_and_every_state_of_the_others() -> None:
    cases = 0
    for now in _all_shapes():
        servers = [group for group in now.groups if group != "compute"]
        for states in itertools.product(_STATES, repeat=len(servers)):
            state = dict(zip(servers, states, strict=True))
            running = [now.run(g, every=seen) for g, name in state.items() if (seen := _STATES[name]) is not None]
            made = outcomes(now, *running, states={})
            for group, tier in now.tiers.items():
                waits_for = tuple(other for other in tier.waits_for if state[other] != "ready")
                fresh = state.get(group, "absent") == "absent"
                assert made[group].waits_for == (waits_for if fresh else ()), (now, state, group)
                assert (group in started(made)) == (fresh and not waits_for), (now, state, group)
                assert made[group].ready == (state.get(group) == "ready")
                assert made[group].complete == made[group].ready
            cases += 1
    assert cases > 400


def test_the_first_tiers_do_not_wait_for_each_other() -> None:
    assert started(outcomes(FIRST, states={})) == {"weights", "kv-coordinator"}


def test_compute_starts_whole_and_all_at_once() -> None:
    made = outcomes(Set(weights=False, kv=False), states={})
    assert writes(made) == ["prefill of c1: 1", "decode of c1: 2"]


def test_an_optional_kv_cache_is_not_waited_for_but_its_coordinator_still_is_by_it() -> None:
    now = Set(required=False)
    made = outcomes(now, now.run("weights"), states={})
    assert started(made) == {"kv-coordinator", "compute"}
    assert made["kv-cache"].waits_for == ("kv-coordinator",)


def test_a_kv_cache_that_becomes_required_does_not_stop_what_runs() -> None:
    made = outcomes(FIRST, FIRST.run("weights", "compute"), FIRST.run("kv-coordinator", "kv-cache", every=UNREADY))
    assert made["compute"].waits_for == ()
    assert made["compute"].complete


@pytest.mark.parametrize("group", GROUPS)
def test_what_has_started_goes_on_whatever_it_once_waited_for(group: str) -> None:
    """Weights that fail later don't hold compute back: its roles are scaled, and it is not reported as waiting."""
    made = outcomes(FIRST, FIRST.run(group, every=observed(9, ready=0)), states={})
    assert group in started(made)  # 9 are asked for, other numbers are desired
    assert made[group].waits_for == ()


def test_compute_that_was_started_by_half_is_completed() -> None:
    half = [r for r in FIRST.run("compute") if r.role == "prefill"]
    assert "decode of c1: 2" in writes(outcomes(FIRST, FIRST.run(*SERVERS), half, states={}))


def test_a_set_as_it_should_be_needs_nothing() -> None:
    made = outcomes(FIRST, FIRST.run())
    assert {group: outcome.state for group, outcome in made.items()} == FIRST.good
    assert all(outcome.complete and outcome.ready and not outcome.look_again for outcome in made.values())
    assert all(outcome.plan.phase is Phase.COMPLETE for outcome in made.values())


def test_a_set_that_wants_no_engine_is_complete_without_any() -> None:
    now = Set(pods={"prefill": 0, "decode": 0})
    made = outcomes(now, now.run(*SERVERS), states={})
    assert made["compute"].complete
    assert made["compute"].state == State("c1")
    assert removed(made) == set(), "what it is told to use stays"
    assert outcomes(now, states={})["compute"].waits_for, "if it is scaled up it waits"


# A new model.


def test_a_new_model_comes_up_beside_the_old_one_which_goes_when_compute_has_left_it() -> None:
    old, known = FIRST.run(), {"before": [FIRST]}
    at_first = outcomes(NEW_MODEL, old, **known, states=FIRST.good)
    assert started(at_first) == {"weights", "kv-coordinator"}
    assert at_first["compute"].target == "c1"
    assert at_first["compute"].waits_for == ("weights", "kv-cache")
    servers = NEW_MODEL.run(*SERVERS)
    before = outcomes(NEW_MODEL, old, servers, **known, states=FIRST.good)
    assert writes(before) == ["prefill of c2: 1", "decode of c2: 1"]
    both = outcomes(NEW_MODEL, old, NEW_MODEL.run(), **known, states=FIRST.good)
    assert writes(both) == ["prefill of c1: 0", "decode of c1: 0"], "compute goes first"
    gone = [
        r if r.group != "compute" else replace(r, observed=Observed(0, 0, replicas)) for replicas in (1, 0) for r in old
    ]
    leaving = outcomes(NEW_MODEL, gone[: len(old)], NEW_MODEL.run(), **known, states=FIRST.good)
    for made in (at_first, before, both, leaving):
        assert removed(made) == set()
    assert leaving["compute"].state.good == "c2"
    after = outcomes(NEW_MODEL, gone[len(old) :], NEW_MODEL.run(), **known, states=NEW_MODEL.good)
    assert removed(after) == {(group, f"{group} of m1") for group in SERVERS}
    assert after["compute"].complete
    assert not any(after[group].complete for group in SERVERS)


@pytest.mark.parametrize("tier", ["weights", "kv-cache"])
def test_the_old_engines_go_on_while_new_servers_come(tier: str) -> None:
    """They are scaled and repaired meanwhile, and nothing of the new model's compute starts."""
    now = replace(NEW_MODEL, pods={"decode": 5})
    there = [r for r in NEW_MODEL.run(*SERVERS) if r.group != tier]
    made = outcomes(now, FIRST.run(), there, before=[FIRST], states=FIRST.good)
    assert "decode of c1: 5" in writes(made)
    assert not [w for w in writes(made) if "c2" in w]
    assert made["compute"].waits_for == (tier,)
    assert made["compute"].state == State("c1")


@pytest.mark.parametrize("tier", ["weights", "kv-cache", "kv-coordinator"])
def test_failed_servers_of_a_new_model_never_start_compute(tier: str) -> None:
    """They go again, and the old ones serve on."""
    there = [r for r in NEW_MODEL.run(*SERVERS) if (tier, r.group) != ("kv-coordinator", "kv-cache")]
    made = outcomes(NEW_MODEL, FIRST.run(), there, before=[FIRST], states=FIRST.good | failed(tier, NEW_MODEL, FIRST))
    assert made[tier].target == f"{tier} of m1"
    assert removed(made) == {(tier, f"{tier} of m2")}
    assert not [w for w in writes(made) if "c2" in w]
    without = [r for r in there if r.group != tier]
    later = outcomes(
        NEW_MODEL, FIRST.run(), without, before=[FIRST], states=FIRST.good | failed(tier, NEW_MODEL, FIRST)
    )
    assert started(later) == removed(later) == set()
    assert later["compute"].target == "c1"


def test_compute_that_fails_goes_back_to_the_old_model_whose_servers_are_still_there() -> None:
    old, new = FIRST.run(), NEW_MODEL.run("compute", every=UNREADY)
    states = NEW_MODEL.good | failed("compute", NEW_MODEL, FIRST)
    made = outcomes(NEW_MODEL, old, NEW_MODEL.run(*SERVERS), new, before=[FIRST], states=states)
    assert made["compute"].target == "c1"
    assert writes(made) == ["prefill of c2: 0", "decode of c2: 0"]
    assert removed(made) == set()
    back = outcomes(NEW_MODEL, old, NEW_MODEL.run(*SERVERS), before=[FIRST], states=states)
    assert back["compute"].complete
    assert started(back) == removed(back) == set(), "the new model's servers stay: they are wanted, and good"


def test_the_old_models_servers_stay_until_there_is_nothing_to_go_back_for() -> None:
    """One replica without surge: the last old engine is gone before the first new one is ready, and may never be."""
    old, new = replace(FIRST, rollout=(0, 1)), replace(NEW_MODEL, rollout=(0, 1))
    outage = old.run(*SERVERS), old.run("compute", every=observed(0)), new.run(*SERVERS)
    states = NEW_MODEL.good | {"compute": FIRST.good["compute"]}
    waiting = outcomes(new, *outage, new.run("compute", every=UNREADY), before=[old], states=states)
    assert waiting["compute"].state.record is not None
    assert removed(waiting) == set()
    back = states | {"compute": replace(failed("compute", NEW_MODEL)["compute"], good="c1")}
    made = outcomes(new, *outage, new.run("compute", every=UNREADY), before=[old], states=back)
    assert "prefill of c1: 1" in writes(made)
    assert removed(made) == set()
    done = outcomes(new, *outage, new.run("compute"), before=[old], states=new.good)
    assert removed(done) == {(group, f"{group} of m1") for group in SERVERS}


def test_going_back_to_a_revision_that_needed_less_does_not_wait_for_more() -> None:
    """A KV cache was added with engine flags that fail; somebody has deleted the old Deployments meanwhile."""
    before, now = Set("m1", "c1", kv=False), Set("m1", "c2")
    states = now.good | {"compute": State("c1", failure=failed("compute", now)["compute"].failure)}
    made = outcomes(now, now.run(*SERVERS), now.run("compute", every=UNREADY), before=[before], states=states)
    assert made["compute"].waits_for == ()
    assert "prefill of c1: 1" in writes(made)


def test_the_model_changes_again_before_the_first_is_there() -> None:
    third = Set("m3", "c3")
    running = FIRST.run(), NEW_MODEL.run("weights", "kv-coordinator", every=UNREADY)
    made = outcomes(third, *running, before=[FIRST, NEW_MODEL], states=FIRST.good)
    assert started(made) == {"weights", "kv-coordinator"}
    assert removed(made) == {("weights", "weights of m2"), ("kv-coordinator", "kv-coordinator of m2")}


def test_a_new_model_in_the_middle_of_a_rollout_of_compute() -> None:
    """Until its servers are there, the rollout that runs goes on: the last good revision may have none any more."""
    half = FIRST.run("compute", decode=observed(1)), FLAG.run("compute", prefill=UNREADY, decode=observed(1))
    record = Record("c1", "c2", {"prefill": 1, "decode": 2}, 1, NOW, NOW, 0)
    states = FIRST.good | {"compute": State("c1", record)}
    third = Set("m3", "c3", rollout=(0, 1))
    made = outcomes(third, FIRST.run(*SERVERS), *half, before=[FIRST, FLAG], states=states)
    compute = made["compute"]
    assert (compute.target, compute.waits_for) == ("c2", ("weights", "kv-cache"))
    assert compute.state.record is not None
    assert (compute.state.record.start, compute.state.record.target) == ("c1", "c2")
    assert compute.state.record.old_replicas == {"prefill": 1, "decode": 2}
    late = replace(SPEC, now=NOW + timedelta(seconds=1000))
    unready = FIRST.run("compute", every=UNREADY), FLAG.run("compute", every=UNREADY)
    stuck = outcomes(
        third, FIRST.run(*SERVERS), *unready, before=[FIRST, FLAG], states={"compute": compute.state}, spec=late
    )
    assert not stuck["compute"].overdue, "what is wanted has not failed: it has not begun"
    back = stuck["compute"].state.record
    assert back is not None
    assert (back.start, back.target, back.old_replicas) == ("c2", "c1", {"prefill": 1, "decode": 2})


def test_a_first_rollout_that_never_ended_goes_on_while_another_models_servers_come() -> None:
    first = State(None, Record(None, "c1", {}, 1, NOW, NOW, 0))
    there = FIRST.run(*SERVERS), [r for r in FIRST.run("compute") if r.role == "prefill"]
    made = outcomes(NEW_MODEL, *there, before=[FIRST], states=FIRST.good | {"compute": first})
    assert "decode of c1: 2" in writes(made)
    assert made["compute"].waits_for == ("weights", "kv-cache")
    nothing = outcomes(NEW_MODEL, FIRST.run(*SERVERS), before=[FIRST], states=FIRST.good | {"compute": first})
    assert nothing["compute"].state == State(), "what was never there is no rollout"
    assert not nothing["compute"].plan.writes


def test_servers_of_a_new_model_wait_their_turn_though_no_engine_has_started_yet() -> None:
    made = outcomes(NEW_MODEL, FIRST.run(*SERVERS), before=[FIRST], states=FIRST.good)
    assert writes(made) == ["weights of weights of m2: 1", "kv-coordinator of kv-coordinator of m2: 1"]
    assert made["kv-cache"].waits_for == ("kv-coordinator",)


# Revisions within one identity.


@pytest.mark.parametrize("group", ["weights", "kv-cache"])
def test_an_image_of_one_tier_rolls_that_tier_alone(group: str) -> None:
    now = Set(own={group: "new image "})
    made = outcomes(now, FIRST.run(), before=[FIRST], states=FIRST.good)
    assert writes(made) == [f"{group} of {group} new image of m1: 1"]
    assert made[group].state.record is not None
    assert made[group].state.record.old_replicas == {group: 1}
    assert removed(made) == set()
    assert made["compute"].complete


def test_two_coordinators_never_have_pods_at_the_same_time() -> None:
    """Every state of the old one: the new one is created only when nothing of the old one is left."""
    now = Set(own={"kv-coordinator": "new image "})
    old, new = (each.revision("kv-coordinator").name for each in (FIRST, now))
    for asked, replicas, current in itertools.product((0, 1), (0, 1), (True, False)):
        seen = Observed(asked, replicas, replicas, current=current)
        there = FIRST.run("weights", "kv-cache", "compute"), FIRST.run("kv-coordinator", every=seen)
        made = outcomes(now, *there, before=[FIRST], states=FIRST.good)
        gone = asked == 0 and replicas == 0 and current
        expected = [f"kv-coordinator of {old}: 0"] if asked else [f"kv-coordinator of {new}: 1"] if gone else []
        assert writes(made) == expected, (asked, replicas, current)
        assert removed(made) == set()


def test_two_coordinators_of_two_models_stand_side_by_side() -> None:
    made = outcomes(NEW_MODEL, FIRST.run(), before=[FIRST], states=FIRST.good)
    assert "kv-coordinator of kv-coordinator of m2: 1" in writes(made)
    assert removed(made) == set()


# A KV cache of each compute revision.


def test_a_kv_cache_of_each_compute_revision() -> None:
    before, now = Set(scoped=True), Set("m1", "c2", scoped=True)
    at_first = outcomes(now, before.run(), before=[before], states=before.good)
    assert writes(at_first) == ["kv-coordinator of kv-coordinator of c2: 1"], "weights are those of the model"
    assert at_first["compute"].waits_for == ("kv-cache",)
    ready = before.run(), now.run("kv-coordinator", "kv-cache")
    then = outcomes(now, *ready, before=[before], states=before.good)
    assert writes(then) == ["prefill of c2: 1", "decode of c2: 1"]
    assert removed(then) == set()
    left = before.run("kv-coordinator", "kv-cache"), now.run()
    after = outcomes(now, *left, before=[before], states=now.good)
    assert removed(after) == {("kv-coordinator", "kv-coordinator of c1"), ("kv-cache", "kv-cache of c1")}


def test_the_scope_changes() -> None:
    """It is part of the compute revision, whose pods are told another host."""
    now = Set("m1", "c2", scoped=True)
    made = outcomes(now, FIRST.run(), now.run("kv-coordinator", "kv-cache"), before=[FIRST], states=FIRST.good)
    assert writes(made) == ["prefill of c2: 1", "decode of c2: 1"]
    assert removed(made) == set()
    after = outcomes(now, now.run(), FIRST.run("kv-coordinator", "kv-cache"), before=[FIRST], states=now.good)
    assert removed(after) == {("kv-coordinator", "kv-coordinator of m1"), ("kv-cache", "kv-cache of m1")}


# Tiers and roles come and go.


@pytest.mark.parametrize("group", ["weights", "kv-cache"])
def test_a_tier_that_is_no_longer_wanted_stays_while_a_compute_pod_needs_it(group: str) -> None:
    now = Set("m1", "c2", **{"weights" if group == "weights" else "kv": False})
    leftovers = [g for g in SERVERS if g not in now.groups]
    rolling = outcomes(now, FIRST.run(), before=[FIRST], states=FIRST.good)
    assert removed(rolling) == set()
    assert not [w for w in writes(rolling) if group in w]
    done = outcomes(now, now.run(), FIRST.run(*leftovers), before=[FIRST], states=now.good)
    assert removed(done) == {(g, f"{g} of m1") for g in leftovers}
    assert {g: done[g].complete for g in leftovers} == dict.fromkeys(leftovers, False)
    gone = outcomes(now, now.run(), before=[FIRST], states=now.good)
    assert gone.keys() == set(now.groups)


@pytest.mark.parametrize("coordinator", [False, True])
def test_a_tier_that_is_added_comes_before_the_engines_that_use_it(coordinator: bool) -> None:
    before, now = Set(kv=False), Set("m1", "c2", coordinator=coordinator)
    made = outcomes(now, before.run(), before=[before], states=before.good)
    assert started(made) == {"kv-coordinator" if coordinator else "kv-cache"}
    assert made["compute"].target == "c1"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (("prefill",), ("prefill", "decode"), ["prefill of c2: 1", "decode of c2: 2"]),
        (("prefill", "decode"), ("prefill",), ["prefill of c2: 1"]),
        (("prefill", "decode"), ("prefill", "encode"), ["prefill of c2: 1", "encode of c2: 1"]),
    ],
    ids=["added", "removed", "renamed"],
)
def test_roles_come_and_go(before: tuple[str, ...], after: tuple[str, ...], expected: list[str]) -> None:
    old, now = Set(roles=before, pods={"encode": 1}), Set("m1", "c2", roles=after, pods={"encode": 1})
    made = outcomes(now, old.run(), before=[old], states=old.good)
    assert writes(made) == expected
    record = made["compute"].state.record
    assert record is not None
    assert record.old_replicas.keys() >= set(before)


def test_going_back_to_a_role_that_the_spec_has_dropped_asks_for_as_many_as_there_were() -> None:
    old, now = Set(pods={"decode": 6}), Set("m1", "c2", roles=("prefill",))
    record = Record("c2", "c1", {"prefill": 1, "decode": 6}, 1, NOW, NOW, 0)
    states = now.good | {"compute": replace(failed("compute", now)["compute"], good="c1", record=record)}
    half = old.run("compute", decode=observed(2))
    made = outcomes(now, now.run(*SERVERS), half, now.run("compute", every=UNREADY), before=[old], states=states)
    assert "decode of c1: 6" in writes(made)
    rest = {"compute": replace(states["compute"], record=None)}
    stays = outcomes(now, now.run(*SERVERS), old.run("compute"), before=[old], states=now.good | rest)
    assert writes(stays) == [], "at rest there are as many as there are"


def test_the_record_of_the_last_good_revision_is_lost() -> None:
    """Its ControllerRevision and its Deployments were deleted: there is nothing to go back to."""
    states = FLAG.good | {"compute": replace(failed("compute", FLAG)["compute"], good="c1")}
    made = outcomes(FLAG, FLAG.run(*SERVERS), FLAG.run("compute", every=UNREADY), states=states)
    assert made["compute"].target == "c2"
    assert not made["compute"].overdue


# Failure, pause, hold.


def test_overdue() -> None:
    late = replace(SPEC, now=NOW + timedelta(seconds=100))
    states = FLAG.good | {"compute": State("c1", Record("c1", "c2", {"prefill": 1, "decode": 2}, 1, NOW, NOW, 9))}
    running = FIRST.run(), FLAG.run("compute", every=UNREADY)
    made = outcomes(FLAG, *running, before=[FIRST], states=states, spec=late)
    assert {group for group, outcome in made.items() if outcome.overdue} == {"compute"}
    early = outcomes(FLAG, *running, before=[FIRST], states=states)
    assert early["compute"].look_again == timedelta(seconds=100)


def test_held_where_it_was() -> None:
    states = FLAG.good | failed("compute", FLAG, FIRST)
    there = FIRST.run(), FLAG.run("compute", every=UNREADY)
    made = outcomes(FLAG, *there, before=[FIRST], states=states, spec=HOLD)
    assert (made["compute"].target, made["compute"].held) == ("c2", True)
    assert made["compute"].plan.phase is Phase.HELD
    assert "prefill of c1: 0" not in writes(made)


def test_a_failed_rollback_is_held_on_the_way_back() -> None:
    states = FLAG.good | failed("compute", FLAG, FIRST, rollback_failed=True)
    made = outcomes(FLAG, FIRST.run(), FLAG.run("compute", every=UNREADY), before=[FIRST], states=states)
    assert (made["compute"].target, made["compute"].held) == ("c1", True)
    assert made["compute"].plan.phase is Phase.HELD


def test_a_failed_revision_is_tried_again_when_the_annotation_changes() -> None:
    states = FLAG.good | failed("compute", FLAG, FIRST)
    assert started(outcomes(FLAG, FIRST.run(), before=[FIRST], states=states)) == set()
    again = outcomes(FLAG, FIRST.run(), before=[FIRST], states=states, spec=replace(SPEC, retry="1"))
    assert writes(again) == ["prefill of c2: 1", "decode of c2: 1"]


@pytest.mark.parametrize("now", [FLAG, NEW_MODEL, Set(own={"weights": "new image ", "kv-cache": "new image "})])
def test_paused_nothing_new_starts_but_scaling_goes_on(now: Set) -> None:
    """New weights and a new KV cache are a rollout too, though they would stand beside the old ones."""
    now = replace(now, pods={"decode": 5, "weights": 3})
    made = outcomes(now, FIRST.run(), before=[FIRST], states=FIRST.good, spec=PAUSED)
    assert sorted(writes(made)) == ["decode of c1: 5", "weights of weights of m1: 3"]
    assert removed(made) == set()
    rolling = {group for group in now.groups if now.revision(group) != FIRST.revision(group)}
    waiting = {group for group, outcome in made.items() if outcome.waits_for}
    assert {group for group, outcome in made.items() if outcome.plan.phase is Phase.PAUSED} >= rolling - waiting
    assert not any(made[group].complete for group in rolling)
    later = outcomes(
        now,
        now.run(*SERVERS) if now.model == "m1" else FIRST.run(*SERVERS),
        FIRST.run("compute"),
        before=[FIRST],
        states={group: outcome.state for group, outcome in made.items()},
        spec=replace(SPEC, now=NOW + timedelta(days=3)),
    )
    assert not any(outcome.overdue for outcome in later.values()), "the clock has stood still"


def test_a_set_that_is_created_paused_comes_up() -> None:
    """Pausing stops changes of revision; the first one changes nothing."""
    assert started(outcomes(FIRST, states={}, spec=PAUSED)) == {"weights", "kv-coordinator"}
