"""All reachable states of rollouts, and planners that are broken on purpose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import pytest

from disaggregatedset.rollout import Group, Observed, Plan, Role, Write, plan
from tests.rollout.families import FAMILIES, Family, rollout
from tests.rollout.model import Broken, Planner, Scenario, Shape, Spec, check

FULL = os.environ.get("DSET_MODEL_CHECK") == "full"

Seen = Mapping[str, Mapping[str, Observed]]


@pytest.mark.timeout(0 if FULL else 300)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name.replace(" ", "-"))
def test_all_reachable_states(family: Family) -> None:
    assert sum(check(scenario).states for scenario in family.select(FULL)) > 1000


def takes_asked_for_ready(group: Group, observed: Seen) -> Plan:
    return plan(
        group,
        {
            revision: {name: replace(seen, ready=seen.asked or 0) for name, seen in roles.items()}
            for revision, roles in observed.items()
        },
    )


def forgets_old_pods(group: Group, observed: Seen) -> Plan:
    """Count the ceiling for the new revision alone."""
    roles = tuple(Role(role.name, role.replicas, role.replicas, role.max_unavailable) for role in group.roles)
    return plan(replace(group, roles=roles), observed)


def plans_each_role_alone(group: Group, observed: Seen) -> Plan:
    plans = [
        plan(replace(group, roles=(role,)), {v: {role.name: roles[role.name]} for v, roles in observed.items()})
        for role in group.roles
    ]
    writes = tuple(write for part in plans for write in part.writes)
    return replace(plans[0], writes=writes, done=all(part.done for part in plans))


@pytest.mark.parametrize(
    ("planner", "invariant", "last"),
    [
        (takes_asked_for_ready, "floor: 1 p ready, 2 must stay", "planner: A.p=1"),
        (forgets_old_pods, "ceiling: 4 p asked for", "planner: B.p=2"),
        (plans_each_role_alone, "coherence: 1/2 of capacity left, 1 must stay", "planner: A.p=1"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_planner_is_caught_with_its_trace(planner: Planner, invariant: str, last: str) -> None:
    group = {"p": Shape(2), "d": Shape(2)}
    check(rollout(group, "B"))
    with pytest.raises(Broken) as caught:
        check(rollout(group, "B"), planner)
    trace = str(caught.value).splitlines()
    assert trace[0].startswith("A: p=2@1/0 d=2@1/0 -> B"), "names the scenario"
    assert trace[1] == "  [0] A.p 2/2  A.d 2/2", "starts at the start"
    assert invariant in trace
    assert last in trace[-1]


def test_a_planner_that_never_moves_is_caught() -> None:
    def idle(group: Group, observed: Seen) -> Plan:
        return replace(plan(group, observed), writes=())

    with pytest.raises(Broken, match="liveness: nothing can happen any more"):
        check(rollout({"p": Shape(1)}, "B"), idle)


def test_a_planner_that_goes_in_circles_is_caught() -> None:
    def restless(group: Group, observed: Seen) -> Plan:
        target = "A" if observed.get("B", {}).get("p", Observed()).asked else "B"
        return replace(plan(replace(group, target=target), observed), done=False)

    with pytest.raises(Broken, match="liveness: the planner goes in circles"):
        check(rollout({"p": Shape(1)}, "B"), restless)


def test_a_planner_that_takes_back_what_it_planned_is_caught() -> None:
    """Grow while what is ready is too little, and shrink where more is asked for than is desired."""

    def wavering(group: Group, observed: Seen) -> Plan:
        asked = sum(seen["p"].asked or 0 for seen in observed.values())
        ready = sum(seen["p"].ready for seen in observed.values())
        change = -1 if asked > 2 else int(ready < 2)
        a = observed["A"]["p"].asked or 0
        writes = (Write("p", "A", a + change, ""),) if group.held and change else ()
        return replace(plan(group, observed), writes=writes) if group.held else plan(group, observed)

    spec = {"p": Shape(2)}
    scenario = Scenario((Spec("A", spec), Spec("B", spec), Spec("B", spec, held=True)), failures=1)
    check(scenario)
    with pytest.raises(Broken, match=r"takes back what it planned: A\.p 2, 3, 2"):
        check(scenario, wavering)


def test_an_orphan_is_caught() -> None:
    def one_role_first(group: Group, observed: Seen) -> Plan:
        planned = plan(group, observed)
        return replace(planned, writes=planned.writes[:1])

    with pytest.raises(Broken, match="no orphans: revision B has no d"):
        check(rollout({"p": Shape(2), "d": Shape(2)}, "B"), one_role_first)


def test_a_planner_that_trusts_a_stale_status_is_caught() -> None:
    def trusting(group: Group, observed: Seen) -> Plan:
        return plan(group, {v: {n: replace(s, current=True) for n, s in of.items()} for v, of in observed.items()})

    spec = {"p": Shape(2, 0, 1)}
    scenario = Scenario((Spec("A", spec), Spec("B", spec)), failures=1, lag=True)
    check(scenario)
    with pytest.raises(Broken):
        check(scenario, trusting)
