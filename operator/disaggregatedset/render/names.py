"""Names and labels of what belongs to a set."""

from __future__ import annotations

import re
from typing import Final

from disaggregatedset.api import Tier

LABEL: Final = "disaggregatedset.dev"
SET_LABEL: Final = f"{LABEL}/set"
TIER_LABEL: Final = f"{LABEL}/tier"
ROLE_LABEL: Final = f"{LABEL}/role"
REVISION_LABEL: Final = f"{LABEL}/revision"
MODEL_REVISION_LABEL: Final = f"{LABEL}/model-revision"
COMPUTE_REVISION_LABEL: Final = f"{LABEL}/compute-revision"
#: On compute pods: tells sets of one name in several namespaces apart.
SET_UID_LABEL: Final = f"{LABEL}/set-uid"
RETRY_ANNOTATION: Final = f"{LABEL}/retry"
MANAGER: Final = "disaggregatedset"


def child_name(*parts: str) -> str:
    """Join the parts of a child's name: set, role, revision."""
    return "-".join(parts)


def labels(
    set_name: str,
    *,
    tier: Tier,
    role: str | None = None,
    revision: str | None = None,
    model_revision: str | None = None,
    compute_revision: str | None = None,
) -> dict[str, str]:
    """Labels of a child, as far as they apply to it."""
    applying = {
        "app.kubernetes.io/name": "disaggregatedset",
        "app.kubernetes.io/instance": set_name,
        "app.kubernetes.io/component": role,
        "app.kubernetes.io/part-of": set_name,
        "app.kubernetes.io/managed-by": MANAGER,
        SET_LABEL: set_name,
        TIER_LABEL: tier.value,
        ROLE_LABEL: role,
        REVISION_LABEL: revision,
        MODEL_REVISION_LABEL: model_revision,
        COMPUTE_REVISION_LABEL: compute_revision,
    }
    return {key: value for key, value in applying.items() if value is not None}


def selector(set_name: str, role: str, **more: str) -> dict[str, str]:
    """Labels that select the pods of a role."""
    return {SET_LABEL: set_name, ROLE_LABEL: role} | more


def label_value(text: str) -> str:
    """Make a label's value of any text, such as a model's name with its slashes: at most 63 of ``[-_.A-Za-z0-9]``."""
    return re.sub(r"[^-_.A-Za-z0-9]+", "-", text)[:63].strip("-_.")
