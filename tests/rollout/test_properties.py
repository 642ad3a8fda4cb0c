"""Random walks beyond the sizes that can be explored: up to eight roles, hundreds of replicas, percentages."""

from __future__ import annotations

import time
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disaggregatedset.rollout import plan
from tests.rollout.model import Model, Pods, Scenario, Shape, Spec, State

counts = st.integers(0, 3)
percentages = st.integers(0, 100).map("{}%".format)


@st.composite
def shapes(draw: st.DrawFn, most: int = 300, least: int = 0) -> Shape:
    replicas = draw(st.integers(least, 6) | st.integers(least, most))
    surge, unavailable = draw(st.tuples(counts, counts).filter(any) | st.tuples(percentages, percentages))
    return Shape(replicas, surge, unavailable)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """A -> B, maybe with roles added and removed, scaling, and a third revision."""
    names = [f"role-{number}" for number in range(draw(st.integers(1, 8)))]
    group = {name: draw(shapes()) for name in names}
    first = {name: shape for name, shape in group.items() if name == names[0] or draw(st.integers(0, 9))}
    kept = {name: shape for name, shape in group.items() if name == names[-1] or draw(st.integers(0, 9))}
    specs = [Spec("A", first), Spec("B", kept)]
    for _ in range(draw(st.integers(0, 2))):
        target = draw(st.sampled_from("ABC")) if kept == first else draw(st.sampled_from("BC"))
        roles = specs[-1].roles
        if draw(st.booleans()):
            roles = {name: shape._replace(replicas=draw(st.integers(0, 300))) for name, shape in roles.items()}
        specs.append(Spec(target, roles))
    roles_of = {spec.target: tuple(spec.roles) for spec in specs}
    return Scenario(tuple(specs), roles_of, failures=draw(st.integers(0, 6)), lag=draw(st.booleans()))


def happens(model: Model, state: State, random: Random) -> State:
    """Let something happen in the cluster, with many pods at once."""
    number = random.randrange(len(state.pods))
    pods = state.pods[number]
    if not pods.acted:
        return model.put(state, number, pods.act(scarce=False))
    if pods.ready and state.failures and random.random() < 0.2:
        failing = random.randint(1, pods.ready)
        to = pods._replace(ready=pods.ready - failing, starting=pods.starting + failing)
        return model.put(state, number, to, failures=state.failures - 1)
    turning = random.randint(0, pods.starting)
    return model.put(state, number, pods._replace(ready=pods.ready + turning, starting=pods.starting - turning))


def all_ready(state: State) -> State:
    return state._replace(pods=tuple(Pods(pods.asked, pods.wanted) for pods in state.pods))


def steps(model: Model, state: State) -> int:
    """Let all pods turn ready after each plan, to the end, and return how many plans that takes."""
    most = 2 * sum(pods.wanted for pods in state.pods) + 2 * sum(s.replicas for s in model.shapes[state.spec].values())
    for number in range(most + 10):
        moves = list(model.planner_moves(state))
        if not moves:
            assert model.done(state), model.planner(model.group(state), model.observe(state)).message
            return number
        state = all_ready(moves[-1].to)
    raise AssertionError("no end")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios(), st.randoms(use_true_random=False))
def test_random_walks_hold_the_invariants_and_end(scenario: Scenario, random: Random) -> None:
    model = Model(scenario)
    state = model.start()
    for _ in range(random.randrange(60)):
        if random.random() < 0.05 and state.spec + 1 < len(scenario.specs):
            state = model.change(state)
        # Every prefix of a plan is checked, and one of them is where the operator dies.
        elif random.random() < 0.4 and (moves := list(model.planner_moves(state))):
            state = (moves[-1] if random.random() < 0.7 else random.choice(moves)).to
        else:
            state = happens(model, state, random)
    while state.spec + 1 < len(scenario.specs):
        state = model.change(state)
    steps(model, all_ready(state))


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes(least=1), min_size=1, max_size=8))
def test_a_quarter_at_a_time_takes_few_steps(group: list[Shape]) -> None:
    roles = {f"role-{number}": Shape(shape.replicas, "25%", "25%") for number, shape in enumerate(group)}
    model = Model(Scenario((Spec("A", roles), Spec("B", roles))))
    assert steps(model, model.change(model.start())) <= 2 + 3 * len({shape.replicas for shape in group} | {1, 2})


def test_planning_is_fast() -> None:
    roles = {f"role-{number}": Shape(100 + 37 * number, "25%", "25%") for number in range(8)}
    model = Model(Scenario((Spec("A", roles), Spec("B", roles))))
    state = model.change(model.start())
    group, observed = model.group(state), model.observe(state)
    fastest = float("inf")
    for _ in range(50):
        began = time.perf_counter()
        plan(group, observed)
        fastest = min(fastest, time.perf_counter() - began)
    assert fastest < 0.002
