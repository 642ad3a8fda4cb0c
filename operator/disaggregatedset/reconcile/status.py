"""The status of a set: what is there, and why it is not all that is wanted. Pure; the one place that makes status."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from disaggregatedset.api import (
    ClaimsStatus,
    Condition,
    ConditionType,
    DisaggregatedSet,
    DisaggregatedSetStatus,
    RoleStatus,
    Summary,
    Tier,
)
from disaggregatedset.reconcile.diagnose import Cause, Diagnoses
from disaggregatedset.reconcile.memory import phase_of, remember
from disaggregatedset.reconcile.view import Claims, View
from disaggregatedset.render import COMPUTE, GROUPS, RETRY_ANNOTATION, TierRevision
from disaggregatedset.rollout import Outcome, Phase, Role, Running, coherent_capacity, resolve

_MAX_MESSAGE: Final = 32768  # of a metav1.Condition


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Whether a spec can be carried out, and if not, why, in the API server's or our words."""

    reason: str = "Accepted"
    message: str = "the spec is valid"

    @property
    def accepted(self) -> bool:
        """Whether it can."""
        return self.reason == "Accepted"


ACCEPTED = Acceptance()


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a status is made of.

    Attributes
    ----------
    acceptance
        Whether the spec can be carried out.
    tiers
        The wanted revisions by tier group.
    desired
        Pods wanted, by tier group and role.
    roles
        The live numbers of each role.
    optional
        Roles that the set can serve without.
    view
        The children.
    outcomes
        What is done with the tier groups.
    diagnoses
        Why pods are not ready.
    """

    acceptance: Acceptance
    tiers: Mapping[str, TierRevision]
    desired: Mapping[str, Mapping[str, int]]
    roles: Mapping[str, Role]
    optional: frozenset[str]
    view: View
    outcomes: Mapping[str, Outcome]
    diagnoses: Diagnoses

    @property
    def unavailable(self) -> dict[str, int]:
        """How many pods of each role may be missing."""
        return {name: resolve(role)[1] for name, role in self.roles.items()}


def status(dset: DisaggregatedSet, findings: Findings, now: str) -> dict[str, Any]:
    """Make the status of a set.

    Parameters
    ----------
    dset
        The set; its present status gives the times of conditions that do not change.
    findings
        What was found out about it.
    now
        The time, in RFC 3339.

    Returns
    -------
    dict
        The whole status as JSON.
    """
    roles = [
        _role(findings, group, name, desired)
        for group, of_group in findings.desired.items()
        for name, desired in of_group.items()
    ]
    conditions = [
        _accepted(findings),
        _available(findings, roles),
        _progressing(findings, roles),
        _degraded(findings),
        _allocated(roles, findings),
    ]
    model = next(iter(findings.tiers.values())).model_revision if findings.tiers else None
    # A spec that is not accepted changes nothing, what is remembered of rollouts included.
    before = dset.status or DisaggregatedSetStatus()
    memory = (
        remember(findings.outcomes)
        if findings.outcomes
        else {field: getattr(before, field) for field in ("rollouts", "failed_revisions", "good_revisions")}
    )
    made = DisaggregatedSetStatus(
        observed_generation=dset.metadata.generation,
        model_revision=model,
        summary=_summary(findings, roles),
        roles=roles,
        **memory,
        conditions=[_stamp(dset, kind, flag, why, now) for kind, flag, why in conditions],
    )
    return made.model_dump(by_alias=True, exclude_none=True, mode="json")


def turning_points(status: Mapping[str, Any]) -> Hashable:
    """Return what of a status is worth being written at once; everything else may be a moment behind."""
    telling = {ConditionType.ACCEPTED, ConditionType.DEGRADED}
    return (
        tuple(
            (c["type"], c["status"], c["reason"] if c["type"] in telling else "")
            for c in status.get("conditions") or ()
        ),
        tuple((r["group"], r["to"], r["phase"]) for r in status.get("rollouts") or () if r.get("from")),
        tuple((f["group"], f["revision"], f.get("rollbackFailed")) for f in status.get("failedRevisions") or ()),
    )


@dataclass(frozen=True, slots=True)
class _Why:
    reason: str
    message: str


_Verdict = tuple[ConditionType, bool, _Why]


def _stamp(dset: DisaggregatedSet, kind: ConditionType, flag: bool, why: _Why, now: str) -> Condition:
    before = next((c for c in (dset.status.conditions if dset.status else None) or [] if c.type == kind), None)
    text = str(flag)
    return Condition(
        type=kind,
        status=text,
        observed_generation=dset.metadata.generation,
        last_transition_time=before.last_transition_time if before and before.status == text else now,
        reason=why.reason,
        message=why.message[:_MAX_MESSAGE],
    )


def _role(findings: Findings, group: str, name: str, desired: int) -> RoleStatus:
    tier = findings.tiers[group]
    mine = [r for r in findings.view.running if r.role == name and r.group == group]
    claims = findings.view.claims.get(name)
    claiming = tier.roles[name].claim is not None
    ready = sum(r.observed.ready for r in mine)
    return RoleStatus(
        name=name,
        tier=GROUPS[group],
        desired=desired,
        replicas=sum(r.observed.replicas for r in mine),
        ready=ready,
        updated=sum(r.observed.replicas for r in mine if r.revision == tier.revision),
        revision=tier.revision,
        claims=_claims(claims) if claims or claiming else None,
        message=_role_message(findings, group, name, desired, mine),
    )


def _claims(claims: Claims | None) -> ClaimsStatus:
    counted = claims or Claims()
    return ClaimsStatus(allocated=counted.allocated, pending=counted.pending)


def _role_message(findings: Findings, group: str, name: str, desired: int, running: Sequence[Running]) -> str | None:
    if not findings.acceptance.accepted and not running:
        return None
    if (diagnosis := findings.diagnoses.roles.get(name)) is not None:
        return diagnosis.message
    outcome = findings.outcomes.get(group)
    if outcome is not None and outcome.waits_for and not running:
        return f"waits until {' and '.join(outcome.waits_for)} {_be(outcome.waits_for)} ready"
    ready = sum(r.observed.ready for r in running)
    if ready < desired:
        return f"{desired - ready} of {desired} pods are not ready yet"
    if any(r.revision != findings.tiers[group].revision for r in running):
        return "pods of another revision are still there"
    return None


def _summary(findings: Findings, roles: Sequence[RoleStatus]) -> Summary:
    def of(tier: Tier) -> str | None:
        mine = [r for r in roles if r.tier == tier]
        return f"{sum(r.ready for r in mine)}/{sum(r.desired for r in mine)}" if mine else None

    return Summary(
        weights=of(Tier.WEIGHTS),
        kv_cache=of(Tier.KV_CACHE),
        compute=of(Tier.COMPUTE),
        roles=", ".join(f"{r.name} {r.ready}/{r.desired}" for r in roles),
        rollout=", ".join(f"{group}: {phase_of(outcome)}" for group, outcome in _rolling(findings).items()) or None,
    )


def _rolling(findings: Findings) -> dict[str, Outcome]:
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
    least = 1 - max((Fraction(allowed.get(r, 0), n) for r, n in desired.items() if n), default=Fraction(0))
    all_roles = ", ".join(f"{r.name} {r.ready}/{r.desired}" for r in roles)
    if short or not roles:
        why = _Why("RolesNotReady", f"ready/desired: {all_roles}" if roles else "nothing of the set is there")
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
    rolling = _rolling(findings)
    words = "; ".join(f"{group}: {o.plan.message}" for group, o in rolling.items())
    moving = [o for o in rolling.values() if o.plan.phase not in _STANDING and not _gave_up(o)]
    if moving:
        first = moving[0]
        fresh = first.state.record is not None and first.state.record.start is None
        phase = phase_of(first)
        started = "Starting" if fresh else "RollingOut"
        return True, started if phase == Phase.PROGRESSING else phase, words
    stuck: set[str] = set()
    for group, o in outcomes.items():
        if o.state.failure is not None or group in rolling or stuck.intersection(o.waits_for):
            stuck.add(group)
        elif o.waits_for:
            others = o.waits_for
            return True, "WaitingForTiers", f"{group} waits until {' and '.join(others)} {_be(others)} ready"
    if rolling:
        first = next(iter(rolling.values()))
        return False, _STANDING.get(first.plan.phase, "ProgressDeadlineExceeded"), words
    failed = [group for group, o in outcomes.items() if o.state.failure is not None]
    if failed:
        return False, "RolledBack", f"back on the last good revision of {', '.join(failed)}"
    unready = [f"{r.name} {r.ready}/{r.desired}" for r in roles if r.ready != r.desired or r.replicas != r.desired]
    if unready or not all(o.complete for o in outcomes.values()):
        return True, "Scaling", f"waiting for pods; ready/desired: {', '.join(unready)}"
    return False, "Complete", "everything is as desired"


def _gave_up(outcome: Outcome) -> bool:
    """Whether the rollout has failed and there is nothing to go back to."""
    return outcome.state.failure is not None and outcome.state.failure.revision == outcome.target


def _be(names: Sequence[str]) -> str:
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
