"""What the status of a set remembers of its rollouts, so that a restarted operator goes on where it was. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from disaggregatedset.api import DisaggregatedSetStatus, FailedRevision, RolloutStatus
from disaggregatedset.rollout import Failure, Outcome, Phase, Record, State

_MAX_MESSAGE = 4096


def timestamp(moment: datetime) -> str:
    """Write a time as RFC 3339, to the second, as Kubernetes does."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def recall(status: DisaggregatedSetStatus | None) -> dict[str, State]:
    """Read what is remembered, by tier group."""
    if status is None:
        return {}
    records = {r.group: _record(r) for r in status.rollouts or ()}
    failures = {f.group: _failure(f) for f in status.failed_revisions or ()}
    good = status.good_revisions or {}
    groups = {*records, *failures, *good}
    return {group: State(good.get(group), records.get(group), failures.get(group)) for group in groups}


def remember(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Write what is to be remembered, as fields of :class:`DisaggregatedSetStatus`."""
    states = {group: outcome.state for group, outcome in outcomes.items()}
    rollouts = [
        _rollout_status(group, outcomes[group], state.record)
        for group, state in states.items()
        if state.record is not None
    ]
    failed = [_failed_revision(group, state.failure) for group, state in states.items() if state.failure is not None]
    good = {group: state.good for group, state in states.items() if state.good is not None}
    return {"rollouts": rollouts or None, "failed_revisions": failed or None, "good_revisions": good or None}


def must_be_written_first(status: DisaggregatedSetStatus | None, outcomes: Mapping[str, Outcome]) -> bool:
    """Whether a rollout is about to begin whose guarantees are measured by what was desired before it."""
    known = recall(status)
    for group, outcome in outcomes.items():
        record = outcome.state.record
        if record is None or not record.old_replicas or not (outcome.plan.writes or outcome.plan.deletions):
            continue
        before = known.get(group, State()).record
        if before is None or (before.target, before.old_replicas) != (record.target, record.old_replicas):
            return True
    return False


def phase_of(outcome: Outcome) -> str:
    """Say in one word where the rollout of a tier group stands."""
    going_back = outcome.state.failure is not None and outcome.state.failure.revision != outcome.target
    if going_back and outcome.plan.phase is Phase.PROGRESSING:
        return "RollingBack"
    return outcome.plan.phase.value


def _record(status: RolloutStatus) -> Record:
    return Record(
        start=status.from_revision,
        target=status.to,
        old_replicas=status.old_replicas or {},
        generation=status.generation,
        started=datetime.fromisoformat(status.started_at),
        last_progress=datetime.fromisoformat(status.last_progress_at),
        progress=status.progress,
        waiting_since=datetime.fromisoformat(status.waiting_since) if status.waiting_since else None,
    )


def _failure(status: FailedRevision) -> Failure:
    return Failure(
        revision=status.revision,
        reason=status.reason,
        message=status.message,
        at=datetime.fromisoformat(status.failed_at),
        retry=status.retry or "",
        rollback_failed=bool(status.rollback_failed),
    )


def _rollout_status(group: str, outcome: Outcome, record: Record) -> RolloutStatus:
    return RolloutStatus(
        group=group,
        from_revision=record.start,
        to=record.target,
        phase=phase_of(outcome),
        message=outcome.plan.message[:_MAX_MESSAGE],
        old_replicas=dict(record.old_replicas) or None,
        generation=record.generation,
        progress=record.progress,
        started_at=timestamp(record.started),
        last_progress_at=timestamp(record.last_progress),
        waiting_since=timestamp(record.waiting_since) if record.waiting_since else None,
    )


def _failed_revision(group: str, failure: Failure) -> FailedRevision:
    return FailedRevision(
        group=group,
        revision=failure.revision,
        reason=failure.reason,
        message=failure.message[:_MAX_MESSAGE],
        failed_at=timestamp(failure.at),
        retry=failure.retry or None,
        rollback_failed=failure.rollback_failed or None,
    )
