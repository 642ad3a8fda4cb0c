"""What a status remembers of rollouts comes back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disaggregatedset.api import DisaggregatedSetStatus
from disaggregatedset.reconcile.memory import must_be_written_first, phase_of, recall, remember, timestamp
from disaggregatedset.rollout import Deletion, Failure, Outcome, Phase, Plan, Record, State, Write
from tests.unit.builders import NOW

GROUPS = ("weights", "kv-coordinator", "kv-cache", "compute")
IDLE = Plan((), (), done=False, phase=Phase.PROGRESSING, message="waiting for prefill (0 of 1)")
WRITES = replace(IDLE, writes=(Write("prefill", "B", 1, ""),))
RECORD = Record("A", "B", {"prefill": 1, "decode": 2}, 3, NOW, NOW, -3)
FAILED = Failure("B", "CrashLoop", "boom", NOW, "")

_names = st.text("bcdfghjk", min_size=1, max_size=8)
_times = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC))  # noqa: DTZ001
_counts = st.integers(0, 100_000)
_records = st.builds(
    Record,
    start=st.none() | _names,
    target=_names,
    old_replicas=st.dictionaries(_names, _counts, max_size=8),
    generation=st.integers(1, 2**40),
    started=_times,
    last_progress=_times,
    progress=st.integers(-800_000, 800_000),
    waiting_since=st.none() | _times,
)
_failures = st.builds(
    Failure,
    revision=_names,
    reason=st.sampled_from(["NotReady", "ImagePull"]),
    message=st.text(max_size=100),
    at=_times,
    retry=st.text(max_size=10),
    rollback_failed=st.booleans(),
)
_states = st.builds(State, good=st.none() | _names, record=st.none() | _records, failure=st.none() | _failures)


def _outcome(state: State, plan: Plan = IDLE, target: str = "B") -> Outcome:
    return Outcome(target, plan, state)


def _stored(outcomes: dict[str, Outcome]) -> DisaggregatedSetStatus:
    """Go the way over the API server and back."""
    made = DisaggregatedSetStatus(**remember(outcomes))
    stored = json.loads(json.dumps(made.model_dump(by_alias=True, exclude_none=True, mode="json")))
    return DisaggregatedSetStatus.model_validate(stored)


@given(st.dictionaries(st.sampled_from(GROUPS), _states))
def test_what_is_remembered_comes_back(states: dict[str, State]) -> None:
    stored = _stored({group: _outcome(state) for group, state in states.items()})
    assert recall(stored) == {group: state for group, state in states.items() if state != State()}


@pytest.mark.parametrize("status", [None, DisaggregatedSetStatus()])
def test_nothing_is_remembered_at_first(status: DisaggregatedSetStatus | None) -> None:
    assert recall(status) == {}
    assert remember({"compute": _outcome(State())}) == {
        "rollouts": None,
        "failed_revisions": None,
        "good_revisions": None,
    }


def test_times_are_written_as_kubernetes_does() -> None:
    there = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(there) == "2026-01-02T01:04:05Z"


def test_no_words_are_too_long() -> None:
    state = State("A", RECORD, replace(FAILED, message="x" * 9000))
    [rollout] = _stored({"compute": _outcome(state, replace(IDLE, message="y" * 9000))}).rollouts or ()
    assert len(rollout.message or "") == 4096
    failure = recall(_stored({"compute": _outcome(state)}))["compute"].failure
    assert failure is not None
    assert failure.message == "x" * 4096


def test_a_tier_that_is_gone_is_forgotten() -> None:
    states = {group: State(f"good {group}") for group in GROUPS}
    before = _stored({group: _outcome(state) for group, state in states.items()})
    assert recall(before) == states
    after = _stored({group: _outcome(recall(before)[group]) for group in GROUPS if group != "kv-cache"})
    assert recall(after).keys() == set(GROUPS) - {"kv-cache"}


# Before the first pod moves, what was desired before is written down.


@pytest.mark.parametrize(
    ("known", "record", "plan", "first"),
    [
        (None, RECORD, WRITES, True),
        (None, RECORD, replace(IDLE, deletions=(Deletion("prefill", "A"),)), True),
        (None, RECORD, IDLE, False),  # nothing moves
        (None, None, WRITES, False),  # scaling
        (None, replace(RECORD, start=None, old_replicas={}), WRITES, False),  # nothing to be measured by
        (RECORD, RECORD, WRITES, False),
        (RECORD, replace(RECORD, progress=0, last_progress=NOW + timedelta(1)), WRITES, False),
        (RECORD, replace(RECORD, target="C", start="B"), WRITES, True),
        (RECORD, replace(RECORD, old_replicas={"prefill": 9}), WRITES, True),
        (replace(RECORD, old_replicas={}), RECORD, WRITES, True),
    ],
    ids=[
        "a rollout begins",
        "it begins with a deletion",
        "it begins with nothing",
        "no rollout",
        "a new set",
        "it runs",
        "it goes on",
        "its target changes",
        "another number",
        "a first rollout is replaced",
    ],
)
def test_must_be_written_first(known: Record | None, record: Record | None, plan: Plan, first: bool) -> None:
    status = None if known is None else _stored({"compute": _outcome(State("A", known))})
    others = {"weights": _outcome(State("W"))}
    outcomes = others | {"compute": _outcome(State("A", record), plan)}
    assert must_be_written_first(status, outcomes) == first
    if first:
        assert not must_be_written_first(_stored(outcomes), outcomes), "once is enough"


@pytest.mark.parametrize(
    ("failure", "target", "phase", "expected"),
    [
        (None, "B", Phase.PROGRESSING, "Progressing"),
        (None, "B", Phase.PAUSED, "Paused"),
        (None, "B", Phase.WAITING_FOR_DEVICES, "WaitingForDevices"),
        (FAILED, "A", Phase.PROGRESSING, "RollingBack"),
        (FAILED, "A", Phase.WAITING_FOR_DEVICES, "WaitingForDevices"),
        (FAILED, "A", Phase.HELD, "Held"),
        (FAILED, "B", Phase.HELD, "Held"),
        (FAILED, "B", Phase.PROGRESSING, "Progressing"),
    ],
)
def test_phase(failure: Failure | None, target: str, phase: Phase, expected: str) -> None:
    outcome = _outcome(State("A", RECORD, failure), replace(IDLE, phase=phase), target)
    assert phase_of(outcome) == expected
