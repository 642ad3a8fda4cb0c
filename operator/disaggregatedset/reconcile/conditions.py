"""The conditions of a set: what is so, why, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from disaggregatedset.api import Condition, ConditionType, RoleStatus
from disaggregatedset.reconcile.diagnose import Cause
from disaggregatedset.reconcile.findings import Findings
from disaggregatedset.reconcile.memory import phase_of
from disaggregatedset.render import COMPUTE, RETRY_ANNOTATION
from disaggregatedset.rollout import Outcome, Phase, coherent_capacity

_MAX_MESSAGE: Final = 32768  # of a metav1.Condition


def conditions(
    findings: Findings, roles: Sequence[RoleStatus], before: Sequence[Condition], *, generation: int, now: str
) -> list[Condition]:
    """Make the conditions of a set.

    Parameters
    ----------
    findings
        What was found out about it.
    roles
        The numbers of its roles.
    before
        Its present conditions: they give the times of those that do not change.
    generation
        Its generation.
    now
        The time, in RFC 3339.
    """
    verdicts = [
        _accepted(findings),
        _available(findings, roles),
        _progressing(findings, roles),
        _degraded(findings),
        _allocated(roles, findings),
    ]
    if findings.routed is not None:
        why = _Why(findings.routed.reason, findings.routed.message)
        verdicts.append((ConditionType.ROUTED, findings.routed.done, why))
    return [
        stamp(before, kind.value, flag, why.reason, why.message, generation=generation, now=now)
        for kind, flag, why in verdicts
    ]


def stamp(
    before: Sequence[Condition], kind: str, flag: bool, reason: str, message: str, *, generation: int, now: str
) -> Condition:
    """Make a condition, which keeps its time as long as its status does not turn."""
    known = next((c for c in before if c.type == kind), None)
    text = str(flag)
    return Condition(
        type=kind,
        status=text,
        observed_generation=generation,
        last_transition_time=known.last_transition_time if known and known.status == text else now,
        reason=reason,
        message=message[:_MAX_MESSAGE],
    )


@dataclass(frozen=True, slots=True)
class _Why:
    reason: str
    message: str


_Verdict = tuple[ConditionType, bool, _Why]


def rolling(findings: Findings) -> dict[str, Outcome]:
    """Return what rolls, or would if it weren't paused."""
    return {
        group: o
        for group, o in findings.outcomes.items()
        if o.state.record is not None or (o.plan.phase is Phase.PAUSED and o.target != findings.tiers[group].revision)
    }


def _accepted(findings: Findings) -> _Verdict:
    acceptance = findings.acceptance
    return ConditionType.ACCEPTED, acceptance.accepted, _Why(acceptance.reason, acceptance.message)


def _available(findings: Findings, roles: Sequence[RoleStatus]) -> _Verdict:
    allowed = {r.name: findings.unavailable.get(r.name, 0) for r in roles}
    short = [r for r in roles if r.name not in findings.optional and r.ready < r.desired - allowed[r.name]]
    desired = findings.desired.get(COMPUTE, {})
    without = [name for name, n in desired.items() if not n and name not in findings.can_be_zero]
    least = 1 - max((Fraction(allowed.get(r, 0), n) for r, n in desired.items() if n), default=Fraction(0))
    all_roles = ", ".join(f"{r.name} {r.ready}/{r.desired}" for r in roles)
    if short or not roles:
        why = _Why("RolesNotReady", f"ready/desired: {all_roles}" if roles else "nothing of the set is there")
    elif not any(desired.values()):
        why = _Why("ScaledToZero", f"all compute roles are scaled to 0, as desired; ready/desired: {all_roles}")
        return ConditionType.AVAILABLE, True, why
    elif without:
        names = " and ".join(without)
        why = _Why(
            "RoleScaledToZero",
            f"{names} {be(without)} scaled to 0 while others are not, so nothing can be served: scale {names} up, or "
            "set allowZero on a role that the set can serve without",
        )
    elif _coherent_capacity(findings) < least:
        why = _Why("NotCoherent", f"no revision has all compute roles ready; ready/desired over all: {all_roles}")
    else:
        return ConditionType.AVAILABLE, True, _Why("AllRolesReady", f"ready/desired: {all_roles}")
    return ConditionType.AVAILABLE, False, why


def _coherent_capacity(findings: Findings) -> Fraction:
    by_revision: dict[str, dict[str, int]] = {}
    for r in findings.view.running:
        if r.group == COMPUTE:
            # A status that is a moment behind is good enough to report; the planner is stricter.
            by_revision.setdefault(r.revision, {})[r.role] = min(r.observed.ready, r.observed.asked or 0)
    desired = findings.desired.get(COMPUTE, {})
    return sum((coherent_capacity(desired, ready) for ready in by_revision.values()), start=Fraction(0))


def _progressing(findings: Findings, roles: Sequence[RoleStatus]) -> _Verdict:
    flag, reason, message = _progress(findings, roles)
    return ConditionType.PROGRESSING, flag, _Why(reason, message)


