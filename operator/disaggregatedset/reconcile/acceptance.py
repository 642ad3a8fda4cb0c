"""Whether a spec can be carried out, as far as only the cluster can tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from disaggregatedset.api import KV_COORDINATOR, DisaggregatedSet, DisaggregatedSetSpec
from disaggregatedset.cluster import objects
from disaggregatedset.cluster.children import Children, NameConflictError
from disaggregatedset.cluster.client import ApiError
from disaggregatedset.cluster.compare import absent
from disaggregatedset.reconcile.findings import ACCEPTED, Acceptance
from disaggregatedset.render import COMPUTE, Manifest, TierRevision, claim_template, deployment

_FIELDS = {"weights": "spec.weights", "kv-cache": "spec.kvCache", KV_COORDINATOR: "spec.kvCache.coordinator"}


def field_of(group: str, role: str) -> str:
    """Return the field of a set that describes a role."""
    return f"spec.compute.roles[{role}]" if group == COMPUTE else _FIELDS[group]


def check_devices(spec: DisaggregatedSetSpec, *, served: bool, classes: Iterable[str]) -> Acceptance:
    """Check that the cluster has DRA and the device classes that a spec names.

    Parameters
    ----------
    spec
        The spec.
    served
        Whether the API server serves ``resource.k8s.io/v1``.
    classes
        Names of the device classes that exist.
    """
    named = list(_device_classes(spec))
    if not named:
        return ACCEPTED
    if not served:
        return Acceptance(
            "DRANotAvailable",
            f"{named[0][0]}: this cluster does not serve resource.k8s.io/v1: accelerators need Kubernetes 1.34 or "
            "later with DRA; without it, remove accelerators and use a device plugin's resources.limits",
        )
    existing = sorted(classes)
    for field, name in named:
        if name not in existing:
            known = f"existing classes: {', '.join(existing)}" if existing else "there is none: install a DRA driver"
            return Acceptance("DeviceClassNotFound", f"{field}: DeviceClass {name!r} does not exist; {known}")
    return ACCEPTED


def _device_classes(spec: DisaggregatedSetSpec) -> Iterable[tuple[str, str]]:
    scaled = [("spec.weights", spec.weights), ("spec.kvCache", spec.kv_cache)]
    for where, role in [*scaled, *((field_of(COMPUTE, r.name), r) for r in spec.compute.roles)]:
        for request in role.accelerators.requests if role and role.accelerators else ():
            field = f"{where}.accelerators.requests[{request.name}]"
            if request.device_class_name is not None:
                yield f"{field}.deviceClassName", request.device_class_name
            for sub in request.first_available or ():
                yield f"{field}.firstAvailable[{sub.name}].deviceClassName", sub.device_class_name


async def check_revision(
    children: Children, dset: DisaggregatedSet, tier: TierRevision, desired: Mapping[str, int]
) -> Acceptance:
    """Have the API server check a revision that it has not seen, before anything is created or replaced.

    Raises
    ------
    ApiError
        If the API server could not tell.
    """
    for role, replicas in desired.items():
        field = field_of(tier.group, role)
        manifests = [
            (objects.CLAIM_TEMPLATE, claim_template(dset, tier, role), f"{field}.accelerators"),
            (objects.DEPLOYMENT, deployment(dset, tier, role, replicas), field),
        ]
        for kind, manifest, where in manifests:
            if manifest is not None:
                acceptance = await _dry_run(children, kind, manifest, where)
                if not acceptance.accepted:
                    return acceptance
    return ACCEPTED


async def check_autoscaler(children: Children, role: str, manifest: Manifest) -> Acceptance:
    """Have the API server check a HorizontalPodAutoscaler before it is written.

    Raises
    ------
    ApiError
        If the API server could not tell.
    """
    field = _FIELDS.get(role, f"spec.compute.roles[{role}]")
    return await _dry_run(children, objects.AUTOSCALER, manifest, f"{field}.scaling")


async def _dry_run(children: Children, kind: objects.Kind, manifest: Manifest, where: str) -> Acceptance:
    try:
        answer = await children.dry_run(kind, manifest)
    except NameConflictError as error:
        return Acceptance("NameConflict", str(error))
    except ApiError as error:
        if not error.refused:
            raise
        return Acceptance("Rejected", f"{where}: {error.message}")
    if lost := _lost(manifest, answer):
        return Acceptance(
            "FieldNotSupported",
            f"{where}: this API server drops {lost}: remove the field, enable its feature gate, or upgrade the cluster",
        )
    return ACCEPTED


def _lost(manifest: Mapping[str, Any], answer: Mapping[str, Any]) -> str | None:
    return next(absent(manifest["spec"], answer["spec"]), None)
