"""The children that a set should have, in the stages in which they are written. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from disaggregatedset.api import KV_CACHE, KV_COORDINATOR, WEIGHTS, DisaggregatedSet, Disruption
from disaggregatedset.cluster import objects
from disaggregatedset.cluster.objects import Key, Kind, Object, key_of
from disaggregatedset.reconcile.view import View, made_as
from disaggregatedset.render import (
    COMPUTE,
    REVISION_LABEL,
    ROLE_LABEL,
    Manifest,
    TierRevision,
    claim_template,
    controller_revision,
    deployment,
    disruption_budget,
    services,
)
from disaggregatedset.rollout import Remove, Scale, Wanted

#: ControllerRevisions kept of a tier group, beside those that have pods.
HISTORY_LIMIT: Final = 5

#: Pods by tier group and role.
Desired = Mapping[str, Mapping[str, int]]
Children = list[tuple[Kind, Manifest]]


def desired_pods(dset: DisaggregatedSet) -> Desired:
    """Return how many pods a set wants, by tier group and role."""
    spec = dset.spec
    pods: dict[str, dict[str, int]] = {}
    if spec.weights is not None:
        pods[WEIGHTS] = {WEIGHTS: spec.weights.replicas}
    if spec.kv_cache is not None:
        if spec.kv_cache.coordinator is not None:
            pods[KV_COORDINATOR] = {KV_COORDINATOR: 1}
        pods[KV_CACHE] = {KV_CACHE: spec.kv_cache.replicas}
    pods[COMPUTE] = {role.name: role.replicas for role in spec.compute.roles}
    return pods


def optional_roles(dset: DisaggregatedSet) -> frozenset[str]:
    """Return the roles that a set can serve without."""
    kv = dset.spec.kv_cache
    return frozenset() if kv is None or kv.required else frozenset({KV_CACHE, KV_COORDINATOR})


def wanted_groups(dset: DisaggregatedSet, tiers: Mapping[str, TierRevision]) -> dict[str, Wanted]:
    """Say what each tier group should be, and what it waits for."""
    pods = desired_pods(dset)
    optional = optional_roles(dset)
    waits_for = {
        KV_CACHE: (KV_COORDINATOR,),
        COMPUTE: tuple(group for group in (WEIGHTS, KV_CACHE) if group not in optional),
    }
    return {
        group: Wanted(
            revision=tier.revision,
            model_revision=tier.model_revision,
            desired=pods[group],
            waits_for=tuple(other for other in waits_for.get(group, ()) if other in tiers),
            exclusive=group == KV_COORDINATOR,
        )
        for group, tier in tiers.items()
    }


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
    unneeded
        What goes when all that is done.
    """

    records: Children
    supporting: Children
    running: Children
    planned: list[tuple[Scale | Remove, Manifest]]
    unneeded: list[tuple[Kind, Object]]


def stages(
    dset: DisaggregatedSet, tiers: Mapping[str, TierRevision], seen: View, writes: Iterable[Scale | Remove]
) -> Stages:
    """Work out the children of a set.

    Parameters
    ----------
    dset
        The set.
    tiers
        The wanted revisions, as they are applied: rendered when they were first seen.
    seen
        The children that there are.
    writes
        The planner's writes.
    """
    writes = list(writes)
    revisions = {(tier.group, tier.revision): tier for tier in tiers.values()}
    revisions |= {
        (r.group, r.revision): seen.history[r.group, r.revision][0]
        for r in seen.running
        if (r.group, r.revision) in seen.history and (r.group, r.revision) not in revisions
    }
    of_role = {(role, tier.revision): tier for tier in revisions.values() for role in tier.roles}
    planned_keys = {(write.role, write.revision) for write in writes}
    records: Children = [
        (objects.CONTROLLER_REVISION, controller_revision(dset, tier, _number(tier, seen))) for tier in tiers.values()
    ]
    supporting = _supporting(dset, tiers, revisions.values())
    running: Children = [
        (objects.DEPLOYMENT, deployment(dset, of_role[r.role, r.revision], r.role, r.observed.asked))
        for r in seen.running
        if (r.role, r.revision) in of_role and (r.role, r.revision) not in planned_keys
    ]
    deployments = {_role_revision(child): child for child in seen.children[objects.DEPLOYMENT]}
    planned = [
        (
            write,
            deployment(dset, of_role[write.role, write.revision], write.role, write.replicas)
            if isinstance(write, Scale)
            else deployments[write.role, write.revision],
        )
        for write in writes
    ]
    return Stages(records, supporting, running, planned, _unneeded(seen, [*records, *supporting], revisions.keys()))


def _role_revision(child: Object) -> tuple[str, str]:
    labels = made_as(child)
    return labels[ROLE_LABEL], labels[REVISION_LABEL]


def _number(tier: TierRevision, seen: View) -> int:
    """Return the number of a revision, such that the wanted one has the highest number of its tier group."""
    numbers = {revision: number for (group, revision), (_, number) in seen.history.items() if group == tier.group}
    highest = max(numbers.values(), default=0)
    return highest if highest and numbers.get(tier.revision) == highest else highest + 1


def _supporting(
    dset: DisaggregatedSet, wanted: Mapping[str, TierRevision], revisions: Iterable[TierRevision]
) -> Children:
    children: dict[tuple[Kind, Key], Manifest] = {}
    for tier in revisions:
        for role in tier.roles:
            if (claim := claim_template(dset, tier, role)) is not None:
                children[objects.CLAIM_TEMPLATE, key_of(claim)] = claim
            for service in services(dset, tier, role):
                # A Service of several revisions follows the wanted one, which comes first.
                children.setdefault((objects.SERVICE, key_of(service)), service)
    for group, roles in desired_pods(dset).items():
        for role, replicas in roles.items():
            if replicas:
                budget = disruption_budget(dset, wanted[group], role, _disruption(dset, role))
                children[objects.DISRUPTION_BUDGET, key_of(budget)] = budget
    return [(kind, manifest) for (kind, _), manifest in children.items()]


def _disruption(dset: DisaggregatedSet, role: str) -> Disruption:
    tiers = {WEIGHTS: dset.spec.weights, KV_CACHE: dset.spec.kv_cache}
    scaled = tiers.get(role) or next((r for r in dset.spec.compute.roles if r.name == role), None)
    return scaled.disruption if scaled is not None else Disruption()


def _unneeded(seen: View, needed: Children, live: Collection[tuple[str, str]]) -> list[tuple[Kind, Object]]:
    names = {(kind, key_of(manifest)) for kind, manifest in needed}
    gone = [
        (kind, child)
        for kind in (objects.CLAIM_TEMPLATE, objects.SERVICE, objects.DISRUPTION_BUDGET)
        for child in seen.children[kind]
        if (kind, key_of(child)) not in names
    ]
    for group in {group for group, _ in seen.history}:
        idle = sorted(
            (number, tier.revision)
            for (g, _), (tier, number) in seen.history.items()
            if g == group and (g, tier.revision) not in live
        )
        dropped = {revision for _, revision in idle[:-HISTORY_LIMIT]}
        gone += [
            (objects.CONTROLLER_REVISION, child)
            for child in seen.children[objects.CONTROLLER_REVISION]
            if child["data"]["group"] == group and child["data"]["revision"] in dropped
        ]
    return gone
