"""Manifests of the children of a set. Each is whole: what a server-side apply of it leaves out, it gives up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from disaggregatedset.api import KV_CACHE, DisaggregatedSet, Disruption
from disaggregatedset.render import names
from disaggregatedset.render.manifest import Manifest, child
from disaggregatedset.render.pods import service_ports
from disaggregatedset.render.revisions import COMPUTE
from disaggregatedset.render.tiers import TierRevision, role_service


def _revision_labels(dset: DisaggregatedSet, revision: TierRevision, role: str | None) -> dict[str, str]:
    return names.labels(
        dset.metadata.name,
        tier=revision.tier,
        role=role,
        revision=revision.revision,
        model_revision=revision.model_revision,
        compute_revision=revision.compute_revision,
    )


def controller_revision(dset: DisaggregatedSet, revision: TierRevision, number: int) -> Manifest:
    """Render the ControllerRevision that keeps a revision.

    Parameters
    ----------
    dset
        The set.
    revision
        The revision that is kept.
    number
        Its place in the history of its tier group, from 1.
    """
    return child(
        "apps/v1",
        "ControllerRevision",
        names.child_name(dset.metadata.name, revision.group, revision.revision),
        dset,
        _revision_labels(dset, revision, None),
        revision=number,
        data=revision.data(),
    )


def deployment(dset: DisaggregatedSet, revision: TierRevision, role: str, replicas: int) -> Manifest:
    """Render the Deployment of a role in a revision."""
    matched = names.selector(dset.metadata.name, role, **{names.REVISION_LABEL: revision.revision})
    return child(
        "apps/v1",
        "Deployment",
        names.child_name(dset.metadata.name, role, revision.revision),
        dset,
        _revision_labels(dset, revision, role),
        spec={
            "replicas": replicas,
            "revisionHistoryLimit": 0,  # its template never changes
            "selector": {"matchLabels": matched},
            "template": revision.roles[role].template,
        },
    )


def claim_template(dset: DisaggregatedSet, revision: TierRevision, role: str) -> Manifest | None:
    """Render the ResourceClaimTemplate of a role in a revision; None where it claims nothing."""
    claim = revision.roles[role].claim
    if claim is None:
        return None
    labels = _revision_labels(dset, revision, role)
    return child(
        "resource.k8s.io/v1",
        "ResourceClaimTemplate",
        names.child_name(dset.metadata.name, role, revision.revision),
        dset,
        labels,
        spec={"metadata": {"labels": labels}, "spec": claim},
    )


def services(
    dset: DisaggregatedSet, revision: TierRevision, role: str, beside: Iterable[TierRevision] = ()
) -> list[Manifest]:
    """Render the Services of a role: weights and KV by identity; compute stable, and headless by revision.

    Parameters
    ----------
    dset
        The set.
    revision
        The revision that the tier is going to.
    role
        The role.
    beside
        Other revisions that have pods: the ports of a Service that they share are those of all of them.
    """
    matched = names.selector(dset.metadata.name, role)
    own_ports = service_ports([revision.roles[role].template])
    shared = [other for other in beside if other.identity == revision.identity and role in other.roles]
    ports = service_ports(tier.roles[role].template for tier in (revision, *shared))
    name = role_service(dset.metadata.name, role, revision)
    if revision.group == COMPUTE:
        labels = names.labels(dset.metadata.name, tier=revision.tier, role=role)
        own = matched | {names.REVISION_LABEL: revision.revision}
        per_revision = names.child_name(dset.metadata.name, role, revision.revision)
        return [
            _service(dset, name, labels, matched, ports, headless=not ports),
            _service(dset, per_revision, _revision_labels(dset, revision, role), own, own_ports, headless=True),
        ]
    of = {"model_revision": revision.model_revision, "compute_revision": revision.compute_revision}
    labels = names.labels(dset.metadata.name, tier=revision.tier, role=role, **of)
    if revision.compute_revision is not None:
        matched |= {names.COMPUTE_REVISION_LABEL: revision.compute_revision}
    else:
        matched |= {names.MODEL_REVISION_LABEL: revision.model_revision}
    return [_service(dset, name, labels, matched, ports, headless=not ports or revision.group == KV_CACHE)]


def _service(
    dset: DisaggregatedSet,
    name: str,
    labels: Mapping[str, str],
    matched: Mapping[str, str],
    ports: list[dict[str, Any]],
    *,
    headless: bool,
) -> Manifest:
    spec: dict[str, Any] = {"selector": matched}
    if ports:
        spec["ports"] = ports
    if headless:
        spec["clusterIP"] = "None"
    return child("v1", "Service", name, dset, labels, spec=spec)


def disruption_budget(dset: DisaggregatedSet, revision: TierRevision, role: str, disruption: Disruption) -> Manifest:
    """Render the PodDisruptionBudget over all revisions of a role."""
    return child(
        "policy/v1",
        "PodDisruptionBudget",
        names.child_name(dset.metadata.name, role),
        dset,
        names.labels(dset.metadata.name, tier=revision.tier, role=role),
        spec={
            "maxUnavailable": disruption.max_unavailable,
            "selector": {"matchLabels": names.selector(dset.metadata.name, role)},
            # A pod that isn't ready serves nobody: it shall not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
