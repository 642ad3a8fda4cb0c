"""The order of the tiers of a set: what waits for what, and what stays for whom.

Weights and KV cache stand by model revision, so that two models can serve side by side: those of the wanted model come
first, then compute, and those of another model go when no compute pod of another revision is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from disaggregatedset.rollout.planner import Group, Observed, Plan, Remove, Scale, is_ready, plan


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tier group should be.

    Attributes
    ----------
    revision
        The wanted revision.
    model_revision
        The model that it belongs to.
    desired
        Pods wanted, by role.
    waits_for
        The groups that must be ready before the first pod of the revision is created.
    exclusive
        Whether two revisions must never have pods at the same time.
    """

    revision: str
    model_revision: str
    desired: Mapping[str, int]
    waits_for: tuple[str, ...] = ()
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A Deployment: which role in which revision of which model, and what is observed of it."""

    group: str
    role: str
    revision: str
    model_revision: str
    observed: Observed


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """The plan of one tier group.

    Attributes
    ----------
    writes
        The writes to make now, in this order.
    complete
        Whether the group has its wanted revision alone.
    ready
        Whether all that is desired of the wanted revision is ready.
    waits_for
        The groups that it waits for before it starts.
    """

    writes: tuple[Scale | Remove, ...]
    complete: bool
    ready: bool
    waits_for: tuple[str, ...] = ()


def plan_set(wanted: Mapping[str, Wanted], running: list[Running], *, last: str) -> dict[str, GroupPlan]:
    """Plan the next writes of all tier groups.

    Parameters
    ----------
    wanted
        By tier group, in the order in which they come up.
    running
        All Deployments of the set.
    last
        The group that is served by the others: what they have of other models goes when it is complete.

    Returns
    -------
    dict
        Plans by tier group; a group that is no longer wanted has one as long as it has Deployments.
    """
    plans: dict[str, GroupPlan] = {}
    for name, want in wanted.items():
        mine = [r for r in running if r.group == name and (name == last or r.model_revision == want.model_revision)]
        missing = tuple(other for other in want.waits_for if not plans[other].ready)
        group = Group(want.revision, want.desired, _by_revision(mine), exclusive=want.exclusive, may_start=not missing)
        started = want.revision in group.observed
        planned: Plan = plan(group)
        plans[name] = GroupPlan(planned.writes, planned.complete, is_ready(group), () if started else missing)
    left = [
        r
        for r in running
        if r.group != last and (r.group not in wanted or r.model_revision != wanted[r.group].model_revision)
    ]
    for name in dict.fromkeys(r.group for r in left):
        before = plans.get(name, GroupPlan((), complete=True, ready=True))
        removals = (
            tuple(Remove(r.role, r.revision, "no compute pod needs it any more") for r in left if r.group == name)
            if plans[last].complete
            else ()
        )
        plans[name] = GroupPlan(
            (*before.writes, *removals), complete=False, ready=before.ready, waits_for=before.waits_for
        )
    return plans


def _by_revision(running: list[Running]) -> dict[str, dict[str, Observed]]:
    observed: dict[str, dict[str, Observed]] = {}
    for r in running:
        observed.setdefault(r.revision, {})[r.role] = r.observed
    return observed
