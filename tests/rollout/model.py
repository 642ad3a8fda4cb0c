"""A model of Deployments, pods and devices, and a checker that walks through all states that a rollout can reach.

The model knows nothing of how the planner decides: it plays the cluster, and states the invariants of design.md,
section 5, on its own. ``check`` explores every order of: the planner's writes, the operator's death after any of them,
the Deployment controller acting on one, pods turning ready, failing or dying, devices being given, and the user
changing the spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any, NamedTuple

from disaggregatedset.rollout import Group, Observed, Plan, Role, WhenExhausted, plan

Planner = Callable[[Group, Mapping[str, Mapping[str, Observed]]], Plan]


class Shape(NamedTuple):
    """A role's numbers, where surge and unavailable may be percentages."""

    replicas: int
    surge: Any = 1
    unavailable: Any = 0

    def in_pods(self) -> Shape:
        """Round as Deployments do: surge up, unavailable down, and where both come to 0, unavailable is 1."""
        surge = self.surge if isinstance(self.surge, int) else ceil(self.share(self.surge))
        unavailable = self.unavailable if isinstance(self.unavailable, int) else floor(self.share(self.unavailable))
        return Shape(self.replicas, surge, unavailable or int(not surge))

    def share(self, percentage: str) -> Fraction:
        return Fraction(percentage.removesuffix("%")) / 100 * self.replicas

    def __str__(self) -> str:
        return f"{self.replicas}@{self.surge}/{self.unavailable}"


class Spec(NamedTuple):
    """What the user wants from some moment on."""

    target: str
    roles: Mapping[str, Shape]
    paused: bool = False
    held: bool = False

    def __str__(self) -> str:
        roles = " ".join(f"{name}={shape}" for name, shape in self.roles.items())
        return f"{self.target}: {roles}" + " paused" * self.paused + " held" * self.held


@dataclass(frozen=True)
class Scenario:
    """A start at rest on the first spec's target, the specs that follow, and what may happen meanwhile.

    ``roles`` are the roles of each revision, where a role was added or removed; ``failures`` is how often a pod may
    fail, None without limit; ``lag`` lets the controller act later than the planner; ``devices`` limits the pods that
    can start.
    """

    specs: tuple[Spec, ...]
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failures: int | None = 0
    crashes: bool = True
    lag: bool = False
    devices: int | None = None
    when_exhausted: WhenExhausted = WhenExhausted.DRAIN_FIRST
    never: frozenset[tuple[str, str]] = frozenset()

    def __str__(self) -> str:
        failures = "any number of" if self.failures is None else self.failures
        devices = "" if self.devices is None else f", {self.devices} devices, {self.when_exhausted}"
        never = "".join(f", never {revision}.{role}" for revision, role in sorted(self.never))
        return " -> ".join(map(str, self.specs)) + f", {failures} failures" + ", lag" * self.lag + devices + never


class Pods(NamedTuple):
    """A Deployment and its pods; ``asked`` is None where it doesn't exist.

    A pod is pending without a device, starting with one, or ready. ``judged``: of so many pending ones the scheduler
    has said that there is no device for them.
    """

    asked: int | None = None
    ready: int = 0
    starting: int = 0
    pending: int = 0
    acted: bool = True
    judged: int = 0

    @property
    def wanted(self) -> int:
        return self.asked or 0

    @property
    def serving(self) -> int:
        return min(self.ready, self.wanted)

    @property
    def all(self) -> int:
        return self.ready + self.starting + self.pending

    def act(self, scarce: bool) -> Pods:
        """Do as the Deployment and ReplicaSet controllers: what is furthest from ready goes first."""
        more = self.wanted - self.all
        if more >= 0:
            return self._replace(
                starting=self.starting + more * (not scarce), pending=self.pending + more * scarce, acted=True
            )
        pending = max(0, self.pending + more)
        starting = max(0, self.starting + min(0, more + self.pending))
        return Pods(self.asked, min(self.ready, self.wanted), starting, pending, judged=min(self.judged, pending))


class State(NamedTuple):
    """Everything that there is: no memory but the recorded old desired."""

    spec: int
    old: tuple[tuple[str, int], ...] | None
    pods: tuple[Pods, ...]
    failures: int | None


