"""The status of a set: what is there, and why it is not all that is wanted. Pure; the one place that makes status."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from disaggregatedset.reconcile.diagnose import Cause, Diagnosis
from disaggregatedset.reconcile.view import Claims, View
from disaggregatedset.render import COMPUTE, GROUPS, TierRevision
from disaggregatedset.rollout import GroupPlan, Observed, Running, coherent_capacity

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
    optional
        Roles that the set can serve without.
    view
        The children.
    plans
        The plans of the tier groups.
    diagnoses
        Why roles are not as desired, by role.
    """

    acceptance: Acceptance
    tiers: Mapping[str, TierRevision]
    desired: Mapping[str, Mapping[str, int]]
    optional: frozenset[str]
    view: View
    plans: Mapping[str, GroupPlan]
    diagnoses: Mapping[str, Diagnosis]


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
    made = DisaggregatedSetStatus(
        observed_generation=dset.metadata.generation,
        model_revision=model,
        summary=_summary(roles),
        roles=roles,
        conditions=[_stamp(dset, kind, flag, why, now) for kind, flag, why in conditions],
    )
    return made.model_dump(by_alias=True, exclude_none=True, mode="json")


def turning_points(status: Mapping[str, Any]) -> Hashable:
    """Return what of a status is worth being written at once; everything else may be a moment behind."""
    telling = {ConditionType.ACCEPTED, ConditionType.DEGRADED}
    return tuple(
        (c["type"], c["status"], c["reason"] if c["type"] in telling else "") for c in status.get("conditions") or ()
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
    if (diagnosis := findings.diagnoses.get(name)) is not None:
        return diagnosis.message
    plan = findings.plans.get(group)
    if plan is not None and plan.waits_for and not running:
        return f"waits until {' and '.join(plan.waits_for)} {'is' if len(plan.waits_for) == 1 else 'are'} ready"
    ready = sum(r.observed.ready for r in running)
    if ready < desired:
        return f"{desired - ready} of {desired} pods are not ready yet"
    if any(r.revision != findings.tiers[group].revision for r in running):
        return "pods of an older revision are still there"
    return None


def _summary(roles: Sequence[RoleStatus]) -> Summary:
    def of(tier: Tier) -> str | None:
        mine = [r for r in roles if r.tier == tier]
        return f"{sum(r.ready for r in mine)}/{sum(r.desired for r in mine)}" if mine else None

    return Summary(
        weights=of(Tier.WEIGHTS),
        kv_cache=of(Tier.KV_CACHE),
        compute=of(Tier.COMPUTE),
        roles=", ".join(f"{r.name} {r.ready}/{r.desired}" for r in roles),
    )


def _accepted(findings: Findings) -> _Verdict:
    acceptance = findings.acceptance
    return ConditionType.ACCEPTED, acceptance.accepted, _Why(acceptance.reason, acceptance.message)


def _available(findings: Findings, roles: Sequence[RoleStatus]) -> _Verdict:
    counted = [r for r in roles if r.name not in findings.optional]
    short = [r for r in counted if r.ready < r.desired]
    serving = _coherent_capacity(findings)
    all_roles = ", ".join(f"{r.name} {r.ready}/{r.desired}" for r in roles)
    if short or not roles:
        why = _Why("RolesNotReady", f"ready/desired: {all_roles}" if roles else "nothing of the set is there")
    elif serving < 1:
        why = _Why("NotCoherent", f"no revision has all compute roles ready; ready/desired over all: {all_roles}")
    else:
        return ConditionType.AVAILABLE, True, _Why("AllRolesReady", f"ready/desired: {all_roles}")
    return ConditionType.AVAILABLE, False, why


def _coherent_capacity(findings: Findings) -> float:
    by_revision: dict[str, dict[str, Observed]] = {}
    for r in findings.view.running:
        if r.group == COMPUTE:
            # A status that is a moment behind is good enough to report; the planner is stricter.
            by_revision.setdefault(r.revision, {})[r.role] = replace(r.observed, current=True)
    desired = findings.desired.get(COMPUTE, {})
    return float(sum(coherent_capacity(desired, observed) for observed in by_revision.values()))


def _progressing(findings: Findings, roles: Sequence[RoleStatus]) -> _Verdict:
    def verdict(flag: bool, reason: str, message: str) -> _Verdict:
        return ConditionType.PROGRESSING, flag, _Why(reason, message)

    if not findings.acceptance.accepted:
        return verdict(False, "NotAccepted", "the spec is not accepted: nothing is changed")
    waiting = {name: plan.waits_for for name, plan in findings.plans.items() if plan.waits_for}
    if waiting:
        group, others = next(iter(waiting.items()))
        return verdict(True, "WaitingForTiers", f"{group} waits until {' and '.join(others)} {_be(others)} ready")
    changing = [name for name, plan in findings.plans.items() if not plan.complete]
    if changing:
        return verdict(True, "RollingOut", f"rolling out {', '.join(changing)}")
    unready = [f"{r.name} {r.ready}/{r.desired}" for r in roles if r.ready != r.desired or r.replicas != r.desired]
    if unready:
        return verdict(True, "Scaling", f"waiting for pods; ready/desired: {', '.join(unready)}")
    return verdict(False, "Complete", "everything is as desired")


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _degraded(findings: Findings) -> _Verdict:
    failing = {role: d for role, d in findings.diagnoses.items() if d.cause.failing}
    if not failing:
        return ConditionType.DEGRADED, False, _Why("AsExpected", "no role has failing pods")
    order = list(Cause)
    worst = min((d.cause for d in failing.values()), key=order.index)
    message = "; ".join(f"{role}: {d.message}" for role, d in failing.items())
    return ConditionType.DEGRADED, True, _Why(worst.value, message)


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
    words = [f"{r.name}: {findings.diagnoses[r.name].message}" for r in pending if r.name in findings.diagnoses]
    message = f"{allocated} of {wanted} claims have their devices"
    return kind, False, _Why("ClaimsPending" if pending else "ClaimsNotCreated", "; ".join([message, *words]))
