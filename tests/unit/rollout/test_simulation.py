"""Whole sets through changes, failures and deaths of the operator, in a world without a cluster.

The operator here is ``plan_set`` and what a status remembers, nothing else; hypothesis plays people, the Deployment
controller, pods, time and death.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from disaggregatedset.api import DisaggregatedSetStatus
from disaggregatedset.reconcile.memory import must_be_written_first, recall, remember
from disaggregatedset.rollout import (
    Observed,
    Outcome,
    Policy,
    Revision,
    Running,
    Spec,
    State,
    WhenExhausted,
    coherent_capacity,
    fail,
    plan_set,
)
from tests.unit.builders import NOW
from tests.unit.rollout.sets import PODS, Set

DEADLINE = timedelta(seconds=100)


@dataclass
class Deployment:
    """A Deployment and its pods."""

    revision: Revision
    group: str
    asked: int
    pods: int = 0
    ready: int = 0
    acted: bool = False

    @property
    def serving(self) -> int:
        return min(self.ready, self.asked)

    def act(self) -> None:
        self.pods, self.ready, self.acted = self.asked, self.serving, True


class Died(Exception):  # noqa: N818
    """The operator has died between two writes."""


class Simulation:
    """A set in a cluster, and the operator that looks after it."""

    def __init__(self, wanted: Set) -> None:
        self.wanted, self.paused, self.generation, self.now = wanted, False, 1, NOW
        self.deployments: dict[tuple[str, str], Deployment] = {}
        self.history: dict[tuple[str, str], Revision] = {}
        self.status = DisaggregatedSetStatus()
        self.bad: set[str] = set()
        self.olds: list[dict[str, int]] = []
        self.outcomes: dict[str, Outcome] = {}
        self.moved = True

    # What people do.

    def change(self, wanted: Set, *, bad: tuple[str, ...] = (), paused: bool = False) -> None:
        self.wanted, self.paused, self.generation = wanted, paused, self.generation + 1
        self.bad |= {wanted.revision(group).name for group in bad if group in wanted.groups}

    @property
    def states(self) -> dict[str, State]:
        return recall(self.status)

    # What the cluster does.

    def pods(self, ready: int = 10**6) -> None:
        """Let every Deployment act, and some more pods of each turn ready; what has been good stays so."""
        self.bad -= {state.good for state in self.states.values() if state.good is not None}
        for of in self.deployments.values():
            of.act()
            if of.revision.name not in self.bad:
                of.ready = min(of.asked, of.ready + ready)

    # What the operator does.

    def reconcile(self, dies_after: int | None = None) -> None:
        self.history |= self.wanted.revisions
        running = [
            Running(
                of.group, role, of.revision.name, of.revision.identity, Observed(of.asked, of.ready, of.pods, of.acted)
            )
            for (role, _), of in self.deployments.items()
        ]
        policy = Policy(self.paused, DEADLINE)
        spec = Spec(policy, WhenExhausted.DRAIN_FIRST, "", self.generation, self.now)
        tiers = self.wanted.tiers
        self.outcomes = plan_set(tiers, self.history, running, self.states, spec, last="compute")
        for group, outcome in self.outcomes.items():
            if outcome.overdue:
                wanted = tiers[group].wanted.name
                state = fail(outcome.state, wanted, "NotReady", "words", retry="", now=self.now)
                self.outcomes[group] = replace(outcome, state=state)
        first = must_be_written_first(self.status, self.outcomes)
        steps = [] if first else list(self._writes())
        self.moved = bool(steps) or self._stored() != self.status
        for number, step in enumerate(steps):
            if number == dies_after:
                raise Died
            step()
        if len(steps) == dies_after:
            raise Died
        self.status = self._stored()

    def _stored(self) -> DisaggregatedSetStatus:
        made = DisaggregatedSetStatus(**remember(self.outcomes))
        return DisaggregatedSetStatus.model_validate(json.loads(made.model_dump_json(by_alias=True, exclude_none=True)))

    def _writes(self) -> Iterator[Callable[[], None]]:
        for group, outcome in self.outcomes.items():
            for write in outcome.writes:
                yield lambda w=write, g=group: self._scale(g, w.role, w.revision, w.replicas)
        for group, outcome in self.outcomes.items():
            for gone in (*outcome.plan.deletions, *outcome.removals):
                yield lambda d=gone, g=group: self._delete(g, d.role, d.revision)

    def _scale(self, group: str, role: str, name: str, replicas: int) -> None:
        revision = self.history[group, name]
        if not any(of.revision == revision for of in self.deployments.values()):
            self._check_start(group, revision)
        before = self.deployments.setdefault((role, name), Deployment(revision, group, 0, acted=True))
        was, serving = before.asked, before.serving
        before.asked, before.acted = replicas, False
        if group == "compute":
            self._check_limits(role, replicas - was, before.serving - serving)
        if group == "kv-coordinator" and replicas:
            self._check_coordinators(revision.identity)

    def _delete(self, group: str, role: str, name: str) -> None:
        gone = self.deployments.pop((role, name))
        if group == "compute" or any(
            of.group == group and of.revision.identity == gone.revision.identity for of in self.deployments.values()
        ):
            return
        for of in self.deployments.values():
            if of.group == "compute" and (of.asked or of.pods):
                assert of.revision.needs.get(group) != gone.revision.identity, f"{role} {name} is still needed"

    # What always holds.

    def _check_start(self, group: str, revision: Revision) -> None:
        """Check that what a revision waits for is ready when its first pod is asked for."""
        for other in self.wanted.tiers[group].waits_for:
            if (identity := revision.needs.get(other)) is not None:
                ready = sum(
                    of.serving
                    for of in self.deployments.values()
                    if of.group == other and of.revision.identity == identity
                )
                assert ready >= (PODS | self.wanted.pods)[other], f"{group} {revision.name} starts before {other}"

    def _check_limits(self, role: str, more: int, more_serving: int) -> None:
        mine = [of for (name, _), of in self.deployments.items() if name == role]
        new, (surge, unavailable) = (PODS | self.wanted.pods)[role], self.wanted.rollout
        olds = [old[role] for old in self.olds] or [new]
        asked, serving = sum(of.asked for of in mine), sum(of.serving for of in mine)
        if more > 0:
            assert asked <= max(*olds, new) + surge, f"ceiling: {asked} {role} asked for"
        if more_serving < 0:
            assert serving >= min(*olds, new) - unavailable, f"floor: {serving} {role} left"

    def _check_coordinators(self, identity: str) -> None:
        there = [
            of
            for of in self.deployments.values()
            if of.group == "kv-coordinator" and of.revision.identity == identity and (of.asked or of.pods)
        ]
        assert len(there) <= 1, "two coordinators"

    def look(self) -> None:
        """Note what is there when compute rests on one revision: a rollout is measured by it until it ends.

        One that turns back at once may not have ended for the operator, which then may go by either.
        """
        asked, desired = self.compute(), self.compute_desired()
        if len(asked) == 1 and all(pods >= desired[role] for role, pods in next(iter(asked.values())).items()):
            self.olds.append(next(iter(asked.values())))
        if self.states.get("compute", State()).record is None:
            self.olds = self.olds[-1:]

    def compute_desired(self) -> dict[str, int]:
        return {role: (PODS | self.wanted.pods)[role] for role in self.wanted.roles}

    def compute(self, count: str = "asked") -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for (role, name), of in self.deployments.items():
            if of.group == "compute":
                found.setdefault(name, dict.fromkeys(self.wanted.roles, 0))[role] = getattr(of, count)
        return {name: roles for name, roles in found.items() if any(roles.values())}

    def settle(self) -> None:
        """Let all that can turn ready do so, and time go by, until nothing moves any more."""
        quiet = 0
        for _ in range(400):
            self.look()
            self.reconcile()
            quiet = 0 if self.moved else quiet + 1
            if quiet > 5:
                return
            self.pods()
            self.now += timedelta(seconds=30)
        raise AssertionError(f"no end: {self.deployments} {self.status}")

    def check_rest(self) -> None:
        """Check that a set has come to where it should."""
        numbers = PODS | self.wanted.pods
        there = {key: of.asked for key, of in self.deployments.items() if of.asked}
        wanted = {
            (role, tier.wanted.name): numbers[role]
            for tier in self.wanted.tiers.values()
            for role in tier.roles
            if numbers[role]
        }
        bad = self.bad & {tier.wanted.name for tier in self.wanted.tiers.values()}
        # Pods may have had too little time, too.
        failing = bad | {state.failure.revision for state in self.states.values() if state.failure is not None}
        if not failing:
            assert there == wanted
            assert self.deployments.keys() <= wanted.keys() | {
                (r, t.wanted.name) for t in self.wanted.tiers.values() for r in t.roles
            }
            assert self.states == self.wanted.good
            assert all(outcome.complete for outcome in self.outcomes.values())
            return
        if self.states.get("compute", State()).good is not None:
            serving = [coherent_capacity(self.compute_desired(), ready) for ready in self.compute("serving").values()]
            assert serving == [1], "one revision serves all that is desired"
        for group, state in self.states.items():
            if state.good is not None:
                assert state.record is None, f"{group} is on its way"


CHANGES: dict[str, Callable[[Set, int], Set]] = {
    "model": lambda was, n: replace(was, model=f"m{n}", compute=f"c{n}", own={}),
    "flag": lambda was, n: replace(was, compute=f"c{n}"),
    "weights": lambda was, n: replace(was, own={**was.own, "weights": f"image {n} "}),
    "kv": lambda was, n: replace(was, own={**was.own, "kv-cache": f"image {n} "}),
    "coordinator": lambda was, n: replace(was, own={**was.own, "kv-coordinator": f"image {n} "}),
    "up": lambda was, n: replace(was, pods={**was.pods, "decode": 5, "prefill": 3}),
    "down": lambda was, n: replace(was, pods={**was.pods, "decode": 1}),
    "without kv": lambda was, n: replace(was, compute=f"c{n}", kv=False),
    "with kv": lambda was, n: replace(was, compute=f"c{n}", kv=True),
    "own kv": lambda was, n: replace(was, compute=f"c{n}", scoped=True),
    "nothing": lambda was, n: was,
}
_GROUPS = ("weights", "kv-coordinator", "kv-cache", "compute")
_changes = st.tuples(
    st.just("change"), st.sampled_from(sorted(CHANGES)), st.sampled_from([None, None, *_GROUPS]), st.booleans()
)
_reconciles = st.tuples(st.just("reconcile"), st.none() | st.integers(0, 4))
_run = st.tuples(st.just("run"), st.integers(1, 9))
_pods = st.tuples(st.just("pods"), st.integers(0, 2))
_time = st.tuples(st.just("time"), st.sampled_from([1, 50, 120]))
_back = st.tuples(st.just("back"))
_events = st.lists(st.one_of(_changes, _reconciles, _run, _run, _pods, _time, _back), max_size=30)


def _play(world: Simulation, events: list[tuple[Any, ...]]) -> None:
    specs = [world.wanted]
    for number, (what, *event) in enumerate(events, 2):
        world.look()
        if what == "change":
            change, bad, paused = event
            specs.append(CHANGES[change](world.wanted, number))
            world.change(specs[-1], bad=(bad,) if bad else (), paused=paused)
        elif what == "back":
            specs.append(specs[max(0, len(specs) - 2)])
            world.change(specs[-1])
        elif what == "pods":
            world.pods(*event)
        elif what == "run":
            for _ in range(*event):
                world.reconcile()
                world.pods(1)
                world.look()
        elif what == "time":
            world.now += timedelta(seconds=event[0])
        else:
            with contextlib.suppress(Died):
                world.reconcile(*event)
    world.change(replace(world.wanted))  # nobody leaves it paused
    world.settle()
    world.check_rest()


@settings(max_examples=100)
@given(
    scoped=st.booleans(),
    kv=st.booleans(),
    rollout=st.sampled_from([(1, 0), (0, 1), (2, 1)]),
    events=_events,
)
@example(  # the KV cache that was good is used by nobody when that of the next model fails
    scoped=False,
    kv=False,
    rollout=(1, 0),
    events=[("change", "with kv", None, False), ("run", 2), ("change", "model", "kv-cache", False)],
)
def test_a_set_that_was_good_survives_everything(
    scoped: bool, kv: bool, rollout: tuple[int, int], events: list[tuple[Any, ...]]
) -> None:
    world = Simulation(Set(scoped=scoped, kv=kv, rollout=rollout, pods={"prefill": 2, "decode": 3}))
    world.settle()
    world.check_rest()
    _play(world, events)


@settings(max_examples=40)
@given(events=_events)
def test_a_set_that_changes_while_it_comes_up(events: list[tuple[Any, ...]]) -> None:
    _play(Simulation(Set(pods={"prefill": 2, "decode": 3})), events)


@settings(max_examples=20)
@given(events=_events, wipes=st.lists(st.integers(0, 29), max_size=3))
def test_a_status_that_is_wiped_by_hand_only_costs_what_was_remembered(
    events: list[tuple[Any, ...]], wipes: list[int]
) -> None:
    """It still converges. What was good is not known any more, and what was desired is what is asked for."""
    world = Simulation(Set(pods={"prefill": 2, "decode": 3}))
    world.settle()
    world._check_limits = lambda *_: None  # type: ignore[method-assign]
    good_only = [(*event[:2], None, *event[3:]) if event[0] == "change" else event for event in events]
    specs = world.wanted
    for start, end in zip([0, *sorted(wipes)], [*sorted(wipes), 30], strict=True):
        _play(world, good_only[start:end])
        world.change(CHANGES["flag"](specs, 100 + end))
        for _ in range(3):
            world.reconcile()
            world.pods(1)
        world.status = DisaggregatedSetStatus()
    world.settle()
    world.check_rest()


@pytest.mark.parametrize("bad", [None, *_GROUPS])
@pytest.mark.parametrize("change", ["model", "flag", "weights", "kv", "coordinator", "own kv", "without kv"])
@pytest.mark.parametrize("rollout", [(1, 0), (0, 1)], ids=str)
def test_coherent_capacity_is_never_lost(change: str, bad: str | None, rollout: tuple[int, int]) -> None:
    """Step by step: pods turn ready one at a time, and after each the operator looks."""
    world = Simulation(Set(rollout=rollout, pods={"prefill": 2, "decode": 3}))
    world.settle()
    world.change(CHANGES[change](world.wanted, 2), bad=(bad,) if bad else ())
    least = 1 if rollout == (1, 0) else 1 / 2
    for step in range(400):
        world.look()
        world.reconcile()
        capacity = sum(coherent_capacity(world.compute_desired(), r) for r in world.compute("serving").values())
        assert capacity >= least, step
        world.pods(1)
        world.now += timedelta(seconds=10)
        if not world.moved and step > 60:
            break
    world.settle()
    world.check_rest()