class Move(NamedTuple):
    """A step to another state. ``fair``: it is the planner's, or must happen some time."""

    name: str
    to: State
    fair: bool = True
    plans: int = 0


class Broken(AssertionError):  # noqa: N818
    """An invariant doesn't hold; the message has the trace that leads there."""


@dataclass(frozen=True)
class Report:
    """What was explored."""

    states: int
    plans: int


class Model:
    """A scenario and a planner."""

    def __init__(self, scenario: Scenario, planner: Planner = plan) -> None:
        self.scenario, self.planner = scenario, planner
        self.revisions = list(dict.fromkeys(spec.target for spec in scenario.specs))
        self.roles = list(dict.fromkeys(name for spec in scenario.specs for name in spec.roles))
        self.keys = [(revision, role) for revision in self.revisions for role in self.roles]
        self.shapes = [{name: shape.in_pods() for name, shape in spec.roles.items()} for spec in scenario.specs]
        self.index = {key: number for number, key in enumerate(self.keys)}
        self.of_role = {r: [self.index[v, r] for v in self.revisions] for r in self.roles}

    def has(self, revision: str, role: str) -> bool:
        return role in self.scenario.roles.get(revision, self.roles)

    def start(self) -> State:
        spec = self.scenario.specs[0]
        pods = tuple(
            Pods(spec.roles[role].replicas, spec.roles[role].replicas)
            if revision == spec.target and role in spec.roles
            else Pods()
            for revision, role in self.keys
        )
        return State(0, None, pods, self.scenario.failures)

    # What the invariants are about.

    def shape(self, state: State, role: str) -> Shape:
        """A removed role has no settings any more; one pod more than it had must do."""
        return self.shapes[state.spec].get(role, Shape(0, 1, 0))

    def old(self, state: State, role: str) -> int:
        return self.shape(state, role).replicas if state.old is None else dict(state.old).get(role, 0)

    def desired(self, state: State, role: str) -> int:
        """The number by which a role's ready pods are measured, 0 where it doesn't count."""
        if role in self.scenario.specs[state.spec].roles:
            return self.shape(state, role).replicas
        return self.old(state, role) or 1

    def least(self, state: State, role: str) -> int:
        desired = self.desired(state, role)
        return min(desired, self.old(state, role) or desired)

    def needed(self, state: State, revision: str) -> list[str]:
        """The roles that a revision can't serve without."""
        spec = self.scenario.specs[state.spec]
        if revision == spec.target:
            return [role for role, shape in spec.roles.items() if shape.replicas]
        return [
            role
            for role in self.roles
            if self.has(revision, role)
            and self.desired(state, role)
            and (self.old(state, role) or state.pods[self.index[revision, role]].wanted)
        ]

    def coherent(self, state: State, needed: Mapping[str, list[str]], measure: Callable[[State, str], int]) -> Fraction:
        total = Fraction(0)
        for revision, roles in needed.items():
            ready = [Fraction(state.pods[self.index[revision, r]].serving, measure(state, r)) for r in roles]
            total += min(ready, default=Fraction(0))
        return total

    def serves(self, state: State, revision: str) -> bool:
        return all(state.pods[self.index[revision, role]].serving for role in self.needed(state, revision))

    def unavailable(self, state: State, role: str) -> int:
        shape = self.shape(state, role)
        drains = self.scenario.when_exhausted is WhenExhausted.DRAIN_FIRST and self.exhausted(state)
        return max(shape.unavailable, 1) if drains and shape.replicas >= 2 else shape.unavailable

    def check_write(self, seen: State, before: State, after: State, role: str) -> None:
        """Check floor, ceiling and coherence of a write, with the limits of the state that it was decided on."""
        numbers, shape = self.of_role[role], self.shape(seen, role)
        asked = [sum(state.pods[i].wanted for i in numbers) for state in (before, after)]
        if asked[1] > asked[0] and asked[1] > max(self.old(seen, role), shape.replicas) + shape.surge:
            raise Broken(f"ceiling: {asked[1]} {role} asked for")
        spec = self.scenario.specs[seen.spec]
        if spec.paused and len(self.with_pods(after)) > max(1, len(self.with_pods(before))):
            raise Broken("paused: another revision starts")
        ready = [sum(state.pods[i].serving for i in numbers) for state in (before, after)]
        stay = min(self.old(seen, role), shape.replicas) - self.unavailable(seen, role)
        if ready[1] < ready[0] and ready[1] < stay:
            raise Broken(f"floor: {ready[1]} {role} ready, {stay} must stay")
        needed = {revision: self.needed(before, revision) for revision in self.revisions}
        for measure in (self.desired, self.least):
            lacking = [Fraction(self.unavailable(seen, r), measure(seen, r)) for r in spec.roles if measure(seen, r)]
            bound = 1 - max(lacking, default=Fraction(1))
            was, now = (self.coherent(state, needed, measure) for state in (before, after))
            if now < was and now < bound:
                raise Broken(f"coherence: {now} of capacity left, {bound} must stay")

    def orphan(self, state: State) -> str | None:
        """A revision with pods in one role and none in another, though there is room for it.

        If the operator died in the middle of a plan, the floor may hold what is left over.
        """
        for revision in self.revisions:
            needed = self.needed(state, revision)
            missing = [role for role in needed if not state.pods[self.index[revision, role]].wanted]
            if len(missing) in (0, len(needed)) or (self.scenario.crashes and self.held(state, revision)):
                continue
            for role in missing:
                shape = self.shape(state, role)
                asked = sum(state.pods[i].wanted for i in self.of_role[role])
                if self.scenario.specs[state.spec].paused:
                    room = asked < shape.replicas + shape.surge
                else:
                    surge = shape.surge and not (shape.unavailable and self.scenario.devices is not None)
                    room = surge or shape.replicas > 1 or asked < max(self.old(state, role), shape.replicas)
                if room:
                    return f"no orphans: revision {revision} has no {role}"
        return None

    def with_pods(self, state: State) -> set[str]:
        return {revision for (revision, _), pods in zip(self.keys, state.pods, strict=True) if pods.wanted}

    def held(self, state: State, revision: str) -> bool:
        """Whether the floor forbids to take all of a revision's pods."""
        for role in self.roles:
            mine = state.pods[self.index[revision, role]].serving
            ready = sum(state.pods[i].serving for i in self.of_role[role])
            stay = min(self.old(state, role), self.shape(state, role).replicas) - self.unavailable(state, role)
            if mine and ready - mine < stay:
                return True
        return False

    def done(self, state: State) -> bool:
        spec = self.scenario.specs[state.spec]
        for (revision, role), pods in zip(self.keys, state.pods, strict=True):
            want = spec.roles[role].replicas if revision == spec.target and role in spec.roles else 0
            if pods.wanted != want or (revision == spec.target and pods.ready != want) or not pods.acted:
                return False
        return True

    def unfinished(self, state: State) -> str | None:
        """What is wrong with a state in which nothing can happen any more."""
        spec, scenario = self.scenario.specs[state.spec], self.scenario
        if spec.paused or spec.held:
            serving = {revision for revision in self.with_pods(state) if self.serves(state, revision)}
            for role in spec.roles:
                shape = self.shape(state, role)
                pods = {v: state.pods[self.index[v, role]].wanted for v in self.revisions}
                asked, serve = sum(pods.values()), sum(number for v, number in pods.items() if v in serving)
                # Revisions that stand side by side keep their shares, rounded up, and a pod of what they need to serve.
                most = shape.replicas + max(shape.surge, len(self.with_pods(state)) - 1) if shape.replicas else 0
                if not shape.replicas <= asked <= most:
                    return f"{asked} {role} asked for"
                room = max(self.old(state, role), shape.replicas) + shape.surge - (asked - serve)
                if any(self.has(v, role) for v in serving) and serve < min(shape.replicas, room):
                    return f"{serve} {role} of what serves asked for"
            return self.orphan(state) if spec.held else None
        if self.done(state):
            return None
        single = any(shape.replicas == 1 and not shape.unavailable for shape in self.shapes[state.spec].values())
        if scenario.devices is not None and (single or scenario.when_exhausted is WhenExhausted.WAIT):
            planned = self.planner(self.group(state), self.observe(state))
            return None if planned.waits_for_devices else "though it doesn't wait for devices"
        return "before the target is reached"

    # What can happen.

    def free(self, state: State) -> int:
        if self.scenario.devices is None:
            return 0
        return self.scenario.devices - sum(pods.ready + pods.starting for pods in state.pods)

    def exhausted(self, state: State) -> bool:
        return any(pods.judged for pods in state.pods)

    def group(self, state: State) -> Group:
        spec = self.scenario.specs[state.spec]
        return Group(
            target=spec.target,
            roles=tuple(Role(name, *shape) for name, shape in spec.roles.items()),
            old_replicas=None if state.old is None else dict(state.old),
            paused=spec.paused,
            held=spec.held,
            when_exhausted=self.scenario.when_exhausted,
        )

    def observe(self, state: State) -> dict[str, dict[str, Observed]]:
        observed: dict[str, dict[str, Observed]] = {}
        for (revision, role), pods in zip(self.keys, state.pods, strict=True):
            if self.has(revision, role):
                seen = Observed(pods.asked, pods.ready, pods.all, pods.acted, pods.judged)
                observed.setdefault(revision, {})[role] = seen
        return observed

    def put(self, state: State, number: int, pods: Pods, **changes: object) -> State:
        cells = (*state.pods[:number], pods, *state.pods[number + 1 :])
        return state._replace(pods=cells, **changes)

    def write(self, state: State, revision: str, role: str, replicas: int) -> State:
        number = self.index[revision, role]
        pods = state.pods[number]._replace(asked=replicas, acted=False)
        return self.put(state, number, pods if self.scenario.lag else pods.act(self.scenario.devices is not None))

    def planner_moves(self, state: State) -> Iterator[Move]:
        planned = self.planner(self.group(state), self.observe(state))
        if planned.done != (self.done(state) and not planned.writes):
            raise Broken(f"done is {planned.done}")
        now, names = state, []
        for number, write in enumerate(planned.writes, 1):
            before, now = now, self.write(now, write.revision, write.role, write.replicas)
            names.append(f"{write.revision}.{write.role}={write.replicas}")
            try:
                self.check_write(state, before, now, write.role)
            except Broken as broken:
                raise Broken(f"{broken}\n  planner: {' '.join(names)}") from None
            if number == len(planned.writes):
                yield Move(f"planner: {' '.join(names)}", now, plans=1)
            elif self.scenario.crashes:
                yield Move(f"planner, dies after: {' '.join(names)}", now, plans=1)

    def moves(self, state: State) -> Iterator[Move]:
        """What the cluster and the user can do."""
        scarce, free = self.scenario.devices is not None, self.free(state)
        for number, pods in enumerate(state.pods):
            name = ".".join(self.keys[number])
            if not pods.acted:
                yield Move(f"{name} acted on", self.put(state, number, pods.act(scarce)))
                continue
            if pods.pending and free > 0:
                judged = min(pods.judged, pods.pending - 1)
                to = pods._replace(pending=pods.pending - 1, starting=pods.starting + 1, judged=judged)
                yield Move(f"{name} gets a device", self.put(state, number, to))
            if pods.pending > pods.judged and free <= 0:
                yield Move(f"{name} has no device", self.put(state, number, pods._replace(judged=pods.pending)))
            if pods.starting and self.keys[number] not in self.scenario.never:
                to = pods._replace(starting=pods.starting - 1, ready=pods.ready + 1)
                yield Move(f"{name} ready", self.put(state, number, to))
            if pods.ready and state.failures != 0:
                left = None if state.failures is None else state.failures - 1
                to = pods._replace(ready=pods.ready - 1, starting=pods.starting + 1)
                yield Move(f"{name} fails", self.put(state, number, to, failures=left), fair=False)
                if scarce:
                    to = pods._replace(ready=pods.ready - 1, pending=pods.pending + 1)
                    yield Move(f"{name} dies", self.put(state, number, to, failures=left), fair=False)
        if state.spec + 1 < len(self.scenario.specs):
            yield Move(f"spec {self.scenario.specs[state.spec + 1]}", self.change(state), fair=False)

    def undone(self, state: State, planned: State) -> str | None:
        """A write that the next plan takes back, though nothing has happened but the first one."""
        again = planned._replace(pods=tuple(p if p.acted else p.act(scarce=False) for p in planned.pods))
        for write in self.planner(self.group(again), self.observe(again)).writes:
            was, now = (s.pods[self.index[write.revision, write.role]].wanted for s in (state, planned))
            if (now - was) * (write.replicas - now) < 0:
                return f"takes back what it planned: {write.revision}.{write.role} {was}, {now}, {write.replicas}"
        return None

    def change(self, state: State) -> State:
        """Go to the next spec, and record old desired where that starts a rollout."""
        was, now = self.scenario.specs[state.spec : state.spec + 2]
        old = None if self.done(state) else state.old
        if now.target != was.target and old is None:
            old = tuple((name, shape.replicas) for name, shape in was.roles.items())
        return state._replace(spec=state.spec + 1, old=old)


