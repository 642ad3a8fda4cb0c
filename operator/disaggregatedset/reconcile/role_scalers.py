"""The status of a RoleScaler: what became of what was asked for. Pure."""

from __future__ import annotations

from typing import Any

from disaggregatedset.api import RoleScalerStatus, ScalingMode
from disaggregatedset.cluster.objects import Object
from disaggregatedset.reconcile.conditions import stamp
from disaggregatedset.reconcile.scaling import Scale
from disaggregatedset.reconcile.view import View, role_of
from disaggregatedset.render import selector


def role_scaler_status(set_name: str, scaler: Object, scale: Scale, seen: View, now: str) -> dict[str, Any]:
    """Make the status of a RoleScaler.

    Parameters
    ----------
    set_name
        The set.
    scaler
        The RoleScaler.
    scale
        How many pods its role should have.
    seen
        The children of the set.
    now
        The time, in RFC 3339.

    Returns
    -------
    dict
        The whole status as JSON.
    """
    role, generation = role_of(scaler), scaler["metadata"]["generation"]
    before = RoleScalerStatus.model_validate(scaler.get("status") or {}).conditions or ()
    conditions = [
        stamp(before, kind, flag, reason, message, generation=generation, now=now)
        for kind, (flag, reason, message) in {
            "ScalingActive": _active(scale),
            "ScalingLimited": _limited(scale),
        }.items()
    ]
    made = RoleScalerStatus(
        observed_generation=generation,
        replicas=sum(r.observed.replicas for r in seen.running if r.role == role),
        desired_replicas=scale.desired,
        selector=",".join(f"{key}={value}" for key, value in selector(set_name, role).items()),
        conditions=conditions,
    )
    return made.model_dump(by_alias=True, exclude_none=True, mode="json")


def _active(scale: Scale) -> tuple[bool, str, str]:
    """Say who decides, in the words of a HorizontalPodAutoscaler where it has some."""
    match scale.scaling.mode:
        case ScalingMode.STATIC:
            return False, "DecidedBySet", "replicas of the DisaggregatedSet says how many pods there are (mode Static)"
        case ScalingMode.FOLLOW:
            follow = scale.scaling.follow
            ratio = f"{follow.ratio} with role {follow.role}" if follow else "another role"
            return False, "FollowsRole", f"the role is scaled {ratio} (mode Follow)"
        case _:
            return True, "ScaledByRoleScaler", "spec.replicas says how many pods there are, within the bounds"


def _limited(scale: Scale) -> tuple[bool, str, str]:
    """Say what keeps a role from having what was asked for, by the reasons of a HorizontalPodAutoscaler."""
    if scale.desired > scale.asked:
        return True, "TooFewReplicas", f"{scale.asked} asked for, and minReplicas is {scale.desired}"
    if scale.desired < scale.asked:
        return True, "TooManyReplicas", f"{scale.asked} asked for, and maxReplicas is {scale.desired}"
    if scale.waits:
        return True, "ScaleDownLimit", scale.waits
    return False, "DesiredWithinRange", "the desired count is within the acceptable range"
