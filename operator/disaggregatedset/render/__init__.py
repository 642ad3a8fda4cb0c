"""Pure: from a set to the manifests of its children."""

from disaggregatedset.render.children import (
    claim_template,
    controller_revision,
    deployment,
    disruption_budget,
    services,
)
from disaggregatedset.render.manifest import Manifest
from disaggregatedset.render.names import (
    COMPUTE_REVISION_LABEL,
    MANAGER,
    MODEL_REVISION_LABEL,
    RETRY_ANNOTATION,
    REVISION_LABEL,
    ROLE_LABEL,
    SET_LABEL,
    TIER_LABEL,
    child_name,
    selector,
)
from disaggregatedset.render.revisions import COMPUTE
from disaggregatedset.render.scaling import horizontal_pod_autoscaler, inference_pool, role_scaler
from disaggregatedset.render.tiers import GROUPS, RenderedRole, TierRevision, rendered_tiers

__all__ = [
    "COMPUTE",
    "COMPUTE_REVISION_LABEL",
    "GROUPS",
    "MANAGER",
    "MODEL_REVISION_LABEL",
    "RETRY_ANNOTATION",
    "REVISION_LABEL",
    "ROLE_LABEL",
    "SET_LABEL",
    "TIER_LABEL",
    "Manifest",
    "RenderedRole",
    "TierRevision",
    "child_name",
    "claim_template",
    "controller_revision",
    "deployment",
    "disruption_budget",
    "horizontal_pod_autoscaler",
    "inference_pool",
    "rendered_tiers",
    "role_scaler",
    "selector",
    "services",
]
