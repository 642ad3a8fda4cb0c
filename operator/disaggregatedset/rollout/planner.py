"""Plan a rollout: from what is desired and what is observed of a group to the writes to make now.

A *group* is what moves together: the compute roles, or the one role of another tier under one Service identity.
:func:`plan` remembers nothing: called after whatever happened, an operator's death between two writes included, it
goes on from there. It guarantees, after every single write:

Floor
    No ready pod goes if, per role, ready pods of all revisions would fall below min(old, new desired) -
    maxUnavailable.
Ceiling
    Nothing is asked for beyond max(old, new desired) + maxSurge per role, over all revisions.
Coherence
    The coherent capacity of a revision is the smallest, over its roles, of ready / desired. No write brings its sum
    over revisions below 1 - max(maxUnavailable / desired). "Desired" is read in two ways, and both hold: the live
    number, and min(old, new), so that a role that grows doesn't hide what the old revision serves. A removed role
    counts, by its old number, for revisions that have it; an added one doesn't for those that lack it.

and in the whole:

No orphans
    After a plan no revision has pods in one role and none in another, but where the ceiling has no room for the
    other.
Liveness
    If pods become ready, a bounded number of plans ends on the target.

A pod counts as ready as far as it is asked for. While any status in the group is behind its Deployment, no old pod
goes.

How it moves: old pods go that aren't needed, and as far as maxUnavailable allows such as take room; the target gets
all room below the ceiling. Why that can't get stuck while the target is short of pods and all that was asked for is
ready: take the role in which the target is furthest behind, with ``a`` old and ``b`` new pods, m = max(old, new
desired) and the coherence bound B. If coherence forbids to remove one of ``a``, then (a-1)/m + b/m < B, so a + b <=
ceil(B*m). That is below the ceiling: with maxSurge >= 1 because B <= 1, with maxSurge 0 because then maxUnavailable
>= 1, so B <= 1 - 1/m. If the floor forbids it, a + b is at the floor, so below the ceiling too. Either way a new pod
has room. A last old pod that stays for the sake of its revision's other roles waits for one of them, of which the
same is true. Each plan adds new pods or removes old ones, so it ends.

The argument needs that only two revisions have pods; fragments of three can be stuck for rounding. So while two old
ones have pods in a group of several roles, the one that serves more first replaces the other, and only then the
target starts.

Paused or held, what serves is scaled: pods of a revision that serves nothing don't count as desired ones. Growing takes
no ready pod, so only the ceiling limits it; that wins, for to stop isn't to take back. Of more than desired + maxSurge,
pods of what serves nothing go first, but for those that the floor needs and one of each role, which may recover; what
serves keeps the desired number. So growing stops where shrinking doesn't start, and no plan undoes the one before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction


class WhenExhausted(StrEnum):
    """What a rollout does while pods of the target can't get their devices."""

    DRAIN_FIRST = "DrainFirst"
    WAIT = "Wait"


class Phase(StrEnum):
    """Where a group stands."""

    COMPLETE = "Complete"
    PROGRESSING = "Progressing"
    WAITING_FOR_DEVICES = "WaitingForDevices"
    PAUSED = "Paused"
    HELD = "Held"


@dataclass(frozen=True, slots=True)
class Role:
    """What is desired of a role: live numbers, and percentages of ``replicas``."""

    name: str
    replicas: int
    max_surge: int | str = 1
    max_unavailable: int | str = 0


@dataclass(frozen=True, slots=True)
class Group:
    """What is desired of a group.

    Attributes
    ----------
    target
        Name of the revision to go to. A rollback is a rollout whose target is the last good revision.
    roles
        The roles that the target has, those at zero replicas included.
    old_replicas
        "Old desired" by role, recorded before the rollout's first write; None while no rollout runs. Roles that the
        target doesn't have are in it too.
    paused, held
        No revision moves; scaling still takes effect. Held first completes or undoes what has pods in one role and none
        in another.
    when_exhausted
        What to do while new pods can't get their devices.
    recreate
        The old pods must be gone before the new ones are asked for.
    """

    target: str
    roles: tuple[Role, ...]
    old_replicas: Mapping[str, int] | None = None
    paused: bool = False
    held: bool = False
    when_exhausted: WhenExhausted = WhenExhausted.DRAIN_FIRST
    recreate: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """A revision's Deployment of one role, as last seen; ``asked`` is None where it doesn't exist.

    ``replicas`` are the pods that there are (with ``recreate``: terminating ones included), ``current`` says that the
    status is of this generation, and ``without_devices`` for how many pods the scheduler finds no devices.
    """

    asked: int | None = None
    ready: int = 0
    replicas: int = 0
    current: bool = True
    without_devices: int = 0


