"""Where pods of a compute revision run, as affinity of pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from disaggregatedset.api import Placement, PlacementPolicy, Tier
from disaggregatedset.render import names

_WEIGHT: Final = 100  # the most that a preference can weigh
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def placed(
    template: Mapping[str, Any], placement: Placement, *, set_name: str, set_uid: str, revision: str
) -> dict[str, Any]:
    """Put a placement into a pod template, beside the user's own affinity.

    Parameters
    ----------
    template
        A PodTemplateSpec; it is not changed.
    placement
        The placement.
    set_name, set_uid, revision
        Whose pods they are: they attract each other, and with ``exclusive`` keep compute pods of other sets away.
    """
    compute = {names.TIER_LABEL: Tier.COMPUTE.value}
    tier = {"key": names.TIER_LABEL, "operator": "In", "values": [Tier.COMPUTE.value]}
    own = {"labelSelector": {"matchLabels": {names.SET_LABEL: set_name, **compute, names.REVISION_LABEL: revision}}}
    together = {"topologyKey": placement.topology_key, **own}
    spec = dict(template["spec"])
    affinity = dict(spec.get("affinity") or {})
    if placement.policy is PlacementPolicy.REQUIRED:
        # The first pod of a revision finds none to be beside: the scheduler lets a pod pass that matches its own term.
        _add(affinity, "podAffinity", _REQUIRED, [together])
    else:
        _add(affinity, "podAffinity", _PREFERRED, [{"weight": _WEIGHT, "podAffinityTerm": together}])
    if placement.exclusive:
        # One term, for all namespaces: schedulers apply a selector that excludes a namespace to that one too
        # (kubernetes/kubernetes#141526), and with more terms notice after minutes that whom a pod avoids is gone.
        other_set = {"key": names.SET_UID_LABEL, "operator": "NotIn", "values": [set_uid]}
        apart = {"labelSelector": {"matchExpressions": [tier, other_set]}, "namespaceSelector": {}}
        _add(affinity, "podAntiAffinity", _REQUIRED, [{"topologyKey": placement.topology_key, **apart}])
    return dict(template) | {"spec": spec | {"affinity": affinity}}


def _add(affinity: dict[str, Any], kind: str, when: str, terms: list[dict[str, Any]]) -> None:
    of_kind = dict(affinity.get(kind) or {})
    affinity[kind] = of_kind | {when: [*(of_kind.get(when) or []), *terms]}