_STANDING = {Phase.PAUSED: "Paused", Phase.HELD: "Held"}


def _progress(findings: Findings, roles: Sequence[RoleStatus]) -> tuple[bool, str, str]:
    if not findings.acceptance.accepted:
        return False, "NotAccepted", "the spec is not accepted: nothing is changed"
    outcomes = findings.outcomes
    unfinished = rolling(findings)
    words = "; ".join(f"{group}: {o.plan.message}" for group, o in unfinished.items())
    moving = [o for o in unfinished.values() if o.plan.phase not in _STANDING and not _gave_up(o)]
    if moving:
        first = moving[0]
        fresh = first.state.record is not None and first.state.record.start is None
        phase = phase_of(first)
        started = "Starting" if fresh else "RollingOut"
        return True, started if phase == Phase.PROGRESSING else phase, words
    stuck: set[str] = set()
    for group, o in outcomes.items():
        if o.state.failure is not None or group in unfinished or stuck.intersection(o.waits_for):
            stuck.add(group)
        elif o.waits_for:
            others = o.waits_for
            return True, "WaitingForTiers", f"{group} waits until {' and '.join(others)} {be(others)} ready"
    if unfinished:
        first = next(iter(unfinished.values()))
        return False, _STANDING.get(first.plan.phase, "ProgressDeadlineExceeded"), words
    failed = [group for group, o in outcomes.items() if o.state.failure is not None]
    if failed:
        return False, "RolledBack", f"back on the last good revision of {', '.join(failed)}"
    unready = [f"{r.name} {r.ready}/{r.desired}" for r in roles if r.ready != r.desired or r.replicas != r.desired]
    if unready or not all(o.complete for o in outcomes.values()):
        waits = [scale.waits for of_group in findings.scales.values() for scale in of_group.values() if scale.waits]
        return True, "Scaling", "; ".join([f"waiting for pods; ready/desired: {', '.join(unready)}", *waits])
    return False, "Complete", "everything is as desired"


def _gave_up(outcome: Outcome) -> bool:
    """Whether the rollout has failed and there is nothing to go back to."""
    return outcome.state.failure is not None and outcome.state.failure.revision == outcome.target


def be(names: Sequence[str]) -> str:
    """Return the verb that goes with so many names."""
    return "is" if len(names) == 1 else "are"


def _degraded(findings: Findings) -> _Verdict:
    failed = {group: o for group, o in findings.outcomes.items() if o.state.failure is not None}
    if failed:
        reasons = {o.state.failure.reason for o in failed.values() if o.state.failure}
        lost = any(o.state.failure.rollback_failed for o in failed.values() if o.state.failure)
        message = "; ".join(_what_failed(group, o) for group, o in failed.items())
        remedy = f"it is tried again when it changes, or when annotation {RETRY_ANNOTATION} gets a new value"
        why = _Why("RollbackFailed" if lost else min(reasons), f"{message}; {remedy}")
        return ConditionType.DEGRADED, True, why
    failing = {role: d for role, d in findings.diagnoses.roles.items() if d.cause.failing}
    if not failing:
        return ConditionType.DEGRADED, False, _Why("AsExpected", "no role has failing pods")
    order = list(Cause)
    worst = min((d.cause for d in failing.values()), key=order.index)
    message = "; ".join(f"{role}: {d.message}" for role, d in failing.items())
    return ConditionType.DEGRADED, True, _Why(worst.value, message)


def _what_failed(group: str, outcome: Outcome) -> str:
    failure = outcome.state.failure
    if failure is None:
        return ""
    if failure.rollback_failed:
        then = f"going back to revision {outcome.target} failed too, and it stopped where it was"
    elif outcome.target != failure.revision:
        then = f"{'going' if outcome.state.record else 'went'} back to revision {outcome.target}"
    elif outcome.held:
        then = "it stopped where it was"
    else:
        then = "there is no good revision to go back to"
    return f"{group} revision {failure.revision} failed: {failure.reason}: {failure.message}; {then}"


def _allocated(roles: Sequence[RoleStatus], findings: Findings) -> _Verdict:
    kind = ConditionType.ACCELERATORS_ALLOCATED
    claiming = [(r, r.claims) for r in roles if r.claims is not None]
    if not claiming:
        return kind, True, _Why("NotRequested", "no role claims accelerators")
    allocated = sum(c.allocated for _, c in claiming)
    wanted = sum(max(r.desired, c.allocated + c.pending) for r, c in claiming)
    if allocated >= wanted:
        return kind, True, _Why("Allocated", f"{allocated} of {wanted} claims have their devices")
    pending = [r for r, c in claiming if c.pending]
    why = findings.diagnoses.roles
    words = [f"{r.name}: {why[r.name].message}" for r in pending if r.name in why]
    message = f"{allocated} of {wanted} claims have their devices"
    return kind, False, _Why("ClaimsPending" if pending else "ClaimsNotCreated", "; ".join([message, *words]))
