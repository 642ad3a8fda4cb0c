"""How many pods each role should have: by the set, by whoever scales its RoleScaler, or in proportion. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from disaggregatedset.api import (
    KV_CACHE,
    KV_COORDINATOR,
    WEIGHTS,
    DisaggregatedSet,
    Scaled,
    ScaleDown,
    ScaleDownStatus,
    Scaling,
    ScalingMode,
)
from disaggregatedset.reconcile.diagnose import Cause, Diagnoses
from disaggregatedset.reconcile.memory import timestamp
from disaggregatedset.reconcile.view import ROLE_SCALER, View, role_of
from disaggregatedset.render import COMPUTE


@dataclass(frozen=True, slots=True)
class Pods:
    """What is seen of the pods of a role.

    Attributes
    ----------
    ready
        Those that are ready.
    placed
        Those that are asked for, without those that are known to have no node: all that may hold something.
    asked
        Those that are asked for, where only one revision has any: in a rollout there may be more than are to be.
    """

    ready: int = 0
    placed: int = 0
    asked: int | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """How many pods a role should have.

    Attributes
    ----------
    asked
        What was asked for.
    desired
        That, within the bounds of the role.
    replicas
        How many there are to be now: more than are desired while a role shrinks step by step.
    scaling
        Who decides, and the bounds.
    until_now
        How many there were to be until now, of a role that shrinks step by step; None: of others, and of a new one.
    step
        The last step of a role that shrinks step by step; None: there was none.
    waits
        Why a role does not shrink further now; empty: it need not.
    look_again
        When the next step is due; None: not before something changes.
    """

    asked: int
    desired: int
    replicas: int
    scaling: Scaling
    until_now: int | None = None
    step: ScaleDownStatus | None = None
    waits: str = ""
    look_again: timedelta | None = None


#: Scales by tier group and role.
Scales = Mapping[str, Mapping[str, Scale]]

#: Numbers of pods by tier group and role.
Desired = Mapping[str, Mapping[str, int]]

#: The coordinator: one, whatever happens.
_ONE: Final = Scale(1, 1, 1, Scaling())


def scaled_roles(dset: DisaggregatedSet) -> dict[str, dict[str, Scaled]]:
    """Return what the spec says of each role that scales, by tier group and role, in the order in which they start."""
    spec = dset.spec
    roles: dict[str, dict[str, Scaled]] = {}
    if spec.weights is not None:
        roles[WEIGHTS] = {WEIGHTS: spec.weights}
    if spec.kv_cache is not None:
        roles[KV_CACHE] = {KV_CACHE: spec.kv_cache}
    roles[COMPUTE] = {role.name: role for role in spec.compute.roles}
    return roles


def scales(dset: DisaggregatedSet, asked_of: Mapping[str, int], kv: Pods, now: datetime) -> Scales:
    """Decide how many pods each role should have.

    Parameters
    ----------
    dset
        The set.
    asked_of
        ``spec.replicas`` of the RoleScalers that there are, by role.
    kv
        What is seen of the pods of the KV cache.
    now
        The time.
    """
    groups = scaled_roles(dset)
    roles = {name: role for of_group in groups.values() for name, role in of_group.items()}
    known = {role.name: role for role in (dset.status.roles if dset.status else None) or ()}
    desired: dict[str, tuple[int, int]] = {}

    def decide(name: str) -> tuple[int, int]:
        if name not in desired:
            desired[name] = _decide(name)
        return desired[name]

    def _decide(name: str) -> tuple[int, int]:
        role = roles[name]
        follow = role.scaling.follow
        if follow is not None:  # the CRD refuses circles, and roles that don't exist
            asked = follow.of(decide(follow.role)[1])
        elif role.scaling.mode is ScalingMode.STATIC:
            asked = role.replicas
        elif name in asked_of:
            asked = asked_of[name]
        else:  # its RoleScaler is new, or somebody deleted it
            asked = known[name].desired if name in known else role.replicas
        return asked, within(role.scaling, asked)

    made = {
        group: {name: Scale(*decide(name), decide(name)[1], role.scaling) for name, role in of_group.items()}
        for group, of_group in groups.items()
    }
    cache = dset.spec.kv_cache
    if cache is not None:
        before = known.get(KV_CACHE)
        step = before.scale_down if before else None
        # Without a status, as after a restore, or where the tier was taken away and comes back, there are those it has.
        at = step.replicas if step else before.desired if before else kv.placed or None
        made[KV_CACHE] = {KV_CACHE: _paced(made[KV_CACHE][KV_CACHE], at, step, kv, cache.scale_down, now)}
        if cache.coordinator is not None:
            made[KV_COORDINATOR] = {KV_COORDINATOR: _ONE}
    order = (WEIGHTS, KV_COORDINATOR, KV_CACHE, COMPUTE)
    return {group: made[group] for group in order if group in made}


def desired_pods(scales: Scales) -> Desired:
    """Return how many pods a set wants, by tier group and role."""
    return {group: {name: scale.desired for name, scale in roles.items()} for group, roles in scales.items()}


def asked_for(seen: View) -> dict[str, int]:
    """Return how many pods the RoleScalers ask for, by role."""
    return {role_of(scaler): scaler["spec"]["replicas"] for scaler in seen.children[ROLE_SCALER]}


def seen_of_cache(seen: View, diagnoses: Diagnoses) -> Pods:
    """Return what is seen of the pods of the KV cache: where two stand side by side, of the one that has more."""
    ready: dict[str, int] = {}
    placed: dict[str, int] = {}
    asks: list[int] = []
    for r in seen.running:
        if r.group == KV_CACHE:
            asked = r.observed.asked or 0
            asks += [asked] if asked else []
            diagnosis = diagnoses.revisions.get((r.role, r.revision))
            counts = diagnosis.counts if diagnosis else {}
            waiting = counts.get(Cause.UNSCHEDULABLE, 0) + counts.get(Cause.DEVICES_EXHAUSTED, 0)
            waiting = min(waiting, max(0, asked - r.observed.ready))
            ready[r.identity] = ready.get(r.identity, 0) + (min(r.observed.ready, asked) if r.observed.current else 0)
            placed[r.identity] = placed.get(r.identity, 0) + asked - waiting
    alone = asks[0] if len(asks) == 1 else None
    return Pods(max(ready.values(), default=0), max(placed.values(), default=0), alone)


def moves(decided: Scales) -> bool:
    """Whether a role that shrinks step by step is to have another number of pods than until now.

    The status has to say so before a pod comes or goes: what is not known of a step would be taken again at once, and
    what is not known of growth would be lost in one step.
    """
    return any(
        scale.until_now is not None and scale.replicas != scale.until_now
        for roles in decided.values()
        for scale in roles.values()
    )


def within(scaling: Scaling, asked: int) -> int:
    """Bring a number of pods within the bounds of a role."""
    least = scaling.min_replicas or 0
    return max(least, asked if scaling.max_replicas is None else min(asked, scaling.max_replicas))


def _paced(
    scale: Scale, until_now: int | None, last: ScaleDownStatus | None, pods: Pods, pace: ScaleDown, now: datetime
) -> Scale:
    """Say how far a role has shrunk that may only do so step by step, and only while all that is left is ready.

    Parameters
    ----------
    scale
        Where it is to go.
    until_now
        How many pods it was to have until now; None: it is new.
    last
        Its last step.
    pods
        What is seen of them.
    pace
        How fast it may go.
    now
        The time.
    """
    goal, period = scale.desired, timedelta(seconds=pace.period_seconds)
    stepped = datetime.fromisoformat(last.last_step_at) if last and last.last_step_at else None
    at = until_now or 0
    if stepped and pods.asked is not None and pods.asked > at:
        stepped = _whole_second(now)  # it was decided, but comes only now
    if at > goal:
        # Pods without a node hold nothing, and a ReplicaSet removes them first; nor do pods that nobody asked for yet.
        at = max(goal, min(at, pods.placed))
        due = (stepped is None or stepped + period <= now) and (pods.asked is None or pods.asked <= at)
        if due and pods.ready >= at > goal:
            at, stepped = max(goal, at - pace.max_step), _whole_second(now)
    at = max(at, goal)  # growing loses nothing
    scale = replace(scale, replicas=at, until_now=until_now)
    step = ScaleDownStatus(replicas=at, last_step_at=timestamp(stepped) if stepped else None)
    if at == goal:
        return replace(scale, step=step if stepped else None)
    waits = f"shrinks to {goal} by {pace.max_step} every {pace.period_seconds} s, to keep what it can of the cache; "
    left = stepped + period - now if stepped else timedelta()
    if stepped and left > timedelta():
        waits += f"now at {at}, the next step is due at {timestamp(stepped + period)}"
    else:
        waits += f"now at {at}, the next step waits until all of them are ready"
    return replace(scale, step=step, waits=waits, look_again=left if left > timedelta() else None)


def _whole_second(moment: datetime) -> datetime:
    """Round a time up to what a status can keep: rounded down, the next step would come early."""
    return moment + timedelta(microseconds=-moment.microsecond % 1_000_000)
