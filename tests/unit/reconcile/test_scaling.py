"""How many pods each role should have, and how a KV cache shrinks step by step, whatever happens meanwhile."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from disaggregatedset.api import DisaggregatedSetStatus, RoleStatus, Scaling
from disaggregatedset.api.base import MAX_REPLICAS
from disaggregatedset.reconcile.diagnose import Cause, Diagnoses, Diagnosis
from disaggregatedset.reconcile.scaling import (
    Pods,
    Scale,
    asked_for,
    desired_pods,
    moves,
    scaled_roles,
    scales,
    seen_of_cache,
    within,
)
from disaggregatedset.reconcile.view import ROLE_SCALER
from disaggregatedset.render import role_scaler
from disaggregatedset.rollout import Observed, Running
from tests.api.cases import changed
from tests.unit.builders import NOW, World, full_spec, live, make_set, observed, other

Object = dict[str, Any]


def _role_status(name: str, desired: int, scale_down: Object | None = None) -> Object:
    numbers = {"desired": desired, "replicas": desired, "ready": desired, "updated": desired, "revision": "r"}
    tier = {"weights": "weights", "kv-cache": "kvCache"}.get(name, "compute")
    return {"name": name, "tier": tier, **numbers} | ({"scaleDown": scale_down} if scale_down else {})


def _spec(of_role: Mapping[str, Object], spec: Object | None = None) -> Object:
    """Make a spec in which some roles have other fields."""
    made = full_spec() if spec is None else spec
    where = {"weights": made["weights"], "kv-cache": made["kvCache"]}
    where |= {role["name"]: role for role in made["compute"]["roles"]}
    for name, fields in of_role.items():
        where[name] |= fields
    return made


def _scales(
    of_role: Mapping[str, Object],
    asked: Mapping[str, int] | None = None,
    known: Mapping[str, int] | None = None,
    kv: Pods = Pods(),  # noqa: B008
) -> dict[str, Scale]:
    status = {"roles": [_role_status(name, n) for name, n in (known or {}).items()]}
    dset = make_set(_spec(of_role), **({"status": status} if known else {}))
    made = scales(dset, asked or {}, kv, NOW)
    return {name: scale for roles in made.values() for name, scale in roles.items()}


EXTERNAL, BOUNDED = {"mode": "External"}, {"mode": "External", "minReplicas": 2, "maxReplicas": 5}
HPA = {"mode": "HPA", "maxReplicas": 5, "metrics": [{"type": "Resource"}]}


@pytest.mark.parametrize(
    ("role", "asked", "known", "expected"),
    [
        # By the set, whatever anybody asks of the RoleScaler.
        ({"replicas": 4}, None, None, (4, 4)),
        ({"replicas": 4}, 9, 7, (4, 4)),
        ({"replicas": 0}, 9, 7, (0, 0)),
        # By the RoleScaler.
        ({"replicas": 4, "scaling": EXTERNAL}, 9, 7, (9, 9)),
        ({"replicas": 4, "scaling": EXTERNAL}, 0, 7, (0, 0)),
        ({"replicas": 4, "scaling": BOUNDED}, 9, 7, (9, 5)),
        ({"replicas": 4, "scaling": BOUNDED}, 0, 7, (0, 2)),
        ({"replicas": 4, "scaling": HPA}, 9, 7, (9, 5)),
        ({"replicas": 4, "scaling": HPA}, 3, 7, (3, 3)),
        # Where there is none, by what it was, so that nothing drains; and at first by the set.
        ({"replicas": 4, "scaling": EXTERNAL}, None, 7, (7, 7)),
        ({"replicas": 4, "scaling": EXTERNAL}, None, 0, (0, 0)),
        ({"replicas": 4, "scaling": EXTERNAL}, None, None, (4, 4)),
        ({"replicas": 9, "scaling": BOUNDED}, None, None, (9, 5)),
        ({"replicas": 4, "scaling": HPA}, None, None, (4, 4)),
        # By another role, which has 2 or what its RoleScaler says.
        ({"scaling": {"mode": "Follow", "follow": {"role": "weights", "ratio": "3:2"}}}, 9, 7, (3, 3)),
        (
            {"scaling": {"mode": "Follow", "maxReplicas": 2, "follow": {"role": "weights", "ratio": "3:2"}}},
            None,
            None,
            (3, 2),
        ),
        (
            {"scaling": {"mode": "Follow", "minReplicas": 8, "follow": {"role": "weights", "ratio": "1:9999"}}},
            None,
            None,
            (1, 8),
        ),
    ],
)
def test_who_decides(role: Object, asked: int | None, known: int | None, expected: tuple[int, int]) -> None:
    made = _scales(
        {"decode": role},
        {} if asked is None else {"decode": asked},
        None if known is None else {"decode": known},
    )["decode"]
    assert (made.asked, made.desired) == expected
    assert (made.replicas, made.step, made.waits, made.until_now) == (made.desired, None, "", None), "at once"


@pytest.mark.parametrize("order", list(itertools.permutations(["prefill", "decode", "encode"])))
def test_chains_in_any_order_in_one_pass(order: tuple[str, ...]) -> None:
    """Weights follow encode, which follows decode, which follows prefill, which an HPA scales."""
    follow = {"encode": ("decode", "1:3"), "decode": ("prefill", "2:1"), "prefill": None}
    spec = full_spec()
    [engine, *_] = spec["compute"]["roles"]
    spec["compute"]["roles"] = [engine | {"name": name} for name in order]
    of_role: dict[str, Object] = {
        name: {"scaling": {"mode": "Follow", "follow": {"role": link[0], "ratio": link[1]}} if link else HPA}
        for name, link in follow.items()
    }
    of_role["weights"] = {"scaling": {"mode": "Follow", "follow": {"role": "encode", "ratio": "1:2"}}}
    dset = make_set(_spec(of_role, spec))
    made = desired_pods(scales(dset, {"prefill": 5}, Pods(), NOW))
    assert {name: n for roles in made.values() for name, n in roles.items()} == {
        "prefill": 5,
        "decode": 10,
        "encode": 4,
        "weights": 2,
        "kv-cache": 3,
        "kv-coordinator": 1,
    }
    assert list(made) == ["weights", "kv-coordinator", "kv-cache", "compute"], "in the order in which they start"
    assert list(made["compute"]) == list(order)


def test_who_follows_the_kv_cache_goes_where_it_goes_without_waiting_for_it() -> None:
    of_role: dict[str, Object] = {
        "kv-cache": {"replicas": 2},
        "decode": {"scaling": {"mode": "Follow", "follow": {"role": "kv-cache", "ratio": "1:1"}}},
    }
    made = _scales(of_role, known={"kv-cache": 6}, kv=Pods(6, 6))
    assert (made["kv-cache"].replicas, made["kv-cache"].desired, made["decode"].replicas) == (5, 2, 2)


def test_the_longest_chain_is_followed_and_a_huge_ratio_is_no_number_that_no_role_may_have() -> None:
    spec = full_spec()
    [engine, *_] = spec["compute"]["roles"]
    chain = ["weights", *(f"r{n}" for n in range(8)), "kv-cache"]
    spec["compute"]["roles"] = [engine | {"name": name} for name in chain[1:-1]]
    ratio = {"ratio": "9999:1"}
    of_role = {
        name: {"scaling": {"mode": "Follow", "follow": {"role": leader, **ratio}}}
        for name, leader in itertools.pairwise(chain)
    }
    made = desired_pods(scales(make_set(_spec(of_role, spec)), {}, Pods(), NOW))
    assert made["weights"]["weights"] == MAX_REPLICAS
    assert made["compute"]["r7"] == 3 * 9999


def test_roles_that_scale() -> None:
    roles = scaled_roles(make_set())
    assert {group: list(of_group) for group, of_group in roles.items()} == {
        "weights": ["weights"],
        "kv-cache": ["kv-cache"],
        "compute": ["prefill", "decode"],
    }
    bare = changed(full_spec(), {"weights": None, "kvCache": None})
    assert list(scaled_roles(make_set(bare))) == ["compute"]


_COUNTS = st.integers(0, 20)
_BOUNDS = st.none() | _COUNTS


@st.composite
def _scalings(draw: st.DrawFn, leaders: list[str]) -> Object:
    """Any legal scaling of a role that may follow some others."""
    least, most = draw(_BOUNDS), draw(_BOUNDS)
    if least is not None and most is not None:
        least, most = min(least, most), max(least, most)
    bounds = {k: v for k, v in (("minReplicas", least), ("maxReplicas", most)) if v is not None}
    mode = draw(st.sampled_from(["Static", "External", "Follow"] if leaders else ["Static", "External"]))
    if mode == "Static":
        return {"mode": mode}
    if mode == "External":
        return {"mode": mode, **bounds}
    mine, others = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return {"mode": mode, "follow": {"role": draw(st.sampled_from(leaders)), "ratio": f"{mine}:{others}"}, **bounds}


@given(st.data())
def test_within_the_bounds_always_and_in_proportion(data: st.DataObject) -> None:
    names = data.draw(st.permutations(["weights", "kv-cache", "prefill", "decode"]))
    of_role = {
        name: {"replicas": data.draw(_COUNTS), "scaling": data.draw(_scalings(names[:n]))}
        for n, name in enumerate(names)
    }
    asked = data.draw(st.dictionaries(st.sampled_from(names), _COUNTS))
    known = data.draw(st.dictionaries(st.sampled_from(names), _COUNTS))
    ready = data.draw(_COUNTS)
    made = _scales(of_role, asked, known, Pods(ready, ready))
    for name, role in of_role.items():
        scale, scaling = made[name], Scaling.model_validate(role["scaling"])
        assert scale.scaling == scaling
        least = scaling.min_replicas or 0
        most = MAX_REPLICAS if scaling.max_replicas is None else scaling.max_replicas
        assert least <= scale.desired <= most
        assert scale.desired == min(max(scale.asked, least), most)
        assert scale.replicas >= scale.desired, "never fewer than are desired"
        if scaling.follow is not None:
            mine, others = map(int, scaling.follow.ratio.split(":"))
            leader = made[scaling.follow.role].desired
            assert (scale.asked - 1) * others < leader * mine <= scale.asked * others
    assert made["kv-coordinator"].replicas == 1


@given(_COUNTS, _BOUNDS, _BOUNDS)
def test_bounds_hold_and_change_nothing_within_them(asked: int, least: int | None, most: int | None) -> None:
    if least is None or most is None or least <= most:
        made = within(Scaling(mode="External", min_replicas=least, max_replicas=most), asked)
        assert (least or 0) <= made <= (MAX_REPLICAS if most is None else most)
        assert within(Scaling(), asked) == asked
        if (least or 0) <= asked <= (MAX_REPLICAS if most is None else most):
            assert made == asked


# What is seen.


def test_what_role_scalers_ask_for() -> None:
    world = World(make_set())
    assert asked_for(world.view()) == {}
    scaler = live(role_scaler(world.dset, world.tiers["compute"].tier, "decode", Scaling(), 4))
    world.children[ROLE_SCALER].append(scaler)
    assert asked_for(world.view()) == {"decode": 4}
    del scaler["metadata"]["labels"]["disaggregatedset.dev/role"]
    assert asked_for(world.view()) == {"decode": 4}, "by its name: anybody may edit labels"


def _waiting(world: World, revision: str, count: int, cause: Cause = Cause.UNSCHEDULABLE) -> Diagnoses:
    return Diagnoses(revisions={("kv-cache", revision): Diagnosis(cause, "", {cause: count})})


def test_what_is_seen_of_the_cache() -> None:
    def seen(world: World, waiting: int = 0, revision: str = "", cause: Cause = Cause.UNSCHEDULABLE) -> Pods:
        revision = revision or world.tiers["kv-cache"].revision
        return seen_of_cache(world.view(), _waiting(world, revision, waiting, cause))

    def running(*of: Observed) -> World:
        world = World(make_set())
        for n, one in enumerate(of):
            tier = world.tiers["kv-cache"]
            world.run(tier if not n else other(tier, f"old{n}"), "kv-cache", one)
        return world

    assert seen(World(make_set())) == Pods()
    assert seen(running(observed(3))) == Pods(3, 3, 3)
    assert seen(running(observed(3, ready=1))) == Pods(1, 3, 3), "any of them may hold something"
    assert seen(running(observed(3, ready=1)), 1) == Pods(1, 2, 3)
    assert seen(running(observed(3, ready=1)), 1, cause=Cause.DEVICES_EXHAUSTED) == Pods(1, 2, 3)
    assert seen(running(observed(3, ready=1)), 1, cause=Cause.CRASH_LOOP) == Pods(1, 3, 3)
    assert seen(running(observed(3, ready=2)), 3) == Pods(2, 2, 3), "it was looked at a while ago"
    assert seen(running(observed(3, ready=5)), 3) == Pods(3, 3, 3)
    assert seen(running(observed(3, current=False))) == Pods(0, 3, 3), "nobody knows yet"
    assert seen(running(observed(2), observed(0))) == Pods(2, 2, 2)
    assert seen(running(observed(2), observed(3)), 1) == Pods(5, 5), "both revisions of one cache"
    assert seen(running(observed(1, ready=0), observed(3)), 1) == Pods(3, 3), (
        "no surge takes the place of what is there"
    )
    other_model = World(make_set())
    tier = other_model.tiers["kv-cache"]
    other_model.run(tier, "kv-cache", observed(3, ready=0))
    other_model.run(other(tier, "old", model_revision="m"), "kv-cache", observed(3))
    assert seen(other_model, 3) == Pods(3, 3), "the caches of two models: the one that has more"
    elsewhere = World(make_set()).run_all(kv_cache=observed(2))
    assert seen(elsewhere, 1, elsewhere.tiers["compute"].revision) == Pods(2, 2, 2)


# Shrinking step by step, seen at one moment.

STEPS = """
- {at: 3, goal: 3, ready: 3, then: 3}
- {at: 6, goal: 2, ready: 6, then: 5, stepped: 0, look: 300}
- {at: 6, goal: 2, ready: 5, then: 6, waits: until all of them are ready}
- {at: 6, goal: 2, ready: 6, ago: 299, then: 6, stepped: -299, look: 1, waits: "due at 2026-01-02T00:00:01Z"}
- {at: 6, goal: 2, ready: 6, ago: 300, then: 5, stepped: 0, look: 300}
- {at: 6, goal: 2, ready: 5, ago: 300, then: 6, stepped: -300, waits: until all of them are ready}
- {at: 6, goal: 2, ready: 6, max: 3, then: 3, stepped: 0, look: 300}
- {at: 6, goal: 2, ready: 6, max: 9, then: 2, stepped: 0}
- {at: 3, goal: 2, ready: 3, then: 2, stepped: 0}
- {at: 1, goal: 0, ready: 1, then: 0, stepped: 0}
# It grows at once, and remembers its last step.
- {at: 3, goal: 6, ready: 1, then: 6}
- {at: 3, goal: 6, ready: 3, ago: 1, then: 6, stepped: -1}
- {at: 0, goal: 3, ready: 0, then: 3}
# Pods without a node hold nothing, nor do pods that nobody has asked for yet.
- {at: 6, goal: 2, ready: 4, placed: 4, then: 3, stepped: 0, look: 300}
- {at: 6, goal: 2, ready: 3, placed: 4, then: 4, waits: until all of them are ready}
- {at: 6, goal: 2, ready: 4, placed: 4, ago: 9, then: 4, stepped: -9, look: 291, waits: is due at}
- {at: 6, goal: 2, ready: 1, placed: 1, then: 2}
- {at: 6, goal: 2, ready: 0, placed: 0, then: 2}
- {at: 6, goal: 2, ready: 6, placed: 7, then: 5, stepped: 0, look: 300}
# A step that was decided, but not made until now.
- {at: 5, goal: 2, ready: 6, asked: 6, ago: 300, then: 5, stepped: 0, look: 300}
- {at: 5, goal: 2, ready: 6, asked: 6, ago: 1, then: 5, stepped: 0, look: 300}
- {at: 5, goal: 5, ready: 6, asked: 6, ago: 1, then: 5, stepped: 0}
- {at: 5, goal: 2, ready: 5, asked: 5, ago: 300, then: 4, stepped: 0, look: 300}
# Those without a node go before the next step: one may get a node meanwhile.
- {at: 5, goal: 2, ready: 4, placed: 4, asked: 5, then: 4, waits: until all of them are ready}
"""


@pytest.mark.parametrize("case", yaml.safe_load(STEPS), ids=str)
def test_one_step(case: Object) -> None:
    at, ago = case["at"], case.get("ago")
    spec = _spec({"kv-cache": {"replicas": case["goal"], "scaleDown": {"maxStep": case.get("max", 1)}}})
    down = {"replicas": at, "lastStepAt": _time(-ago)} if ago is not None else None
    status = {"roles": [_role_status("kv-cache", at, down)]}
    pods = Pods(case["ready"], case.get("placed", max(at, case["ready"])), case.get("asked"))
    made = scales(make_set(spec, status=status), {}, pods, NOW)["kv-cache"]["kv-cache"]
    assert (made.desired, made.replicas, made.until_now) == (case["goal"], case["then"], at)
    assert (made.step and made.step.last_step_at) == (_time(case["stepped"]) if "stepped" in case else None)
    assert made.step is None or made.step.replicas == case["then"]
    assert made.look_again == (timedelta(seconds=case["look"]) if "look" in case else None)
    assert case.get("waits", "") in made.waits
    assert bool(made.waits) == (case["then"] != case["goal"])
    assert moves({"kv-cache": {"kv-cache": made}}) == (case["then"] != at)


def _time(seconds: int) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def test_no_step_comes_early_because_a_status_keeps_whole_seconds() -> None:
    now, spec = NOW + timedelta(milliseconds=900), _spec({"kv-cache": {"replicas": 2}})
    status: Object = {"roles": [_role_status("kv-cache", 6)]}
    made = scales(make_set(spec, status=status), {}, Pods(6, 6, 6), now)["kv-cache"]["kv-cache"]
    assert made.step is not None
    assert (made.replicas, made.step.last_step_at) == (5, _time(1))
    assert made.look_again == timedelta(seconds=300, milliseconds=100)


def test_words_about_a_role_that_shrinks() -> None:
    of_role = {"kv-cache": {"replicas": 2, "scaleDown": {"maxStep": 2, "periodSeconds": 60}}}
    why = "shrinks to 2 by 2 every 60 s, to keep what it can of the cache; "
    made = _scales(of_role, known={"kv-cache": 6}, kv=Pods(6, 6))["kv-cache"]
    assert made.waits == f"{why}now at 4, the next step is due at 2026-01-02T00:01:00Z"
    made = _scales(of_role, known={"kv-cache": 6}, kv=Pods(5, 6))["kv-cache"]
    assert made.waits == f"{why}now at 6, the next step waits until all of them are ready"


def test_only_the_cache_moves_step_by_step() -> None:
    made = _scales({"decode": {"replicas": 1}}, known={"decode": 6, "weights": 9, "kv-cache": 3}, kv=Pods(3, 3))
    assert made["decode"].replicas == 1
    assert not moves({"compute": made})


def test_a_new_cache_needs_no_status_first() -> None:
    made = _scales({})["kv-cache"]
    assert (made.replicas, made.until_now) == (3, None)
    assert not moves({"kv-cache": {"kv-cache": made}})


def test_a_cache_whose_status_is_lost_is_where_its_pods_are() -> None:
    """As after a restore; or where somebody takes the tier out of the spec and puts it back, smaller."""
    made = _scales({"kv-cache": {"replicas": 2}}, kv=Pods(6, 6))["kv-cache"]
    assert (made.replicas, made.until_now) == (5, 6)
    assert moves({"kv-cache": {"kv-cache": made}}), "it is written down first"
    made = _scales({"kv-cache": {"replicas": 2}}, known={"weights": 2}, kv=Pods(6, 6))["kv-cache"]
    assert (made.replicas, made.until_now) == (5, 6)


# Shrinking step by step, as it goes: all that may happen in a few turns, one after another.

PERIOD, MAX_STEP = 100, 1


@dataclass(frozen=True)
class State:
    """A cluster with a KV cache, and what the operator has stored.

    ``ready`` and ``starting`` pods have a node, ``unassigned`` ones have none, and the rest of what is ``asked`` for is
    not there yet. ``stored`` is the status of the role; ``at`` is how many pods it was decided last that there are to
    be, and ``lost`` when it was decided last to take away pods with a node.
    """

    goal: int
    asked: int | None = None
    ready: int = 0
    starting: int = 0
    unassigned: int = 0
    known: int = 0  # unassigned, as it was when the pods were last looked at
    fresh: int = 0  # have had a node for a moment only, and hold nothing yet
    stored: RoleStatus | None = None
    at: int = 0
    now: datetime = NOW
    lost: datetime | None = None


@functools.cache
def _world(goal: int) -> World:
    down = {"maxStep": MAX_STEP, "periodSeconds": PERIOD}
    return World(make_set(_spec({"kv-cache": {"replicas": goal, "scaleDown": down}})))


def _decided(state: State) -> Scale:
    world = _world(state.goal)
    dset, tier = world.dset, world.tiers["kv-cache"]
    if state.stored is not None:
        dset = dset.model_copy(update={"status": DisaggregatedSetStatus(roles=[state.stored])})
    seen = Observed(state.asked, state.ready, state.asked or 0)
    world.running = [] if state.asked is None else [Running(tier.group, "kv-cache", tier.revision, tier.identity, seen)]
    pods = seen_of_cache(world.view(), _waiting(world, tier.revision, state.known))
    return scales(dset, {}, pods, state.now)["kv-cache"]["kv-cache"]


def _reconciled(state: State, *, dies_after: int = 9) -> State:
    """Play the reconciler: status first where it has to be, then the Deployment, then the status."""
    scale = _decided(state)
    state = _judged(state, scale)
    numbers = _role_status("kv-cache", scale.desired)
    stored = RoleStatus.model_validate(numbers).model_copy(update={"scale_down": scale.step})
    writes = ["status"] if moves({"kv-cache": {"kv-cache": scale}}) else ["deployment", "status"]
    for write in writes[:dies_after]:
        state = replace(state, stored=stored) if write == "status" else _scaled(state, scale.replicas)
    return state


def _judged(state: State, scale: Scale) -> State:
    """Check a decision against all that is true, not only what is known."""
    assert scale.replicas >= state.goal == scale.desired
    assert scale.replicas <= max(state.at, state.goal, state.asked or 0)
    held = min(state.at, max(state.goal, (state.asked or 0) - state.unassigned))
    if scale.replicas < held:
        assert held - scale.replicas <= MAX_STEP, f"from {held} to {scale.replicas} at once"
        assert state.lost is None or state.lost + timedelta(seconds=PERIOD) <= state.now, "too early"
        assert not state.starting, "while one is not ready"
        state = replace(state, lost=state.now)
    return replace(state, at=scale.replicas)


def _scaled(state: State, replicas: int) -> State:
    """Play the ReplicaSet: it removes pods without a node first, then those that aren't ready."""
    pods: dict[str, Any] = {"unassigned": state.unassigned, "starting": state.starting, "ready": state.ready}
    excess = max(0, sum(pods.values()) - replicas)
    assert excess - state.unassigned - state.fresh <= MAX_STEP, "more than one step at once"
    for kind, number in pods.items():
        gone = min(excess, number)
        pods[kind] = number - gone
        excess -= gone
        if gone and kind != "unassigned":
            assert state.stored is None or _position(state.stored) == replicas, "a pod goes before the status says so"
    more = max(0, replicas - sum(pods.values()))
    pods["starting"] += more
    return replace(state, asked=replicas, fresh=0, known=min(state.known, pods["unassigned"]), **pods)