@dataclass(frozen=True, slots=True)
class Write:
    """Ask for ``replicas`` pods of a revision's role; creates the Deployment where it doesn't exist."""

    role: str
    revision: str
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class Deletion:
    """Delete a Deployment that has no pods and no use."""

    role: str
    revision: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order.

    ``done``: exactly the target is asked for, and all of it is ready. ``message`` says what the group waits for.
    """

    writes: tuple[Write, ...]
    deletions: tuple[Deletion, ...]
    done: bool
    phase: Phase
    message: str

    @property
    def waits_for_devices(self) -> bool:
        """Whether only devices are missing: the deadline's clock stands still."""
        return self.phase is Phase.WAITING_FOR_DEVICES


def plan(group: Group, observed: Mapping[str, Mapping[str, Observed]]) -> Plan:
    """Plan the next writes.

    Parameters
    ----------
    group
        What is desired.
    observed
        By revision and role, every role that the revision has: ``Observed()`` where the Deployment doesn't exist.
    """
    board = _Board(group, observed)
    if group.recreate:
        _recreate(board)
    elif group.paused or group.held:
        _stay(board)
    else:
        _roll(board)
    return _report(board)


def resolve(role: Role) -> tuple[int, int]:
    """Return maxSurge and maxUnavailable as numbers of pods, rounded as Deployments do."""

    def pods(value: int | str, rounded: int) -> int:
        return value if isinstance(value, int) else (int(value.rstrip("%")) * role.replicas + rounded) // 100

    surge, unavailable = pods(role.max_surge, 99), pods(role.max_unavailable, 0)
    return surge, unavailable if surge or unavailable else 1


_ABSENT = Observed()


@dataclass(frozen=True, slots=True)
class _Limits:
    """A role's numbers of pods."""

    new: int
    old: int
    surge: int
    unavailable: int
    removed: bool = False


