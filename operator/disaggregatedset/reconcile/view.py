"""What is known of a set and its children at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from disaggregatedset.api import GROUP, KIND, VERSION
from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.objects import Key, Kind, Object, key_of
from disaggregatedset.render import (
    COMPUTE,
    MODEL_REVISION_LABEL,
    REVISION_LABEL,
    ROLE_LABEL,
    TIER_LABEL,
    RenderedRole,
    TierRevision,
)
from disaggregatedset.rollout import Observed, Running

SET: Final = Kind(GROUP, VERSION, "disaggregatedsets", KIND)

#: The kinds that a set has children of and that the operator writes.
CHILD_KINDS: Final[tuple[Kind, ...]] = (
    objects.CONTROLLER_REVISION,
    objects.CLAIM_TEMPLATE,
    objects.SERVICE,
    objects.DISRUPTION_BUDGET,
    objects.DEPLOYMENT,
)


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims of the pods of a role."""

    allocated: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """The children of a set, read from the cache.

    Attributes
    ----------
    children
        Those that the set controls, by kind.
    running
        Its Deployments, as the planner sees them.
    history
        The revisions that ControllerRevisions keep, by tier group and revision, each with its number. One that has
        pods but no ControllerRevision any more is read off its Deployments, and has the number 0.
    claims
        Claims of its pods, by role.
    """

    children: Mapping[Kind, list[Object]]
    running: list[Running]
    history: Mapping[tuple[str, str], tuple[TierRevision, int]]
    claims: Mapping[str, Claims] = field(default_factory=dict)


def view(cache: Cache, key: Key, uid: str) -> View:
    """Read what the cache knows of the children of a set."""
    children = {
        kind: [child for child in cache.of_set(kind, key) if objects.controller_uid(child) == uid]
        for kind in CHILD_KINDS
    }
    history = {}
    for revision in children[objects.CONTROLLER_REVISION]:
        stored = TierRevision.from_data(revision["data"])
        history[stored.group, stored.revision] = (stored, int(revision["revision"]))
    for tier in _unrecorded(children, history):
        history[tier.group, tier.revision] = (tier, 0)
    return View(
        children=children,
        running=[_running(deployment) for deployment in children[objects.DEPLOYMENT]],
        history=history,
        claims=_claims(cache.of_set(objects.CLAIM, key)),
    )


def _unrecorded(
    children: Mapping[Kind, list[Object]], history: Mapping[tuple[str, str], object]
) -> Iterable[TierRevision]:
    claims = {key_of(child): child["spec"]["spec"] for child in children[objects.CLAIM_TEMPLATE]}
    found: dict[tuple[str, str], TierRevision] = {}
    for deployment in children[objects.DEPLOYMENT]:
        running = _running(deployment)
        key = running.group, running.revision
        if key not in history:
            tier = found.setdefault(key, TierRevision(*key, running.model_revision, {}))
            template = deployment["spec"]["template"]
            rendered = RenderedRole(template, claims.get(key_of(deployment)))
            found[key] = replace(tier, roles={**tier.roles, running.role: rendered})
    return found.values()


def made_as(deployment: Object) -> Mapping[str, str]:
    """Return the labels that a Deployment was made with, whatever became of its own.

    What it selects can't be edited, and what its pods carry is seldom.
    """
    spec = deployment["spec"]
    pods: Mapping[str, str] = spec["template"]["metadata"]["labels"]
    return {**pods, **spec["selector"]["matchLabels"]}


def _running(deployment: Object) -> Running:
    labels = made_as(deployment)
    status = deployment.get("status") or {}
    role = labels[ROLE_LABEL]
    return Running(
        group=COMPUTE if labels[TIER_LABEL] == COMPUTE else role,
        role=role,
        revision=labels[REVISION_LABEL],
        model_revision=labels[MODEL_REVISION_LABEL],
        observed=Observed(
            asked=deployment["spec"]["replicas"],
            replicas=status.get("replicas", 0),
            ready=status.get("readyReplicas", 0),
            current=status.get("observedGeneration", 0) >= deployment["metadata"]["generation"],
        ),
    )


def _claims(claims: Iterable[Object]) -> dict[str, Claims]:
    counted: dict[str, Claims] = {}
    for claim in claims:
        role = claim["metadata"]["labels"].get(ROLE_LABEL, "")
        before = counted.get(role, Claims())
        allocated = bool((claim.get("status") or {}).get("allocation"))
        counted[role] = Claims(before.allocated + allocated, before.pending + (not allocated))
    return counted
