"""The life of one rollout: begun, judged, failed, rolled back, held."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disaggregatedset.rollout import Failure, Observed, OnFailure, Phase, Plan, Policy, Record, State, fail
from disaggregatedset.rollout.lifecycle import Aim, Judgement, aim, begin, judge, progress_of, still_failed
from tests.unit.builders import NOW, observed

Seen = dict[str, dict[str, Observed]]
POLICY = Policy(deadline=timedelta(seconds=100))
HOLD = replace(POLICY, on_failure=OnFailure.HOLD)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def record(target: str = "B", *, start: str | None = "A", old: Any = None, **more: Any) -> Record:
    made = Record(start, target, {"p": 2} if old is None else old, 1, NOW, NOW, -2)
    return replace(made, **more)


def failure(revision: str = "B", **more: Any) -> Failure:
    return replace(Failure(revision, "CrashLoop", "boom", NOW, ""), **more)


def seen(**revisions: int | tuple[int, int]) -> Seen:
    """One role, as ready or (ready, asked for)."""
    return {v: {"p": observed(n[1], ready=n[0]) if isinstance(n, tuple) else observed(n)} for v, n in revisions.items()}


def plan(*, done: bool = False, phase: Phase = Phase.PROGRESSING) -> Plan:
    return Plan((), (), done, Phase.COMPLETE if done else phase, "words")


def judged(state: State, there: Seen, now: float, *, policy: Policy = POLICY, **more: Any) -> Judgement:
    held, generation = more.pop("held", False), more.pop("generation", 1)
    return judge(state, plan(**more), there, policy, generation=generation, now=at(now), held=held)


# Where to go.


@pytest.mark.parametrize(
    ("state", "policy", "expected"),
    [
        (State(), POLICY, Aim("B")),
        (State(good="A"), POLICY, Aim("B")),
        (State(good="A"), HOLD, Aim("B")),
        (State(good="A", failure=failure()), POLICY, Aim("A")),
        (State(good="A", failure=failure()), HOLD, Aim("B", held=True)),
        (State(good=None, failure=failure()), POLICY, Aim("B")),
        (State(good=None, failure=failure()), HOLD, Aim("B", held=True)),
        (State(good="B", failure=failure()), POLICY, Aim("B")),
        (State(good="A", failure=failure(rollback_failed=True)), POLICY, Aim("A", held=True)),
        (State(good="A", failure=failure(rollback_failed=True)), HOLD, Aim("B", held=True)),
    ],
    ids=[
        "new",
        "a change",
        "a change, Hold",
        "failed",
        "failed, Hold",
        "failed, nothing to go back to",
        "failed, nothing to go back to, Hold",
        "failed on the way back to the good one",
        "rollback failed",
        "rollback failed, then Hold",
    ],
)
def test_aim(state: State, policy: Policy, expected: Aim) -> None:
    assert aim(state, "B", policy) == expected


@pytest.mark.parametrize(
    ("wanted", "retry", "forgotten"), [("B", "", False), ("C", "", True), ("A", "", True), ("B", "1", True)]
)
def test_a_failure_is_forgotten_when_something_else_is_wanted_or_a_person_says_so(
    wanted: str, retry: str, forgotten: bool
) -> None:
    state = State("A", None, failure())
    assert still_failed(state, wanted, retry, NOW) == State("A", None, None if forgotten else failure())
    assert still_failed(State("A"), wanted, retry, NOW) == State("A")


def test_an_annotation_that_was_there_before_the_failure_is_no_retry() -> None:
    failed = State("A", failure=failure(retry="monday"))
    assert still_failed(failed, "B", "monday", NOW) == failed
    assert still_failed(failed, "B", "tuesday", NOW).failure is None
    assert still_failed(failed, "B", "", NOW).failure is None, "taking it away is a new value too"


# Begin.


def _begin(state: State, target: str, there: Seen, now: float = 0, generation: int = 1) -> State:
    return begin(state, target, there, generation=generation, now=at(now))


def test_a_new_set_begins_with_nothing_to_be_measured_by() -> None:
    assert _begin(State(), "A", {"A": {"p": Observed()}}) == State(None, Record(None, "A", {}, 1, NOW, NOW, 0))


def test_at_rest_nothing_begins() -> None:
    assert _begin(State("A"), "A", seen(A=2)) == State("A")
    assert _begin(State("A"), "A", seen(A=(0, 7), B=0)) == State("A"), "scaling is no rollout, nor is an empty leftover"


def test_a_change_begins_with_what_is_asked_for_now() -> None:
    began = _begin(State("A"), "B", seen(A=(1, 4), B=(0, 0)), 5, generation=7)
    assert began == State("A", Record("A", "B", {"p": 4}, 7, at(5), at(5), -4))


def test_pods_of_another_revision_at_rest_begin_one() -> None:
    assert _begin(State("B"), "B", seen(A=1, B=2)).record == record(start="A", old={"p": 3}, progress=1)


def test_a_status_that_was_wiped_in_mid_rollout() -> None:
    began = _begin(State(), "B", seen(A=1, B=2)).record
    assert began is not None
    assert (began.start, began.target) == ("A", "B")


def test_what_is_recorded_stays() -> None:
    state = State("A", record())
    assert _begin(state, "B", seen(A=1, B=(1, 2)), 50, generation=9) is state


@pytest.mark.parametrize(("target", "start"), [("C", "B"), ("A", "B")])
def test_another_target_in_mid_rollout_keeps_what_was_desired_at_first(target: str, start: str) -> None:
    changed = _begin(State("A", record(started=at(-50))), target, seen(A=1, B=2), 10).record
    assert changed is not None
    assert (changed.start, changed.target, changed.old_replicas) == (start, target, {"p": 2})
    assert (changed.started, changed.last_progress) == (at(10), at(10)), "its clock starts anew"


def test_another_target_of_a_first_rollout_is_measured_by_what_is_there() -> None:
    first = _begin(State(), "A", {"A": {"p": Observed()}})
    changed = _begin(first, "B", seen(A=(1, 3))).record
    assert changed is not None
    assert (changed.start, changed.old_replicas) == ("A", {"p": 3})


def test_going_back_says_where_from() -> None:
    """Also where nothing was recorded to be measured by: new weights stand beside the old ones."""
    state = State("A", record(old={}), failure())
    back = _begin(state, "A", seen(A=(1, 2))).record
    assert back is not None
    assert (back.start, back.target) == ("B", "A")


# Judge.


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({}, 0),
        (seen(A=4), -4),
        (seen(A=4, B=(1, 2)), -3),
        (seen(A=(0, 4), B=2), -2),
        (seen(B=(3, 2)), 2),  # a terminating pod that is still ready is none
        (seen(B=(2, 4)), 2),
    ],
)
def test_progress(there: Seen, expected: int) -> None:
    assert progress_of("B", there) == expected


def test_without_a_rollout_there_is_nothing_to_judge() -> None:
    assert judged(State("A"), seen(A=2), 0) == Judgement(State("A"))


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(
    ("state", "after"),
    [
        (State("A", record()), State("B")),
        (State(None, record("A", start=None)), State("A")),
        (State(None, record("A", start=None), failure("A")), State("A")),  # it was given up, and recovered
        (State("A", record("A"), failure("B")), State("A", None, failure("B"))),  # rolled back
        (State("A", record("A"), failure("B", rollback_failed=True)), State("A", None, failure("B"))),
    ],
    ids=["a rollout", "the first", "recovered", "rolled back", "rolled back though it was given up"],
)
def test_done(state: State, after: State, held: bool) -> None:
    """Also where it was held: what is there is all that there could be."""
    assert judged(state, {}, 0, done=True, held=held) == Judgement(after)


def test_the_clock() -> None:
    """Progress starts it anew; a rollout is overdue when it ends, and says when that will be."""
    state = State("A", record())
    early = judged(state, seen(A=2), 30)
    assert (early.overdue, early.look_again) == (False, timedelta(seconds=70))
    further = judged(early.state, seen(A=2, B=(1, 2)), 90)
    assert (further.overdue, further.look_again) == (False, timedelta(seconds=100))
    relapse = judged(further.state, seen(A=2, B=(0, 2)), 150)
    assert relapse.look_again == timedelta(seconds=40), "a step back is no progress"
    again = judged(relapse.state, seen(A=2, B=(1, 2)), 180)
    assert again.look_again == timedelta(seconds=10), "nor is the way up to where it was"
    late = judged(again.state, seen(A=2, B=(1, 2)), 190)
    assert (late.overdue, late.look_again) == (True, None)


def test_a_change_of_the_spec_starts_the_clock_anew() -> None:
    state = State("A", record())
    changed = judged(state, seen(A=4), 99, generation=2)
    assert changed.look_again == timedelta(seconds=100)
    assert changed.state.record == replace(record(), generation=2, last_progress=at(99), progress=-4)


def test_a_shorter_deadline_counts_at_once() -> None:
    assert judged(State("A", record()), seen(A=2), 30, policy=replace(POLICY, deadline=timedelta(seconds=30))).overdue


STANDS = {
    "paused": {"policy": replace(POLICY, paused=True)},
    "held": {"held": True},
    "devices": {"phase": Phase.WAITING_FOR_DEVICES},
}


@pytest.mark.parametrize("why", STANDS)
def test_the_clock_stands_still(why: str) -> None:
    state = State("A", record())
    for now in (40, 1000, 9999):
        waiting = judged(state, seen(A=2), now, **STANDS[why])
        assert (waiting.overdue, waiting.look_again) == (False, None)
        state = waiting.state
        assert state.record is not None
        assert state.record.waiting_since == at(40)
    goes_on = judged(state, seen(A=2), 10000)
    assert goes_on.look_again == timedelta(seconds=60), "40 of 100 seconds had passed"
    assert goes_on.state.record is not None
    assert goes_on.state.record.waiting_since is None
    assert judged(goes_on.state, seen(A=2), 10060).overdue


def test_progress_while_the_clock_stands_counts() -> None:
    waiting = judged(State("A", record()), seen(A=2), 50, **STANDS["devices"])
    better = judged(waiting.state, seen(A=2, B=(1, 2)), 70, **STANDS["devices"])
    assert judged(better.state, seen(A=2, B=(1, 2)), 80).look_again == timedelta(seconds=100)


def test_what_has_failed_and_cannot_go_back_is_not_overdue_again() -> None:
    state = fail(State(None, record("A", start=None, progress=0)), "A", "NotReady", "", retry="", now=NOW)
    assert judged(state, seen(A=(0, 2)), 5000) == Judgement(state)


def test_a_rollback_has_a_clock_of_its_own() -> None:
    state = _begin(fail(State("A", record()), "B", "NotReady", "", retry="", now=at(100)), "A", seen(A=1, B=1), 100)
    assert not judged(state, seen(A=1, B=1), 199).overdue
    assert judged(state, seen(A=1, B=1), 200).overdue


# Fail.


def test_fail() -> None:
    began = State("A", record())
    failed = fail(began, "B", "ImagePull", "no such image", retry="x", now=at(9))
    assert failed == replace(began, failure=Failure("B", "ImagePull", "no such image", at(9), "x"))
    back = replace(failed, record=record("A", start="B"))
    lost = fail(back, "B", "CrashLoop", "worse", retry="x", now=at(99))
    assert lost.failure == Failure("B", "ImagePull", "no such image", at(9), "x", rollback_failed=True), (
        "what was wrong at first is what a person has to know"
    )
    assert lost.record == back.record


def _turn(state: State, there: Seen, now: float, **spec: Any) -> tuple[State, Aim, bool]:
    """Do what a reconcile does of it, for the wanted revision B."""
    policy, retry = spec.get("policy", POLICY), spec.get("retry", "")
    state = still_failed(state, "B", retry, at(now))
    to = aim(state, "B", policy)
    state = _begin(state, to.target, there, now)
    what = judged(state, there, now, policy=policy, held=to.held, done=spec.get("done", False))
    state = what.state
    if what.overdue:
        state = fail(state, "B", "NotReady", "", retry=retry, now=at(now))
    return state, to, what.overdue


def test_a_whole_life() -> None:
    state, there = State("A"), seen(A=2, B=(0, 1))
    lives = []
    for now in range(0, 400, 20):
        state, to, overdue = _turn(state, there, now)
        if not lives or lives[-1][1:] != (to.target, to.held, overdue):
            lives.append((now, to.target, to.held, overdue))
    assert lives == [
        (0, "B", False, False),
        (100, "B", False, True),
        (120, "A", False, False),
        (220, "A", False, True),
        (240, "A", True, False),
    ], "overdue once forward, once back, and then it is held"
    state, to, _ = _turn(state, seen(A=2), 500, done=True)
    assert state == State("A", None, failure(reason="NotReady", message="", at=at(100)))
    assert to.target == "A"


@pytest.mark.parametrize(
    ("good", "policy"), [(None, POLICY), (None, HOLD), ("A", HOLD)], ids=["first", "first, Hold", "Hold"]
)
def test_a_retry_has_the_whole_deadline(good: str | None, policy: Policy) -> None:
    """Where the rollout's target stays the same, its clock must not go on from where it failed."""
    state, there = State(good), seen(A=2, B=(0, 1)) if good else seen(B=(0, 2))
    for now in (0, 100, 200, 300):
        state, _, overdue = _turn(state, there, now, policy=policy)
        assert overdue == (now == 100)
    state, to, overdue = _turn(state, there, 400, policy=policy, retry="again")
    assert (to, overdue) == (Aim("B"), False)
    assert state.failure is None
    state, _, overdue = _turn(state, there, 499, policy=policy, retry="again")
    assert not overdue
    state, _, overdue = _turn(state, there, 500, policy=policy, retry="again")
    assert overdue


