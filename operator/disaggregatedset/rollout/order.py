"""The tiers of a set together: what waits for what, what stays for whom, and where each is to go. Pure.

Weights and KV cache stand by *identity* (a model revision, or with ``scope: Revision`` a compute revision), so that
two can serve side by side: those of the wanted identity come first, then compute moves, and those of another identity
go when no compute pod of it is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from disaggregatedset.rollout.lifecycle import Judgement, Policy, State, aim, begin, judge, still_failed
from disaggregatedset.rollout.planner import (
    Deletion,
    Group,
    Observed,
    Phase,
    Plan,
    Role,
    WhenExhausted,
    Write,
    plan,
)


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision of a tier group.

    Attributes
    ----------
    name
        Its hash.
    identity
        What its Services go by; the same for all compute revisions, which move as one.
    needs
        Identity by group of what its pods are told to use.
    roles
        The roles that it has.
    """

    name: str
    identity: str
    needs: Mapping[str, str]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier group as the spec wants it.

    Attributes
    ----------
    wanted
        The revision that the spec asks for.
    roles
        Live numbers of its roles.
    waits_for
        The groups that must be ready, as the revision needs them, before its first pod is created.
    recreate
        Whether two revisions must never have pods at the same time.
    """

    wanted: Revision
    roles: Mapping[str, Role]
    waits_for: tuple[str, ...] = ()
    recreate: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A Deployment of a set, as the planner sees it."""

    group: str
    role: str
    revision: str
    identity: str
    observed: Observed