def _position(stored: RoleStatus) -> int:
    return stored.scale_down.replicas if stored.scale_down else stored.desired


def _happens(state: State) -> Iterator[tuple[str, State]]:
    """All that may happen next, as far as it matters."""
    for goal in (1, 2, 4):
        if goal != state.goal:
            yield f"goal {goal}", replace(state, goal=goal)
    if state.starting:
        yield "ready", replace(state, ready=state.ready + 1, starting=state.starting - 1)
        without = state.unassigned + 1
        yield "unassigned", replace(state, starting=state.starting - 1, unassigned=without, known=without)
        yield "unassigned, nobody looks", replace(state, starting=state.starting - 1, unassigned=without)
    if state.ready:
        yield "unready", replace(state, ready=state.ready - 1, starting=state.starting + 1)
    if state.unassigned:
        yield (
            "assigned",
            replace(
                state,
                ready=state.ready + 1,
                unassigned=state.unassigned - 1,
                fresh=state.fresh + 1,
                known=min(state.known, state.unassigned - 1),
            ),
        )
    yield "later", replace(state, now=state.now + timedelta(seconds=PERIOD))
    yield "soon", replace(state, now=state.now + timedelta(seconds=PERIOD - 1))
    yield "dies", _reconciled(state, dies_after=1)
    yield "status lost", replace(state, stored=None, at=state.asked or 0)


