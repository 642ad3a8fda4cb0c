"""The status of a set: what is there, and why it is not all that is wanted. Pure; the one place that makes status."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
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
from disaggregatedset.reconcile.conditions import be, conditions, rolling
from disaggregatedset.reconcile.findings import Findings
from disaggregatedset.reconcile.memory import phase_of, remember
from disaggregatedset.reconcile.scaling import Scale
from disaggregatedset.reconcile.view import Claims
from disaggregatedset.render import GROUPS
from disaggregatedset.rollout import Running

_MAX_MESSAGE: Final = 4096


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
        _role(findings, group, name, scale)
        for group, of_group in findings.scales.items()
        for name, scale in of_group.items()
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
        conditions=[
            *conditions(findings, roles, before.conditions or (), generation=dset.metadata.generation, now=now),
            *_not_looked_at(dset, findings, before.conditions or ()),
        ],
    )
    return made.model_dump(by_alias=True, exclude_none=True, mode="json")


def _not_looked_at(dset: DisaggregatedSet, findings: Findings, before: Sequence[Condition]) -> list[Condition]:
    """Keep what was said of a route that is still asked for, but was not looked at this time."""
    routing = dset.spec.routing
    if findings.routed is not None or routing is None or routing.inference_pool is None:
        return []
    return [condition for condition in before if condition.type == ConditionType.ROUTED]


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


def _role(findings: Findings, group: str, name: str, scale: Scale) -> RoleStatus:
    tier = findings.tiers[group]
    mine = [r for r in findings.view.running if r.role == name and r.group == group]
    claims = findings.view.claims.get(name)
    claiming = tier.roles[name].claim is not None
    ready = sum(r.observed.ready for r in mine)
    return RoleStatus(
        name=name,
        tier=GROUPS[group],
        desired=scale.desired,
        replicas=sum(r.observed.replicas for r in mine),
        ready=ready,
        updated=sum(r.observed.replicas for r in mine if r.revision == tier.revision),
        revision=tier.revision,
        claims=_claims(claims) if claims or claiming else None,
        message=(_role_message(findings, group, name, scale, mine) or "")[:_MAX_MESSAGE] or None,
        scale_down=scale.step,
    )


def _claims(claims: Claims | None) -> ClaimsStatus:
    counted = claims or Claims()
    return ClaimsStatus(allocated=counted.allocated, pending=counted.pending)


def _role_message(findings: Findings, group: str, name: str, scale: Scale, running: Sequence[Running]) -> str | None:
    if not findings.acceptance.accepted and not running:
        return None
    diagnosis = findings.diagnoses.roles.get(name)
    if diagnosis is not None or scale.waits:
        return "; ".join(filter(None, (diagnosis.message if diagnosis else None, scale.waits)))
    outcome = findings.outcomes.get(group)
    if outcome is not None and outcome.waits_for and not running:
        return f"waits until {' and '.join(outcome.waits_for)} {be(outcome.waits_for)} ready"
    ready, desired = sum(r.observed.ready for r in running), scale.desired
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
        rollout=", ".join(f"{group}: {phase_of(outcome)}" for group, outcome in rolling(findings).items()) or None,
    )
