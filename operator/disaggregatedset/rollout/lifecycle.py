"""The life of a rollout: begun, progressing, done, failed, rolled back or held. Pure.

What has to outlive the operator is in :class:`State`, which the status of a set keeps for each tier group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from disaggregatedset.rollout.planner import Observed, Plan


class OnFailure(StrEnum):
    """What a failed rollout does."""

    ROLLBACK = "Rollback"
    HOLD = "Hold"


@dataclass(frozen=True, slots=True)
class Record:
    """A rollout that runs.

    Attributes
    ----------
    start
        The revision that was there when it began; None: there was none.
    target
        The revision that it goes to.
    old_replicas
        Pods that were desired when it began, by role; kept until it ends, also when the target changes.
    generation
        The generation of the set that ``progress`` was seen in.
    started, last_progress
        When it began, and when it last got closer to its end.
    progress
        How close it has come: pods of the target that are ready, less pods of other revisions that are asked for.
    waiting_since
        Since when the deadline's clock stands still; None: it runs.
    """

    start: str | None
    target: str
    old_replicas: Mapping[str, int]
    generation: int
    started: datetime
    last_progress: datetime
    progress: int
    waiting_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A revision that failed.

    Attributes
    ----------
    revision
        Which.
    reason
        Why, in one word for machines.
    message
        Why, in the words of a pod, a claim or the scheduler.
    at
        When.
    retry
        The value that annotation ``disaggregatedset.dev/retry`` had.
    rollback_failed
        Whether going back failed too.
    """

    revision: str
    reason: str
    message: str
    at: datetime
    retry: str
    rollback_failed: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered of a tier group.

    Attributes
    ----------
    good
        The last good revision: the last one whose rollout ended.
    record
        The rollout that runs.
    failure
        The wanted revision's failure.
    """

    good: str | None = None
    record: Record | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What a spec says about its rollouts."""

    paused: bool = False
    deadline: timedelta = timedelta(seconds=600)
    on_failure: OnFailure = OnFailure.ROLLBACK


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a tier group is to go.

    Attributes
    ----------
    target
        The revision to go to.
    held
        Whether it stops where it is.
    """

    target: str
    held: bool = False


def still_failed(state: State, wanted: str, retry: str, now: datetime) -> State:
    """Forget a failure that is not of the wanted revision, or that a new value of the annotation says to try again."""
    failure, record = state.failure, state.record
    if failure is None or (failure.revision == wanted and failure.retry == retry):
        return state
    if record is not None:  # it is tried again, with all the time that it had
        record = replace(record, last_progress=now, waiting_since=None)
    return replace(state, record=record, failure=None)


def aim(state: State, wanted: str, policy: Policy) -> Aim:
    """Say where a tier group is to go: to the wanted revision, or back to the last good one if that failed."""
    if state.failure is None:
        return Aim(wanted)
    if policy.on_failure is OnFailure.HOLD:
        return Aim(wanted, held=True)
    if state.good is None or state.good == wanted:
        return Aim(wanted)  # nothing to go back to: its pods stay, and may still recover
    return Aim(state.good, held=state.failure.rollback_failed)


def begin(
    state: State,
    target: str,
    observed: Mapping[str, Mapping[str, Observed]],
    *,
    generation: int,
    now: datetime,
) -> State:
    """Record a rollout to the target, unless it is recorded or there is none to do."""
    record = state.record
    if record is not None and record.target == target:
        return state
    others = [v for v, roles in observed.items() if v != target and any(seen.asked for seen in roles.values())]
    if record is None and state.good == target and not others:
        return state
    before = [record.target] if record is not None else [state.good, *sorted(others)]
    start = next((v for v in before if v is not None and v != target), None)
    old = dict(record.old_replicas) if record is not None and record.old_replicas else _asked(observed)
    progress = progress_of(target, observed)
    return replace(state, record=Record(start, target, old, generation, now, now, progress))


def _asked(observed: Mapping[str, Mapping[str, Observed]]) -> dict[str, int]:
    asked: dict[str, int] = {}
    for roles in observed.values():
        for role, seen in roles.items():
            asked[role] = asked.get(role, 0) + (seen.asked or 0)
    return asked if any(asked.values()) else {}


def progress_of(target: str, observed: Mapping[str, Mapping[str, Observed]]) -> int:
    """Say how close a rollout is to its end."""
    ready = sum(min(seen.ready, seen.asked or 0) for seen in observed.get(target, {}).values())
    left = sum(seen.asked or 0 for v, roles in observed.items() if v != target for seen in roles.values())
    return ready - left


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a rollout.

    Attributes
    ----------
    state
        What to remember.
    overdue
        Whether it has made no progress for too long.
    look_again
        When to judge again; None: not before something changes.
    """

    state: State
    overdue: bool = False
    look_again: timedelta | None = None


def judge(
    state: State,
    plan: Plan,
    observed: Mapping[str, Mapping[str, Observed]],
    policy: Policy,
    *,
    generation: int,
    now: datetime,
    held: bool,
) -> Judgement:
    """Say what became of a rollout: done, on its way, or overdue.

    Parameters
    ----------
    state
        What is remembered, with the rollout's record.
    plan
        What is done for it now.
    observed
        What it was planned from.
    policy
        What the spec says.
    generation
        The set's generation: a change of the spec starts the clock anew.
    now
        The time.
    held
        Whether it has been stopped.
    """
    record = state.record
    if record is None:
        return Judgement(state)
    if plan.done:
        failure = state.failure
        if failure is not None:  # it has recovered, or has been left after all
            failure = None if failure.revision == record.target else replace(failure, rollback_failed=False)
        return Judgement(State(good=record.target, failure=failure))
    progress = progress_of(record.target, observed)
    if progress > record.progress or generation != record.generation:
        record = replace(record, progress=progress, generation=generation, last_progress=now)
    if plan.waits_for_devices or policy.paused or held:
        record = replace(record, waiting_since=record.waiting_since or now)
        return Judgement(replace(state, record=record))
    if record.waiting_since is not None:
        waited = now - record.waiting_since
        record = replace(record, last_progress=min(now, record.last_progress + waited), waiting_since=None)
    left = record.last_progress + policy.deadline - now
    failed_before = state.failure is not None and state.failure.revision == record.target
    overdue = left <= timedelta() and not failed_before
    return Judgement(replace(state, record=record), overdue, left if left > timedelta() else None)


def fail(state: State, wanted: str, reason: str, message: str, *, retry: str, now: datetime) -> State:
    """Remember that the rollout that runs has failed."""
    if state.failure is not None and state.record is not None and state.record.target != wanted:
        return replace(state, failure=replace(state.failure, rollback_failed=True))
    return replace(state, failure=Failure(wanted, reason, message, now, retry))