def _settled(state: State) -> State:
    """Let pods become ready, and time pass, until nothing is left to do."""
    for _ in range(40):
        before = state
        state = replace(
            state,
            ready=state.ready + state.starting + state.unassigned,
            starting=0,
            unassigned=0,
            known=0,
            fresh=state.fresh + state.unassigned,
            now=state.now + timedelta(seconds=PERIOD),
        )
        state = _reconciled(state)
        if replace(before, now=state.now, lost=state.lost, known=0, fresh=0) == state:
            return state
    raise AssertionError(f"no rest: {state}")


def _timeless(state: State) -> Any:
    """Return what of a state matters for what comes next."""
    stepped = state.stored and state.stored.scale_down and state.stored.scale_down.last_step_at
    passed = [
        min(timedelta(seconds=PERIOD), state.now - datetime.fromisoformat(str(moment))) if moment else None
        for moment in (state.lost, stepped)
    ]
    position = state.stored and (_position(state.stored), state.stored.scale_down is None)
    return (
        state.goal,
        state.at,
        state.asked,
        state.ready,
        state.starting,
        state.unassigned,
        state.known,
        state.fresh,
        position,
        *passed,
    )


def test_whatever_happens_it_shrinks_step_by_step_and_gets_there() -> None:
    """Explore all states that some turns can lead to; each decision is judged."""
    start = _settled(State(goal=4))
    assert (start.asked, start.ready) == (4, 4)
    frontier: list[tuple[State, tuple[str, ...]]] = [(start, ())]
    seen = {_timeless(start)}
    for _ in range(5):
        reached = []
        for state, path in frontier:
            for what, after in _happens(state):
                if what == "status lost" and state.lost is not None:
                    continue  # with it goes when the last step was
                try:
                    turned = [after, _reconciled(after), _reconciled(_reconciled(after))]
                except AssertionError as error:
                    raise AssertionError(f"{path} {what}: {error}: {after}") from error
                for now in turned:
                    if (key := _timeless(now)) not in seen:
                        seen.add(key)
                        reached.append((now, (*path, what)))
        frontier = reached
    assert len(seen) > 500
    for state, path in frontier[::7]:
        rest = _settled(state)
        assert (rest.asked, rest.ready) == (rest.goal, rest.goal), path