def check(scenario: Scenario, planner: Planner = plan) -> Report:
    """Explore all reachable states and check all invariants in each.

    Liveness is that no path of fair moves is endless, and that each ends where it should: on the target, or, where the
    last spec stays, scaled.
    """
    model = Model(scenario, planner)
    start = model.start()
    came: dict[State, tuple[State, str] | None] = {start: None}
    fair: dict[State, list[tuple[State, int]]] = {}

    def broken(state: State, what: object) -> Broken:
        names = [str(what)]
        at: State | None = state
        while at is not None:
            step = came[at]
            names.append(f"  {_show(model, at)}" + (f"  <- {step[1]}" if step else ""))
            at = step[0] if step else None
        return Broken(f"{scenario}\n" + "\n".join(reversed(names)))

    queue = [start]
    for state in queue:
        try:
            planned = list(model.planner_moves(state))
        except Broken as what:
            raise broken(state, what) from None
        moves = [*planned, *model.moves(state)]
        for move in moves:
            if move.to not in came:
                came[move.to] = state, move.name
                queue.append(move.to)
        fair[state] = [(move.to, move.plans) for move in moves if move.fair]
        last = state.spec + 1 == len(scenario.specs)
        spec = scenario.specs[state.spec]
        if planned and (spec.paused or spec.held) and (undone := model.undone(state, planned[-1].to)):
            raise broken(planned[-1].to, undone)
        if planned and scenario.failures == 0 and not scenario.lag and (orphan := model.orphan(planned[-1].to)):
            raise broken(planned[-1].to, orphan)
        if last and not fair[state] and (wrong := model.unfinished(state)):
            raise broken(state, f"liveness: nothing can happen any more, {wrong}")
    plans = _longest(fair)
    if plans is None:
        raise Broken(f"{scenario}\nliveness: the planner goes in circles")
    return Report(len(came), plans)


def _longest(fair: Mapping[State, list[tuple[State, int]]]) -> int | None:
    """Return the most plans on any fair path, None if one has no end."""
    longest: dict[State, int] = {}
    open_: set[State] = set()
    for root in fair:
        stack = [root]
        while stack:
            state = stack[-1]
            if state in longest:
                stack.pop()
                continue
            rest = [to for to, _ in fair[state] if to not in longest]
            if not rest:
                longest[state] = max((longest[to] + plans for to, plans in fair[state]), default=0)
                open_.discard(state)
                stack.pop()
            elif state in open_ and any(to in open_ for to in rest):
                return None
            else:
                open_.add(state)
                stack.extend(rest)
    return max(longest.values())


def _show(model: Model, state: State) -> str:
    """Show asked/ready of each Deployment, with pending pods and lag."""
    cells = []
    for (revision, role), pods in zip(model.keys, state.pods, strict=True):
        if pods.asked is not None:
            pending = f"({pods.pending} pending)" * bool(pods.pending)
            cells.append(f"{revision}.{role} {pods.ready}/{pods.asked}{pending}" + "*" * (not pods.acted))
    return f"[{state.spec}] " + "  ".join(cells)
