"""The rollout planner: from what a tier group should be and what is observed of it to the writes to make now.

Pure: everything it knows comes in as arguments. It replaces the old revision by the new one at full size: the new one
first, then, when all roles of it are ready, the old one goes. A group that must not exist twice at a time (the KV
coordinator) goes first and comes after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Observed:
    """What is observed of one role in one revision.

    Attributes
    ----------
    asked
        Pods that its Deployment asks for.
    replicas
        Pods that there are.
    ready
        Pods that are ready.
    current
        Whether the Deployment's status is of its current generation.
    """

    asked: int
    replicas: int
    ready: int
    current: bool

    @property
    def capacity(self) -> int:
        """Pods that can be counted on: ready, and asked for."""
        return min(self.ready, self.asked) if self.current else 0


@dataclass(frozen=True, slots=True)
class Group:
    """A tier group: what rolls together.

    Attributes
    ----------
    revision
        The wanted revision.
    desired
        Pods wanted, by role.
    observed
        By revision, by role; a Deployment that does not exist is absent.
    exclusive
        Whether two revisions must never have pods at the same time.
    may_start
        Whether pods of the wanted revision may be created: what it waits for is there.
    """

    revision: str
    desired: Mapping[str, int]
    observed: Mapping[str, Mapping[str, Observed]]
    exclusive: bool = False
    may_start: bool = True


@dataclass(frozen=True, slots=True)
class Scale:
    """Ask for a number of pods; creates the Deployment where there is none."""

    role: str
    revision: str
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a Deployment."""

    role: str
    revision: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The writes to make now, in this order, and whether the group is then on its wanted revision alone."""

    writes: tuple[Scale | Remove, ...]
    complete: bool


def is_ready(group: Group) -> bool:
    """Whether all roles of the wanted revision have as many ready pods as desired."""
    wanted = group.observed.get(group.revision, {})
    return all(role in wanted and wanted[role].capacity >= n for role, n in group.desired.items())


def coherent_capacity(desired: Mapping[str, int], observed: Mapping[str, Observed]) -> Fraction:
    """Compute the coherent capacity of a revision: the smallest, over the roles that desire any, of ready / desired."""
    return min(
        (Fraction(min(observed[r].capacity, n), n) if r in observed else Fraction(0) for r, n in desired.items() if n),
        default=Fraction(1),
    )


def plan(group: Group) -> Plan:
    """Plan the next writes of a tier group."""
    old = {
        (revision, role): observed
        for revision, roles in group.observed.items()
        for role, observed in roles.items()
        if revision != group.revision or role not in group.desired
    }
    removals = tuple(Remove(role, revision, "replaced") for revision, role in old)
    wanted = group.observed.get(group.revision, {})
    if group.exclusive and old:
        gone = all(o.asked == 0 and o.replicas == 0 and o.current for o in old.values())
        drains = tuple(Scale(role, rev, 0, "one at a time") for (rev, role), o in old.items() if o.asked)
        return Plan(removals if gone else drains, complete=False)
    if not wanted and not group.may_start:
        return Plan((), complete=False)
    scales = tuple(
        Scale(role, group.revision, n, "as desired")
        for role, n in group.desired.items()
        if role not in wanted or wanted[role].asked != n
    )
    if scales:
        return Plan(scales, complete=False)
    if old and is_ready(group):
        return Plan(removals, complete=False)
    return Plan((), complete=not old)
