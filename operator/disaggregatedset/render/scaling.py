"""Manifests of what scales the roles of a set and routes to them: one of each, whatever revisions there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disaggregatedset.api import API_VERSION, ROLE_SCALER_KIND, DisaggregatedSet, Scaling, Tier
from disaggregatedset.render import names
from disaggregatedset.render.manifest import Manifest, child


def role_scaler(dset: DisaggregatedSet, tier: Tier, role: str, scaling: Scaling, replicas: int | None) -> Manifest:
    """Render the RoleScaler of a role.

    Parameters
    ----------
    dset
        The set.
    tier, role
        The role.
    scaling
        Who decides how many pods it has.
    replicas
        How many the set says; None: whoever scales the RoleScaler owns the number.
    """
    wanted = {
        "role": role,
        "mode": scaling.mode.value,
        "replicas": replicas,
        "fixedReplicas": replicas,
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
    }
    return child(
        API_VERSION,
        ROLE_SCALER_KIND,
        names.child_name(dset.metadata.name, role),
        dset,
        names.labels(dset.metadata.name, tier=tier, role=role),
        spec=_given(wanted),
    )


def horizontal_pod_autoscaler(dset: DisaggregatedSet, tier: Tier, role: str, scaling: Scaling) -> Manifest:
    """Render the HorizontalPodAutoscaler of a role with mode HPA."""
    name = names.child_name(dset.metadata.name, role)
    wanted = {
        "scaleTargetRef": {"apiVersion": API_VERSION, "kind": ROLE_SCALER_KIND, "name": name},
        # Said even where it is the default: one that somebody else sets may be more than the maximum.
        "minReplicas": 1 if scaling.min_replicas is None else scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": scaling.metrics,
        "behavior": scaling.behavior,
    }
    return child(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        name,
        dset,
        names.labels(dset.metadata.name, tier=tier, role=role),
        spec=_given(wanted),
    )


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if value is not None}


def inference_pool(dset: DisaggregatedSet) -> Manifest | None:
    """Render the InferencePool over the compute pods; None where the set asks for none."""
    routing = dset.spec.routing
    if routing is None or routing.inference_pool is None:
        return None
    set_name = dset.metadata.name
    # A router takes a pod that says nothing of its role for a decode pod: no pod of another tier may match.
    matched = {names.SET_LABEL: set_name, names.TIER_LABEL: Tier.COMPUTE.value}
    return child(
        "inference.networking.k8s.io/v1",
        "InferencePool",
        set_name,
        dset,
        names.labels(set_name, tier=Tier.COMPUTE),
        spec={
            "selector": {"matchLabels": matched},
            **routing.inference_pool.model_dump(by_alias=True, mode="json"),
        },
    )