@dataclass(frozen=True, slots=True)
class Spec:
    """What a spec says about rollouts, and when.

    Attributes
    ----------
    policy, when_exhausted
        As in ``spec.rollout``.
    retry
        The value of the annotation that has a failed revision tried again.
    generation
        Of the set.
    now
        The time.
    """

    policy: Policy
    when_exhausted: WhenExhausted
    retry: str
    generation: int
    now: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be done with a tier group.

    Attributes
    ----------
    target
        The revision that it goes to, or stays on.
    plan
        The writes to make now.
    state
        What to remember of it; recorded before the first write of a rollout.
    beside
        Writes for other identities, which stay as they are but for their size.
    removals
        Deployments of other identities that nobody needs any more.
    waits_for
        The groups that it waits for before the wanted revision starts.
    ready
        Whether all that is desired of the target is ready.
    overdue
        Whether its rollout has made no progress for too long.
    held
        Whether it has been stopped.
    look_again
        When to look again if nothing changes.
    """

    target: str
    plan: Plan
    state: State
    beside: tuple[Write, ...] = ()
    removals: tuple[Deletion, ...] = ()
    waits_for: tuple[str, ...] = ()
    ready: bool = False
    overdue: bool = False
    held: bool = False
    look_again: timedelta | None = None

    @property
    def writes(self) -> tuple[Write, ...]:
        """All writes to make now, in this order."""
        return (*self.plan.writes, *self.beside)

    @property
    def complete(self) -> bool:
        """Whether it is where it is to go, with nothing else left."""
        return self.plan.done and not self.waits_for and not self.removals


_NOTHING = Plan((), (), done=False, phase=Phase.PROGRESSING, message="not started")


def plan_set(
    tiers: Mapping[str, Tier],
    revisions: Mapping[tuple[str, str], Revision],
    running: list[Running],
    states: Mapping[str, State],
    spec: Spec,
    *,
    last: str,
) -> dict[str, Outcome]:
    """Plan the next writes of all tier groups.

    Parameters
    ----------
    tiers
        What is wanted, by tier group, in the order in which they come up.
    revisions
        All revisions that are known, the wanted ones included, by group and name.
    running
        All Deployments of the set.
    states
        What is remembered, by tier group.
    spec
        What the spec says about rollouts, and when.
    last
        The group that uses the others (compute).

    Returns
    -------
    dict
        By tier group; one that is no longer wanted has an outcome as long as it has Deployments.
    """
    ready: dict[str, str] = {}
    outcomes: dict[str, Outcome] = {}
    for name, tier in tiers.items():
        outcomes[name] = _plan_tier(name, tier, revisions, running, states.get(name, State()), spec, ready)
        if outcomes[name].ready:
            ready[name] = revisions[name, outcomes[name].target].identity
    alive = {r.revision for r in running if r.group == last and (r.observed.asked or r.observed.replicas)}
    # The last good one is still needed as long as a rollout may go back to it.
    alive |= {v for v in (outcomes[last].target, outcomes[last].state.good) if v and (last, v) in revisions}
    for name in dict.fromkeys(r.group for r in running if r.group != last):
        kept = {needs for v in alive if (needs := revisions[last, v].needs.get(name)) is not None}
        if name in outcomes:
            kept.add(revisions[name, outcomes[name].target].identity)
        gone = tuple(Deletion(r.role, r.revision) for r in running if r.group == name and r.identity not in kept)
        if name not in outcomes:
            outcomes[name] = Outcome("", replace(_NOTHING, done=True), State(), removals=gone)
            continue
        # What is wanted comes up when it is its turn.
        planned = {revisions[name, outcomes[name].target].identity, tiers[name].wanted.identity}
        beside = [
            write
            for identity in sorted(kept - planned)
            for write in _keep_up(name, tiers[name], identity, revisions, running)
        ]
        outcomes[name] = replace(outcomes[name], removals=gone, beside=tuple(beside))
    return outcomes


def _plan_tier(
    name: str,
    tier: Tier,
    revisions: Mapping[tuple[str, str], Revision],
    running: list[Running],
    state: State,
    spec: Spec,
    ready: Mapping[str, str],
) -> Outcome:
    state = still_failed(state, tier.wanted.name, spec.retry, spec.now)
    goal = aim(state, tier.wanted.name, spec.policy)
    target = revisions.get((name, goal.target), tier.wanted)  # the record of the last good one may be lost
    mine = [r for r in running if r.group == name]
    if target.identity != tier.wanted.identity and not any(r.revision == target.name for r in mine):
        # It failed, and nobody uses the last good one: going back to that is to be rid of what failed.
        return Outcome(target.name, replace(_NOTHING, done=True), replace(state, record=None))
    waits_for: tuple[str, ...] = ()
    pauses = False
    if not any(r.revision == target.name for r in mine):
        resident = _resident(name, state, mine, revisions)
        needs = target.needs
        waits_for = tuple(other for other in tier.waits_for if other in needs and ready.get(other) != needs[other])
        # Under another identity it would start beside what is there, of which the planner knows nothing.
        pauses = spec.policy.paused and resident is not None and resident.identity != target.identity
        if resident is None and waits_for:
            return Outcome(target.name, _NOTHING, replace(state, record=None), waits_for=waits_for)
        if resident is not None and (waits_for or pauses):
            target = resident
    stays = bool(waits_for or pauses)
    observed = _observed(target, mine, revisions, name)
    state = begin(state, target.name, observed, generation=spec.generation, now=spec.now)
    record = state.record
    group = Group(
        target=target.name,
        roles=tuple(_role(role, tier, observed, record.old_replicas if record else {}) for role in target.roles),
        old_replicas=record.old_replicas if record and record.old_replicas else None,
        paused=spec.policy.paused,
        held=goal.held,
        when_exhausted=spec.when_exhausted,
        recreate=tier.recreate,
    )
    planned = plan(group, observed)
    judged = judge(state, planned, observed, spec.policy, generation=spec.generation, now=spec.now, held=goal.held)
    if stays and judged.overdue:
        # What is wanted has not failed before it starts; what was wanted before it is given up for the last good one.
        judged = Judgement(judged.state)
        if state.good is not None and state.good != target.name:
            back = begin(judged.state, state.good, observed, generation=spec.generation, now=spec.now)
            judged = Judgement(back, look_again=timedelta())
    if pauses:
        message = f"paused before revision {tier.wanted.name} starts"
        planned = replace(planned, done=False, phase=Phase.PAUSED, message=message)
    return Outcome(
        target.name,
        planned,
        judged.state,
        waits_for=waits_for,
        ready=all(_capacity(observed[target.name][role.name]) >= role.replicas for role in group.roles),
        overdue=judged.overdue,
        held=goal.held,
        look_again=judged.look_again,
    )


def _keep_up(
    name: str, tier: Tier, identity: str, revisions: Mapping[tuple[str, str], Revision], running: list[Running]
) -> tuple[Write, ...]:
    """Plan for an identity that compute pods still use: no revision of it moves, but it scales and is put back."""
    mine = [r for r in running if r.group == name and r.identity == identity]
    known = [v for (group, _), v in revisions.items() if group == name and v.identity == identity]
    there = [v for v in known if any(r.revision == v.name and r.observed.asked for r in mine)] or known
    if not there:
        return ()
    observed = _observed(there[0], mine, revisions, name)
    roles = tuple(_role(role, tier, observed, {}) for role in there[0].roles)
    return plan(Group(there[0].name, roles, paused=True, recreate=tier.recreate), observed).writes


def _resident(
    group: str, state: State, mine: list[Running], revisions: Mapping[tuple[str, str], Revision]
) -> Revision | None:
    """Return the revision to stay on while another may not start: the one being rolled out, or the last good one."""
    there = {r.revision for r in mine}
    stays = (state.record.target if state.record is not None else None, state.good)
    return next((revisions[group, v] for v in stays if v in there), None)


def _capacity(seen: Observed) -> int:
    return min(seen.ready, seen.asked or 0) if seen.current else 0


def _role(
    name: str, tier: Tier, observed: Mapping[str, Mapping[str, Observed]], old_replicas: Mapping[str, int]
) -> Role:
    if name in tier.roles:
        return tier.roles[name]
    # The spec has dropped it, but the revision to stay on or go back to needs it: as many as there were.
    asked = sum(roles[name].asked or 0 for roles in observed.values() if name in roles)
    return Role(name, old_replicas.get(name, asked))


def _observed(
    target: Revision, mine: list[Running], revisions: Mapping[tuple[str, str], Revision], group: str
) -> dict[str, dict[str, Observed]]:
    """Return what is observed under the target's identity, with every role that a revision has."""
    observed = {target.name: {role: Observed() for role in target.roles}}
    for r in mine:
        if r.identity == target.identity:
            roles = revisions[group, r.revision].roles
            observed.setdefault(r.revision, {role: Observed() for role in roles})[r.role] = r.observed
    return observed
