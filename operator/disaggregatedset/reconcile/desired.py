"""The children that a set should have, in the stages in which they are written. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from disaggregatedset.api import KV_CACHE, KV_COORDINATOR, WEIGHTS, DisaggregatedSet, Disruption, Scaled, ScalingMode
from disaggregatedset.cluster import objects
from disaggregatedset.cluster.objects import Key, Kind, Object, key_of
from disaggregatedset.reconcile.scaling import Scales, asked_for, scaled_roles
from disaggregatedset.reconcile.view import ROLE_SCALER, View, made_as, role_of
from disaggregatedset.render import (
    COMPUTE,
    GROUPS,
    REVISION_LABEL,
    ROLE_LABEL,
    Manifest,
    TierRevision,
    claim_template,
    controller_revision,
    deployment,
    disruption_budget,
    horizontal_pod_autoscaler,
    inference_pool,
    role_scaler,
    services,
)
from disaggregatedset.rollout import Outcome, Revision, Role, Tier

Manifests = list[tuple[Kind, Manifest]]

#: The kinds whose objects go when they are not needed; Deployments go by plan, ControllerRevisions by age.
_REPLACED: Final = (
    objects.CLAIM_TEMPLATE,
    objects.SERVICE,
    objects.DISRUPTION_BUDGET,
    ROLE_SCALER,
    objects.AUTOSCALER,
    objects.INFERENCE_POOL,
)


def optional_roles(dset: DisaggregatedSet) -> frozenset[str]:
    """Return the roles that a set can serve without."""
    kv = dset.spec.kv_cache
    return frozenset() if kv is None or kv.required else frozenset({KV_CACHE, KV_COORDINATOR})


def zero_roles(dset: DisaggregatedSet) -> frozenset[str]:
    """Return the compute roles that may have no pods while others have some."""
    return frozenset(role.name for role in dset.spec.compute.roles if role.allow_zero)


def tier_inputs(dset: DisaggregatedSet, tiers: Mapping[str, TierRevision], scales: Scales) -> dict[str, Tier]:
    """Say what the planner has to know of each tier group that the spec wants."""
    optional = optional_roles(dset)
    waits_for = {
        KV_CACHE: (KV_COORDINATOR,),
        COMPUTE: tuple(group for group in (WEIGHTS, KV_CACHE) if group not in optional),
    }
    return {
        group: Tier(
            wanted=revision_of(tier),
            roles={name: _role(dset, name, scale.replicas) for name, scale in scales[group].items()},
            waits_for=tuple(other for other in waits_for.get(group, ()) if other in tiers),
            recreate=group == KV_COORDINATOR,
        )
        for group, tier in tiers.items()
    }


def _role(dset: DisaggregatedSet, name: str, pods: int) -> Role:
    scaled = scaled_role(dset, name)
    if scaled is None:
        return Role(name, pods)
    return Role(name, pods, scaled.rollout.max_surge, scaled.rollout.max_unavailable)


def scaled_role(dset: DisaggregatedSet, name: str) -> Scaled | None:
    """Return what the spec says of a role; None for the coordinator, and for a role that is not in the spec."""
    return next((roles[name] for roles in scaled_roles(dset).values() if name in roles), None)


def revision_of(tier: TierRevision) -> Revision:
    """Return what the planner has to know of a revision."""
    return Revision(tier.revision, tier.identity, tier.needs, tuple(tier.roles))


def known_revisions(tiers: Mapping[str, TierRevision], seen: View) -> dict[tuple[str, str], Revision]:
    """Return all revisions that are known, the wanted ones included."""
    stored = {key: tier for key, (tier, _) in seen.history.items()}
    wanted = {(tier.group, tier.revision): tier for tier in tiers.values()}
    return {key: revision_of(tier) for key, tier in {**stored, **wanted}.items()}


@dataclass(frozen=True, slots=True)
class Stages:
    """The children of a set in the order in which they are written.

    Attributes
    ----------
    records
        ControllerRevisions: what a revision is, before anything of it exists.
    supporting
        What the Deployments need or are reached by.
    running
        Deployments that the plan leaves as they are.
    planned
        The planner's writes, in its order: what it guarantees holds after each of them.
    decided_on
        The Deployments that the plan was made from.
    scalers, autoscalers
        RoleScalers, and HorizontalPodAutoscalers that scale them.
    removed
        Deployments that go: empty ones, and those of an identity that nobody uses any more.
    unneeded
        What else goes when all that is done.
    """

    records: Manifests
    supporting: Manifests
    running: Manifests
    planned: Manifests
    decided_on: list[Object]
    scalers: Manifests
    autoscalers: Manifests
    removed: list[tuple[Kind, Object]]
    unneeded: list[tuple[Kind, Object]]

    def records_alone(self) -> Stages:
        """Return the first stage alone: it moves nothing."""
        return Stages(self.records, [], [], [], [], [], [], [], [])


def stages(
    dset: DisaggregatedSet,
    tiers: Mapping[str, TierRevision],
    scales: Scales,
    seen: View,
    outcomes: Mapping[str, Outcome],
    *,
    accepted: bool = True,
) -> Stages:
    """Work out the children of a set.

    Parameters
    ----------
    dset
        The set.
    tiers
        The wanted revisions, as they are applied: rendered when they were first seen.
    scales
        How many pods each role should have.
    seen
        The children that there are.
    outcomes
        The planner's, by tier group.
    accepted
        Whether the spec is; else HorizontalPodAutoscalers stay as they are.
    """
    wanted = {(tier.group, tier.revision): tier for tier in tiers.values()}
    known = {key: tier for key, (tier, _) in seen.history.items()} | wanted
    # Where several revisions share a child, it follows the one that its tier is going to, which comes first.
    targets = {group: known[group, outcome.target] for group, outcome in outcomes.items() if group in tiers}
    revisions = {(tier.group, tier.revision): tier for tier in targets.values()} | wanted
    revisions |= {(r.group, r.revision): known[r.group, r.revision] for r in seen.running}
    of_role = {(role, tier.revision): tier for tier in revisions.values() for role in tier.roles}
    writes = [write for outcome in outcomes.values() for write in outcome.writes]
    deletions = [gone for outcome in outcomes.values() for gone in (*outcome.plan.deletions, *outcome.removals)]
    planned = {(w.role, w.revision) for w in writes} | {(gone.role, gone.revision) for gone in deletions}
    records: Manifests = [
        (objects.CONTROLLER_REVISION, controller_revision(dset, tier, _number(tier, seen))) for tier in tiers.values()
    ]
    supporting = _supporting(dset, list(revisions.values()), scales, seen)
    scalers = _scalers(dset, scales, seen)
    hpas: Manifests = [(objects.AUTOSCALER, manifest) for manifest in autoscalers(dset).values()]
    # What is not accepted replaces no autoscaler, and one that is asked for starts when it may scale.
    scalable = asked_for(seen).keys() - not_handed_over(dset, seen) if accepted else set()
    stay = [*hpas, *((objects.AUTOSCALER, child) for child in seen.children[objects.AUTOSCALER] if not accepted)]
    if (pool := inference_pool(dset)) is not None:
        stay.append((objects.INFERENCE_POOL, pool))
    running: Manifests = [
        (objects.DEPLOYMENT, deployment(dset, of_role[r.role, r.revision], r.role, r.observed.asked or 0))
        for r in seen.running
        if (r.role, r.revision) not in planned
    ]
    there = {_role_revision(child): child for child in seen.children[objects.DEPLOYMENT]}
    kept = {*revisions, *((group, o.state.good) for group, o in outcomes.items() if o.state.good is not None)}
    return Stages(
        records=records,
        supporting=supporting,
        running=running,
        planned=[
            (objects.DEPLOYMENT, deployment(dset, of_role[w.role, w.revision], w.role, w.replicas)) for w in writes
        ],
        decided_on=seen.children[objects.DEPLOYMENT],
        scalers=scalers,
        autoscalers=[(kind, child) for kind, child in hpas if child["metadata"]["labels"][ROLE_LABEL] in scalable],
        removed=[(objects.DEPLOYMENT, there[gone.role, gone.revision]) for gone in deletions],
        unneeded=_unneeded(
            seen, [*records, *supporting, *scalers, *stay], kept, limit=dset.spec.rollout.revision_history_limit
        ),
    )


def not_handed_over(dset: DisaggregatedSet, seen: View) -> frozenset[str]:
    """Return the roles that others are to scale, but whose RoleScaler still has a number of ours."""
    fixed = {role_of(scaler) for scaler in seen.children[ROLE_SCALER] if "fixedReplicas" in scaler["spec"]}
    roles = {name: role for of_group in scaled_roles(dset).values() for name, role in of_group.items()}
    return frozenset(name for name in fixed if name in roles and roles[name].scaling.decided_elsewhere)


def _role_revision(child: Object) -> tuple[str, str]:
    labels = made_as(child)
    return labels[ROLE_LABEL], labels[REVISION_LABEL]


def _number(tier: TierRevision, seen: View) -> int:
    """Return the number of a revision, such that the wanted one has the highest number of its tier group."""
    numbers = {revision: number for (group, revision), (_, number) in seen.history.items() if group == tier.group}
    highest = max(numbers.values(), default=0)
    return highest if highest and numbers.get(tier.revision) == highest else highest + 1


def _scalers(dset: DisaggregatedSet, scales: Scales, seen: View) -> Manifests:
    there = asked_for(seen)
    return [
        (
            ROLE_SCALER,
            role_scaler(
                dset,
                GROUPS[group],
                name,
                role.scaling,
                # One that others scale is made with a number of ours, which is handed over to them then.
                None if role.scaling.decided_elsewhere and name in there else scales[group][name].desired,
            ),
        )
        for group, roles in scaled_roles(dset).items()
        for name, role in roles.items()
    ]


def autoscalers(dset: DisaggregatedSet) -> dict[str, Manifest]:
    """Return the HorizontalPodAutoscalers of a set, by role."""
    return {
        name: horizontal_pod_autoscaler(dset, GROUPS[group], name, role.scaling)
        for group, roles in scaled_roles(dset).items()
        for name, role in roles.items()
        if role.scaling.mode is ScalingMode.HPA
    }


def _supporting(dset: DisaggregatedSet, revisions: Sequence[TierRevision], scales: Scales, seen: View) -> Manifests:
    children: dict[tuple[Kind, Key], Manifest] = {}
    have_pods = {(r.group, r.revision) for r in seen.running if r.observed.asked or r.observed.replicas}
    beside = [tier for tier in revisions if (tier.group, tier.revision) in have_pods]
    for tier in revisions:
        for role in tier.roles:
            if (claim := claim_template(dset, tier, role)) is not None:
                children[objects.CLAIM_TEMPLATE, key_of(claim)] = claim
            for service in services(dset, tier, role, [other for other in beside if other.group == tier.group]):
                children.setdefault((objects.SERVICE, key_of(service)), service)
    protected = {name for roles in scales.values() for name, scale in roles.items() if scale.desired}
    protected |= {r.role for r in seen.running if r.observed.asked or r.observed.replicas}
    for tier in revisions:
        for role in (role for role in tier.roles if role in protected):
            scaled = scaled_role(dset, role)
            disruption = scaled.disruption if scaled is not None else Disruption()
            budget = disruption_budget(dset, tier, role, disruption)
            children.setdefault((objects.DISRUPTION_BUDGET, key_of(budget)), budget)
    return [(kind, manifest) for (kind, _), manifest in children.items()]


def _unneeded(
    seen: View, needed: Manifests, kept: Collection[tuple[str, str]], *, limit: int
) -> list[tuple[Kind, Object]]:
    names = {(kind, key_of(manifest)) for kind, manifest in needed}
    gone = [(kind, child) for kind in _REPLACED for child in seen.children[kind] if (kind, key_of(child)) not in names]
    for group in {group for group, _ in seen.history}:
        idle = sorted(
            (number, tier.revision)
            for (g, _), (tier, number) in seen.history.items()
            if g == group and (g, tier.revision) not in kept
        )
        dropped = {revision for _, revision in idle[: len(idle) - limit]} if len(idle) > limit else set()
        gone += [
            (objects.CONTROLLER_REVISION, child)
            for child in seen.children[objects.CONTROLLER_REVISION]
            if child["data"]["group"] == group and child["data"]["revision"] in dropped
        ]
    return gone
