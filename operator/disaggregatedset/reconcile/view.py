"""What is known of a set and its children at one moment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from disaggregatedset.api import GROUP, KIND, ROLE_SCALER_KIND, VERSION
from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.objects import Key, Kind, Object, key_of
from disaggregatedset.reconcile.diagnose import Cause, Diagnoses
from disaggregatedset.render import (
    COMPUTE,
    COMPUTE_REVISION_LABEL,
    GROUPS,
    MODEL_REVISION_LABEL,
    REVISION_LABEL,
    ROLE_LABEL,
    SET_LABEL,
    RenderedRole,
    TierRevision,
)
from disaggregatedset.rollout import Observed, Running

SET: Final = Kind(GROUP, VERSION, "disaggregatedsets", KIND)

ROLE_SCALER: Final = Kind(GROUP, VERSION, "rolescalers", ROLE_SCALER_KIND)

#: The kinds that a set has children of and that the operator writes.
CHILD_KINDS: Final[tuple[Kind, ...]] = (
    objects.CONTROLLER_REVISION,
    objects.CLAIM_TEMPLATE,
    objects.SERVICE,
    objects.DISRUPTION_BUDGET,
    objects.DEPLOYMENT,
    ROLE_SCALER,
    objects.AUTOSCALER,
    objects.INFERENCE_POOL,
)


_NONE: Final = Diagnoses()


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


def view(cache: Cache, key: Key, uid: str, diagnoses: Diagnoses = _NONE) -> View:
    """Read what the cache knows of the children of a set.

    Parameters
    ----------
    cache
        The cache.
    key, uid
        The set.
    diagnoses
        Why pods are not ready, as far as it was looked at.
    """
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
    claims = _claims(cache.of_set(objects.CLAIM, key))
    running = [
        replace(r, identity=history[r.group, r.revision][0].identity)
        for r in map(_running, children[objects.DEPLOYMENT])
    ]
    return View(children, [_without_devices(r, diagnoses, claims) for r in running], history, claims)


def running_of(cache: Cache, key: Key, uid: str) -> list[Running]:
    """Read the Deployments of a set as the planner sees them, but for identities that a ControllerRevision knows."""
    return [_running(d) for d in cache.of_set(objects.DEPLOYMENT, key) if objects.controller_uid(d) == uid]


def _unrecorded(
    children: Mapping[Kind, list[Object]], history: Mapping[tuple[str, str], object]
) -> Iterable[TierRevision]:
    claims = {key_of(child): child["spec"]["spec"] for child in children[objects.CLAIM_TEMPLATE]}
    found: dict[tuple[str, str], TierRevision] = {}
    for deployment in children[objects.DEPLOYMENT]:
        running = _running(deployment)
        key = running.group, running.revision
        if key not in history:
            labels = made_as(deployment)
            model = labels.get(MODEL_REVISION_LABEL, "")
            compute = labels.get(COMPUTE_REVISION_LABEL) if running.group != COMPUTE else None
            needs = _needs(children, {running.revision, model}) if running.group == COMPUTE else {}
            tier = found.setdefault(key, TierRevision(*key, model, compute, needs, {}))
            template = deployment["spec"]["template"]
            rendered = RenderedRole(template, claims.get(key_of(deployment)))
            found[key] = replace(tier, roles={**tier.roles, running.role: rendered})
    return found.values()


def _needs(children: Mapping[Kind, list[Object]], identities: Collection[str]) -> dict[str, str]:
    """Guess what a compute revision uses: all that there is of its own or of its model."""
    needs: dict[str, str] = {}
    for deployment in children[objects.DEPLOYMENT]:
        other = _running(deployment)
        if other.group != COMPUTE and other.identity in identities:
            needs[other.group] = other.identity
    return needs


def _without_devices(running: Running, diagnoses: Diagnoses, claims: Mapping[str, Claims]) -> Running:
    """Add how many pods wait for devices: as was seen when it was last looked at, and may still be true."""
    diagnosis = diagnoses.revisions.get((running.role, running.revision))
    waiting = diagnosis.counts.get(Cause.DEVICES_EXHAUSTED, 0) if diagnosis else 0
    seen = running.observed
    waiting = min(waiting, (seen.asked or 0) - min(seen.ready, seen.asked or 0))
    if running.role in claims:
        waiting = min(waiting, claims[running.role].pending)
    return replace(running, observed=replace(seen, without_devices=waiting)) if waiting else running


def made_as(deployment: Object) -> Mapping[str, str]:
    """Return the labels that a Deployment was made with, whatever became of its own.

    What it selects can't be edited, what its pods carry is seldom, and its own labels may be.
    """
    spec = deployment["spec"]
    own: Mapping[str, str] = deployment["metadata"].get("labels") or {}
    return {**own, **spec["template"]["metadata"]["labels"], **spec["selector"]["matchLabels"]}


def role_of(scaler: Object) -> str:
    """Return the role of a RoleScaler by its name, which nobody can edit."""
    metadata = scaler["metadata"]
    name: str = metadata["name"]
    return name.removeprefix(f"{metadata['labels'][SET_LABEL]}-")


def _running(deployment: Object) -> Running:
    labels = made_as(deployment)
    status = deployment.get("status") or {}
    role = labels[ROLE_LABEL]
    group = role if role in GROUPS else COMPUTE
    return Running(
        group=group,
        role=role,
        revision=labels[REVISION_LABEL],
        identity="" if group == COMPUTE else labels.get(COMPUTE_REVISION_LABEL, labels.get(MODEL_REVISION_LABEL, "")),
        observed=Observed(
            asked=deployment["spec"]["replicas"],
            replicas=status.get("replicas", 0) + status.get("terminatingReplicas", 0),
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