@dataclass(frozen=True, slots=True)
class _Yardstick:
    """Coherent capacity in whole numbers: ``unit`` is all of it, and a ready pod of a role is worth ``pod[role]``."""

    unit: int
    pod: Mapping[str, int]

    @classmethod
    def of(cls, desired: Mapping[str, int]) -> _Yardstick:
        unit = math.lcm(*desired.values())
        return cls(unit, {name: unit // number for name, number in desired.items()})


class _Board:
    """The group as it will be with what is planned so far."""

    def __init__(self, group: Group, observed: Mapping[str, Mapping[str, Observed]]) -> None:
        self.group, self.observed, self.target = group, observed, group.target
        old = {role.name: role.replicas for role in group.roles} if group.old_replicas is None else group.old_replicas
        self.limits = {r.name: _Limits(r.replicas, old.get(r.name, 0), *resolve(r)) for r in group.roles}
        for name in sorted({name for roles in observed.values() for name in roles} - set(self.limits)):
            # Its maxSurge went with it. One pod more lets an old revision that still needs it take over from another.
            self.limits[name] = _Limits(0, old.get(name, 0), surge=1, unavailable=0, removed=True)
        live = {name: (of.old or 1) if of.removed else of.new for name, of in self.limits.items()}
        live = {name: number for name, number in live.items() if number}
        least = {name: min(number, self.limits[name].old or number) for name, number in live.items()}
        self.desired, self.yardsticks = live, (_Yardstick.of(live), _Yardstick.of(least))
        self.before = {
            revision: {name: observed.get(revision, {}).get(name, _ABSENT) for name in self.limits}
            for revision in dict.fromkeys((group.target, *sorted(observed)))
        }
        self.asked = {v: {name: seen.asked or 0 for name, seen in of.items()} for v, of in self.before.items()}
        self.ready = {
            v: {name: min(seen.ready, seen.asked or 0) if seen.current else 0 for name, seen in of.items()}
            for v, of in self.before.items()
        }
        self.settled = all(seen.current for of in self.before.values() for seen in of.values())
        self.why: dict[tuple[str, str], str] = {}
        self.unavailable = {name: of.unavailable for name, of in self.limits.items()}
        self.surge = {name: of.surge for name, of in self.limits.items()}
        self.draining = False

    def drain_for(self, goal: str) -> None:
        """Take the limits that hold while pods of the goal can't get their devices."""
        exhausted = any(seen.without_devices for seen in self.before[goal].values())
        self.draining = exhausted and self.group.when_exhausted is WhenExhausted.DRAIN_FIRST
        for name, of in self.limits.items():
            self.unavailable[name] = max(of.unavailable, 1) if self.draining and of.new >= 2 else of.unavailable
            # A surge would take the device that another role's new pod needs.
            self.surge[name] = 0 if self.draining and self.unavailable[name] else of.surge

    def with_pods(self) -> list[str]:
        """Return the revisions that have pods, the target first."""
        return [revision for revision, asked in self.asked.items() if any(asked.values())]

    def total(self, name: str) -> int:
        return sum(asked[name] for asked in self.asked.values())

    def ceiling(self, name: str) -> int:
        return max(self.limits[name].old, self.limits[name].new) + self.surge[name]

    def has(self, revision: str, name: str) -> bool:
        """Whether a revision has a role that is still in the spec."""
        return not self.limits[name].removed and (revision == self.target or name in self.observed[revision])

    def counted(self, revision: str) -> list[str]:
        """Return the roles that a revision needs to serve."""
        if revision == self.target:
            return [name for name in self.desired if not self.limits[name].removed]
        has, asked = self.observed[revision], self.asked[revision]
        return [name for name in self.desired if name in has and (self.limits[name].old or asked[name])]

    def capacity(self, revision: str, yardstick: _Yardstick) -> int:
        # A target of which nothing is desired serves all that is desired.
        nothing = yardstick.unit if revision == self.target else 0
        ready = self.ready[revision]
        return min((ready[name] * yardstick.pod[name] for name in self.counted(revision)), default=nothing)

    def serves(self, revision: str) -> int:
        return self.capacity(revision, self.yardsticks[0])

    def ask(self, revision: str, name: str, replicas: int, why: str) -> None:
        if replicas != self.asked[revision][name]:
            self.asked[revision][name] = replicas
            self.ready[revision][name] = min(self.ready[revision][name], replicas)
            self.why[revision, name] = why

    def keeps(self, revision: str, unavailable: Mapping[str, int]) -> dict[str, int]:
        """Return how many pods of each role a revision has to keep, for floor and coherence."""
        mine, keep = self.ready[revision], {}
        for name, of in self.limits.items():
            elsewhere = sum(ready[name] for ready in self.ready.values()) - mine[name]
            keep[name] = max(0, min(mine[name], min(of.old, of.new) - unavailable[name] - elsewhere))
        counted = self.counted(revision)
        for stick in self.yardsticks:
            lacking = max(
                (unavailable[n] * pod for n, pod in stick.pod.items() if not self.limits[n].removed), default=0
            )
            elsewhere = sum(self.capacity(other, stick) for other in self.asked if other != revision)
            level = min(self.capacity(revision, stick), stick.unit - lacking - elsewhere)
            for name in counted:
                keep[name] = max(keep[name], -(-level // stick.pod[name]))
        return keep

    def give_up(self, revision: str, unavailable: Mapping[str, int], wanted: Mapping[str, int], why: str) -> None:
        """Remove up to the wanted pods of a revision, as far as what may be unavailable allows."""
        asked, keep = self.asked[revision], self.keeps(revision, unavailable)
        counted = self.counted(revision)
        paired = [name for name in counted if asked[name]]
        orphan = len(paired) < len(counted)
        if orphan or (not any(keep.values()) and any(wanted[name] >= asked[name] for name in paired)):
            wanted = asked.copy()
        else:
            keep |= {name: max(keep[name], 1) for name in paired}
        for name, number in asked.items():
            self.ask(revision, name, min(number, max(keep[name], number - wanted[name])), why)

    def replace(self, others: list[str], goal: str) -> None:
        """Remove pods of others that aren't needed, then such as keep the goal's from being asked for."""
        self.drain_for(goal)
        for other in others:
            self.give_up(other, dict.fromkeys(self.limits, 0), dict(self.asked[other]), "enough serve without them")
        for other in others:
            wanted = {}
            for name, of in self.limits.items():
                more = max(0, self.full(goal, name) - self.asked[goal][name])
                wanted[name] = max(0, self.total(name) + more - of.new - self.surge[name])
            self.give_up(other, self.unavailable, wanted, f"makes room for revision {goal}")

    def full(self, revision: str, name: str) -> int:
        """Return how many pods of a role a revision needs to serve all that is desired."""
        return self.desired[name] if name in self.counted(revision) else 0

    def fill(self, goal: str) -> None:
        """Ask for as many pods of the goal as the ceiling has room for."""
        keep = self.keeps(goal, self.unavailable)
        rooms = {name: self.ceiling(name) - self.total(name) + self.asked[goal][name] for name in self.counted(goal)}
        starved = any(
            seen.without_devices
            and self.asked[goal][name] - seen.without_devices < min(rooms[name], self.full(goal, name))
            for name, seen in self.before[goal].items()
            if name in rooms
        )
        for name, room in rooms.items():
            asked, full, least = self.asked[goal][name], self.full(goal, name), self.asked[goal][name]
            if self.draining and (self.why or starved):
                # A surge has the devices that others are drained for, or takes them next.
                least = min(asked, max(keep[name], int(self.limits[name].new > 1)))
            self.ask(goal, name, max(least, min(full, room)), f"{full} desired, and room for {room}")


def _roll(board: _Board) -> None:
    """Move to the target."""
    target = board.target
    for name, of in board.limits.items():
        board.ask(target, name, min(board.asked[target][name], of.new), f"{of.new} desired")
    while True:
        olds = [revision for revision in board.with_pods() if revision != target]
        if olds and not board.settled:
            return
        goal = target if len(olds) < 2 or len(board.limits) < 2 else _successor(board, olds)
        others = sorted((revision for revision in olds if revision != goal), key=board.serves)
        board.replace(others, goal)
        if goal == target or any(revision in board.with_pods() for revision in others):
            break
    board.fill(goal)


def _successor(board: _Board, olds: list[str]) -> str:
    """Return the old revision that replaces the others: it serves most, and has all roles that they must keep up."""
    floors = {
        name for name, of in board.limits.items() if min(of.old, of.new) and any(board.asked[v][name] for v in olds)
    }
    able = [revision for revision in olds if all(board.has(revision, name) for name in floors)]
    return max(able, key=board.serves, default=board.target)


def _recreate(board: _Board) -> None:
    """Move to the target, or stay, with no two revisions at a time."""
    stays = board.group.paused or board.group.held
    goal = _resident(board) if stays else board.target
    others = {revision: seen for revision, seen in board.before.items() if revision != goal}
    for revision in [] if stays else others:
        for name in board.limits:
            board.ask(revision, name, 0, f"must be gone before revision {goal} starts")
    gone = all(seen.current and not (seen.asked or seen.replicas) for of in others.values() for seen in of.values())
    for name, of in board.limits.items():
        if board.has(goal, name) and (gone or of.new < board.asked[goal][name]):
            board.ask(goal, name, of.new, f"{of.new} desired")


def _resident(board: _Board) -> str:
    """Return the revision that stays: one with pods, or else with Deployments, or else the target."""
    exist = (v for v, of in board.before.items() if any(seen.asked is not None for seen in of.values()))
    return next(iter([*board.with_pods(), *exist, board.target]))


def _stay(board: _Board) -> None:
    """Move no revision, but scale."""
    revisions = board.with_pods()
    if len(revisions) > 1:
        for orphan in revisions:
            counted = board.counted(orphan)
            missing = [name for name in counted if not board.asked[orphan][name]]
            if not missing or len(missing) == len(counted):
                continue
            if all(board.total(name) < board.limits[name].new + board.surge[name] for name in missing):
                for name in missing:
                    board.ask(orphan, name, 1, "its revision has pods in other roles")
            elif board.group.held and board.settled:
                goal = max((v for v in revisions if v != orphan), key=board.serves)
                board.replace([orphan], goal)
                board.fill(goal)
                return
    if len(revisions) > 1:
        _scale(board, revisions)
        return
    resident = _resident(board)
    for name, of in board.limits.items():
        if board.has(resident, name):
            board.ask(resident, name, of.new, f"{of.new} desired")


def _scale(board: _Board, revisions: list[str]) -> None:
    """Scale revisions that stand side by side: grow those that serve; shrink others first, unready pods first."""
    if not board.settled:  # who serves isn't known
        return
    keep = {v: {name: min(1, board.asked[v][name]) for name in board.counted(v)} for v in revisions}
    for stick in board.yardsticks:
        capacity = {v: board.capacity(v, stick) for v in revisions}
        all_of_it = max(stick.unit, sum(capacity.values()))
        for v in revisions:
            for name in keep[v]:
                # A revision's share of one whole.
                keep[v][name] = max(keep[v][name], -(-capacity[v] * stick.unit // (all_of_it * stick.pod[name])))
    weight = {v: board.serves(v) for v in revisions}
    if not any(weight.values()):
        weight = {v: sum(board.asked[v].values()) for v in revisions}
    for name, of in board.limits.items():
        having = [v for v in revisions if board.has(v, name)]
        serving = [v for v in having if weight[v]] or having
        was = {v: board.asked[v][name] for v in having}
        lacking = of.new - sum(board.asked[v][name] for v in serving)
        for _ in range(min(lacking, board.ceiling(name) - board.total(name)) if having else 0):
            v = max(serving, key=lambda v: Fraction(weight[v], board.asked[v][name] + 1))
            board.ask(v, name, board.asked[v][name] + 1, f"{of.new} desired")
        most, floor = of.new + board.surge[name] if of.new else 0, min(of.old, of.new) - of.unavailable
        while board.total(name) > most:
            unready = {v: board.asked[v][name] - board.ready[v][name] for v in having}
            spare = sum(board.ready[v][name] for v in having) > floor
            able = [v for v in having if board.asked[v][name] > keep[v].get(name, 0) and (unready[v] or spare)]
            if sum(board.asked[v][name] for v in serving) <= of.new:
                able = [v for v in able if v not in serving]
            if not able:
                break
            v = max(able, key=lambda v: (v not in serving, unready[v], Fraction(board.asked[v][name], was[v])))
            board.ask(v, name, board.asked[v][name] - 1, f"{of.new} desired")


def _in_order(board: _Board) -> tuple[Write, ...]:
    """Order the writes so that every prefix holds the invariants: new pods before old ones go, where they fit."""
    asked = {revision: {name: seen.asked or 0 for name, seen in of.items()} for revision, of in board.before.items()}
    totals = {name: sum(of[name] for of in asked.values()) for name in board.limits}
    # A third revision starts when one of two is gone.
    three = len(board.limits) > 1 and sum(any(asked[v].values()) or any(board.asked[v].values()) for v in asked) > 2

    def turn(change: tuple[str, str]) -> int:
        revision, name = change
        rise = board.asked[revision][name] - asked[revision][name]
        if rise < 0:
            return 1
        return 2 if three or totals[name] + rise > board.ceiling(name) else 0

    changed = [(v, name) for v, name in board.why if board.asked[v][name] != asked[v][name]]
    return tuple(Write(name, v, board.asked[v][name], board.why[v, name]) for v, name in sorted(changed, key=turn))


def _report(board: _Board) -> Plan:
    """Say where the group stands once the planned writes are made."""
    group, target, writes = board.group, board.target, _in_order(board)
    on_target = {name: seen for name, seen in board.before[target].items() if not board.limits[name].removed}
    short = [
        f"{name} ({min(seen.ready, seen.asked or 0)} of {board.limits[name].new})"
        for name, seen in on_target.items()
        if not (seen.current and seen.ready >= (seen.asked or 0) == board.limits[name].new)
    ]
    others = [v for v, of in board.before.items() if v != target and any(seen.asked for seen in of.values())]
    old_pods = [v for v, of in board.before.items() if v != target and any(s.asked or s.replicas for s in of.values())]
    done = board.settled and not (short or others or writes)
    deletions = tuple(
        Deletion(name, v)
        for v, of in board.before.items()
        for name, seen in of.items()
        if done and v != target and seen.asked == 0 and seen.replicas == 0 and seen.current
    )
    # A pod that fails for another reason keeps the clock running.
    only_devices = any(seen.without_devices for of in board.before.values() for seen in of.values()) and all(
        (seen.asked or 0) - seen.ready <= seen.without_devices for seen in on_target.values()
    )
    ready = f"{', '.join(short)} of revision {target} to be ready"
    if done:
        phase, message = Phase.COMPLETE, f"all pods are of revision {target} and ready"
    elif group.paused or group.held:
        phase = Phase.PAUSED if group.paused else Phase.HELD
        message = (
            f"{phase.value.lower()}, with pods of revision {', '.join(others)}" if others else f"waiting for {ready}"
        )
    elif only_devices and not writes:
        phase, message = Phase.WAITING_FOR_DEVICES, f"waiting for devices for {ready}"
        stuck = [name for name, of in board.limits.items() if of.new == 1 and not of.unavailable]
        if others and board.draining and stuck:
            message += (
                f"; one replica can't be drained without an outage: maxUnavailable 1 on {', '.join(stuck)} allows it"
            )
    else:
        phase = Phase.PROGRESSING
        if not board.settled:
            message = "waiting for the Deployment controller to act on the last writes"
        elif short and not (group.recreate and old_pods):
            message = f"waiting for {ready}"
        else:
            message = f"waiting for the pods of revision {', '.join(old_pods)} to go"
    return Plan(writes, deletions, done, phase, message)