_DEADLINE = 100
_EVENTS = st.tuples(
    st.integers(1, 150),  # seconds later
    st.sampled_from(["go", "paused", "devices"]),
    st.integers(0, 3),  # pods of the target that are ready
    st.booleans(),  # whether the spec changes
)


@given(st.lists(_EVENTS, max_size=30))
def test_a_rollout_is_overdue_exactly_when_so_much_time_ran_without_progress(
    events: list[tuple[int, str, int, bool]],
) -> None:
    """Against a clock that ticks: of each interval counts what the state at its begin says."""
    state, now, ran, best, generation, standing = State("A", record()), 0, 0, -2, 1, False
    for later, what, ready, changes in events:
        now += later
        ran += 0 if standing else later
        generation += changes
        progress = ready - 2
        if progress > best or changes:
            best, ran = progress, 0
        standing = what != "go"
        judgement = judged(
            state,
            seen(A=2, B=(ready, 3)),
            now,
            generation=generation,
            policy=replace(POLICY, paused=what == "paused"),
            phase=Phase.WAITING_FOR_DEVICES if what == "devices" else Phase.PROGRESSING,
        )
        state = judgement.state
        assert judgement.overdue == (not standing and ran >= _DEADLINE)
        if not standing and not judgement.overdue:
            assert judgement.look_again == timedelta(seconds=_DEADLINE - ran)
        assert state.record is not None
        assert state.record.old_replicas == {"p": 2}


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_what_was_desired_before_a_rollout_stays_until_it_ends(steps: list[tuple[str, int, int]]) -> None:
    """A -> B -> C -> A ..., whatever is asked for meanwhile."""
    state = _begin(State("A"), "B", seen(A=3))
    for target, asked, ready in steps:
        there = {v: {"p": observed(asked, ready=min(asked, ready))} for v in "ABC"}
        state = judged(_begin(state, target, there), there, 0).state
        assert state.record is not None
        assert (state.record.target, state.record.old_replicas) == (target, {"p": 3})
