"""The cases that design.md names, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from disaggregatedset.rollout import Deletion, Group, Observed, Phase, Plan, Role, WhenExhausted, Write, plan


def group(target: str = "B", /, old: Mapping[str, int] | None = None, **options: Any) -> Group:
    """Roles are given as name=(replicas, surge, unavailable), all else as the group's own options."""
    roles = tuple(Role(name, *options.pop(name)) for name in list(options) if isinstance(options[name], tuple))
    return Group(target, roles, {role.name: role.replicas for role in roles} if old is None else old, **options)


def seen(**revisions: Mapping[str, int | tuple[int, int] | Observed | None]) -> dict[str, dict[str, Observed]]:
    """Deployments by revision and role: pods asked for, all ready; or (ready, asked for)."""

    def observed(value: int | tuple[int, int] | Observed | None) -> Observed:
        if isinstance(value, Observed):
            return value
        ready, asked = value if isinstance(value, tuple) else (value or 0, value)
        return Observed(asked, ready, asked or 0)

    return {revision: {name: observed(value) for name, value in of.items()} for revision, of in revisions.items()}


def asks(planned: Plan) -> list[str]:
    return [f"{write.revision}.{write.role}={write.replicas}" for write in planned.writes]


def rollout(wanted: Group, start: dict[str, dict[str, Observed]]) -> list[str]:
    """Let all pods turn ready after each plan, and return the plans."""
    plans = []
    while True:
        planned = plan(wanted, start)
        if not planned.writes:
            assert planned.done, planned.message
            return plans
        plans.append(" ".join(asks(planned)))
        for write in planned.writes:
            start.setdefault(write.revision, {})[write.role] = Observed(write.replicas, write.replicas, write.replicas)


NAMED = {
    "1 prefill : 2 decode at 0/1 keeps serving until the one prefill pod has to go": (
        group(p=(1, 0, 1), d=(2, 0, 1)),
        ["A.d=1 B.d=1", "A.p=0 A.d=0 B.p=1 B.d=2"],
    ),
    "5:2 at 0/1": (
        group(p=(5, 0, 1), d=(2, 0, 1)),
        ["A.p=4 A.d=1 B.p=1 B.d=1", "A.p=3 B.p=2", "A.p=2 B.p=3", "A.p=1 B.p=4", "A.p=0 A.d=0 B.p=5 B.d=2"],
    ),
    "1:1 at 0/1 is the outage that the user allowed": (
        group(p=(1, 0, 1), d=(1, 0, 1)),
        ["A.p=0 A.d=0 B.p=1 B.d=1"],
    ),
    "1:1 at 1/0": (group(p=(1, 1, 0), d=(1, 1, 0)), ["B.p=1 B.d=1", "A.p=0 A.d=0"]),
    "4:8 at 1/0 moves in lockstep": (
        group(p=(4, 1, 0), d=(8, 1, 0)),
        [
            "B.p=1 B.d=1",
            "A.d=7 B.d=2",
            "A.p=3 A.d=6 B.p=2 B.d=3",
            "A.d=5 B.d=4",
            "A.p=2 A.d=4 B.p=3 B.d=5",
            "A.d=3 B.d=6",
            "A.p=1 A.d=2 B.p=4 B.d=7",
            "A.d=1 B.d=8",
            "A.p=0 A.d=0",
        ],
    ),
    "percentages": (
        group(p=(4, "25%", "25%"), d=(8, "25%", "25%")),
        ["A.p=3 A.d=6 B.p=2 B.d=4", "A.p=1 A.d=2 B.p=4 B.d=8", "A.p=0 A.d=0"],
    ),
    "a role grows while another shrinks": (
        group(old={"p": 2, "d": 4}, p=(4, 1, 0), d=(2, 1, 0)),
        ["B.p=3 A.d=2 B.d=2", "A.p=1 A.d=1 B.p=4", "A.p=0 A.d=0"],
    ),
    "a role at zero": (group(p=(2, 1, 0), d=(0, 1, 0)), ["B.p=1", "A.p=1 B.p=2", "A.p=0"]),
    "a role added": (
        group(old={"p": 2}, p=(2, 1, 0), d=(2, 1, 0)),
        ["B.p=1 B.d=2", "A.p=1 B.p=2", "A.p=0"],
    ),
    "a role removed": (
        group(old={"p": 2, "d": 2}, p=(2, 1, 0)),
        ["B.p=1", "A.p=1 A.d=1 B.p=2", "A.p=0 A.d=0"],
    ),
    "a role renamed": (
        group(old={"p": 2, "d": 2}, p=(2, 1, 0), e=(2, 1, 0)),
        ["B.p=1 B.e=2", "A.p=1 A.d=1 B.p=2", "A.p=0 A.d=0"],
    ),
    "one role": (group(w=(3, 1, 0)), ["B.w=1", "A.w=2 B.w=2", "A.w=1 B.w=3", "A.w=0"]),
}


@pytest.mark.parametrize(("wanted", "plans"), NAMED.values(), ids=NAMED.keys())
def test_named_rollout(wanted: Group, plans: list[str]) -> None:
    assert rollout(wanted, seen(A=wanted.old_replicas or {})) == plans


def test_first_rollout_asks_for_everything_at_once() -> None:
    assert rollout(group(p=(4, 1, 0), d=(8, 1, 0)), {}) == ["B.p=4 B.d=8"]


def test_scaling_at_rest_takes_effect_at_once() -> None:
    wanted = Group("A", (Role("p", 6), Role("d", 2)))
    assert asks(plan(wanted, seen(A={"p": 4, "d": 8}))) == ["A.p=6", "A.d=2"]


def test_scaling_up_in_mid_rollout_takes_effect_at_the_next_step() -> None:
    wanted = group(old={"p": 4, "d": 8}, p=(4, 1, 0), d=(12, 1, 0))
    assert asks(plan(wanted, seen(A={"p": 3, "d": 6}, B={"p": 2, "d": (2, 3)}))) == ["B.d=7"]


def test_scaling_down_in_mid_rollout_takes_effect_though_nothing_new_is_ready() -> None:
    wanted = group(old={"p": 4, "d": 8}, p=(4, 1, 0), d=(4, 1, 0))
    assert asks(plan(wanted, seen(A={"p": 4, "d": 8}, B={"p": (0, 1), "d": (0, 1)}))) == ["A.d=4", "B.d=4"]


def test_back_to_the_old_revision_in_mid_rollout() -> None:
    wanted = group("A", p=(4, 1, 0), d=(4, 1, 0))
    assert rollout(wanted, seen(A={"p": 3, "d": 3}, B={"p": 2, "d": 2}))[0] == "B.p=1 B.d=1 A.p=4 A.d=4"


def test_a_third_revision_replaces_an_unready_second_at_once() -> None:
    wanted = group("C", p=(4, 1, 0), d=(4, 1, 0))
    assert asks(plan(wanted, seen(A={"p": 4, "d": 4}, B={"p": (0, 1), "d": (0, 1)}))) == [
        "B.p=0",
        "B.d=0",
        "C.p=1",
        "C.d=1",
    ]


def test_a_third_revision_waits_until_one_of_two_that_serve_has_gone() -> None:
    wanted = group("C", p=(2, 1, 0), d=(3, 1, 0))
    assert rollout(wanted, seen(A={"p": 1, "d": 2}, B={"p": 1, "d": 2}, C={})) == [
        "A.p=2",
        "B.d=1 A.d=3",
        "B.p=0 B.d=0 C.p=1 C.d=1",
        "A.d=2 C.d=2",
        "A.p=1 C.p=2",
        "A.d=1 C.d=3",
        "A.p=0 A.d=0",
    ]


def test_an_old_revision_that_crashes_gives_way_to_the_new_one() -> None:
    wanted = group(p=(4, 1, 0), d=(4, 1, 0))
    planned = plan(wanted, seen(A={"p": (0, 4), "d": (0, 4)}, B={"p": (0, 1), "d": (0, 1)}))
    assert asks(planned) == ["A.p=0", "A.d=0", "B.p=4", "B.d=4"]


def test_a_ready_pod_that_serves_alone_stays_for_the_floor() -> None:
    wanted = group(p=(4, 1, 0), d=(4, 1, 0))
    planned = plan(wanted, seen(A={"p": (4, 4), "d": (0, 4)}, B={"p": (0, 1), "d": (0, 1)}))
    assert asks(planned) == ["A.d=1", "B.d=4"], "one of the crashed pods stays: it may recover"


def test_dying_between_the_first_and_the_second_deployment_of_a_revision() -> None:
    wanted = group(p=(2, 1, 0), d=(2, 1, 0))
    assert asks(plan(wanted, seen(A={"p": 2, "d": 2}, B={"p": (0, 1), "d": None}))) == ["B.d=1"]


def test_a_stale_status_isnt_trusted() -> None:
    wanted = group(p=(2, 1, 0), d=(2, 1, 0))
    stale = seen(A={"p": 2, "d": 2}, B={"p": Observed(1, 1, 1, current=False), "d": 1})
    planned = plan(wanted, stale)
    assert not planned.writes
    assert planned.message == "waiting for the Deployment controller to act on the last writes"


def test_ready_pods_count_as_far_as_they_are_asked_for() -> None:
    assert not plan(group(p=(2, 1, 0)), seen(A={"p": (3, 1)}, B={"p": (1, 2)})).done
    assert asks(plan(group(p=(2, 1, 0)), seen(A={"p": (3, 1)}, B={"p": (0, 2)}))) == []


def test_deployments_of_no_use_are_deleted_once_all_is_done() -> None:
    wanted = group(p=(2, 1, 0))
    assert plan(wanted, seen(A={"p": 0}, B={"p": 2})).deletions == (Deletion("p", "A"),)
    assert plan(wanted, seen(A={"p": Observed(0, 0, replicas=1)}, B={"p": 2})).deletions == ()
    assert plan(wanted, seen(A={"p": 0}, B={"p": (1, 2)})).deletions == ()


def test_writes_say_why() -> None:
    planned = plan(group(p=(2, 0, 1)), seen(A={"p": 2}))
    assert planned.writes == (
        Write("p", "A", 1, "makes room for revision B"),
        Write("p", "B", 1, "2 desired, and room for 1"),
    )
    assert planned.phase is Phase.PROGRESSING


def test_waiting_names_what_is_short() -> None:
    planned = plan(group(p=(2, 1, 0), d=(4, 1, 0)), seen(A={"p": 2, "d": 4}, B={"p": 1, "d": (0, 1)}))
    assert planned.message == "waiting for p (1 of 2), d (0 of 4) of revision B to be ready"


# Scarce devices.

PENDING = Observed(1, 0, 1, without_devices=1)


def test_drain_first_gives_up_a_pod_where_two_or_more_are_desired() -> None:
    wanted = group(p=(2, 1, 0), d=(2, 1, 0))
    assert asks(plan(wanted, seen(A={"p": 2, "d": 2}, B={"p": PENDING, "d": PENDING}))) == ["A.p=1", "A.d=1"]


def test_one_replica_drains_only_where_the_outage_is_allowed() -> None:
    state = seen(A={"p": 1}, B={"p": PENDING})
    assert asks(plan(group(p=(1, 1, 1)), state)) == ["A.p=0"]
    planned = plan(group(p=(1, 1, 0)), state)
    assert planned.waits_for_devices
    assert planned.message.endswith("one replica can't be drained without an outage: maxUnavailable 1 on p allows it")


def test_wait_waits() -> None:
    wanted = group(p=(2, 1, 0), when_exhausted=WhenExhausted.WAIT)
    planned = plan(wanted, seen(A={"p": 2}, B={"p": PENDING}))
    assert not planned.writes
    assert planned.waits_for_devices
    assert planned.message == "waiting for devices for p (0 of 2) of revision B to be ready"


def test_the_clock_runs_where_a_pod_fails_for_another_reason_than_devices() -> None:
    wanted = group(p=(1, 1, 0), d=(1, 1, 0))
    planned = plan(wanted, seen(A={"p": 1, "d": 1}, B={"p": (0, 1), "d": PENDING}))
    assert not planned.writes
    assert not planned.waits_for_devices


def test_a_surge_gives_its_device_to_the_role_that_has_none() -> None:
    wanted = group(p=(2, 1, 1), d=(3, 0, 1))
    assert asks(plan(wanted, seen(A={"p": 1, "d": 2}, B={"p": 2, "d": PENDING}))) == ["B.p=1"]


# Paused and held.


def test_paused_nothing_moves_but_scaling_does() -> None:
    paused = group(old={"p": 4, "d": 8}, p=(4, 1, 0), d=(12, 1, 0), paused=True)
    planned = plan(paused, seen(A={"p": 2, "d": 4}, B={"p": 2, "d": 4}))
    assert asks(planned) == ["B.d=6", "A.d=6"]
    assert planned.phase is Phase.PAUSED
    paused = group(old={"p": 4, "d": 8}, p=(4, 1, 0), d=(5, 1, 0), paused=True)
    assert asks(plan(paused, seen(A={"p": 2, "d": 4}, B={"p": 2, "d": 4}))) == ["B.d=3", "A.d=3"]


SCALED = {
    "up, beside pods that serve nothing": (3, (1, 0), {"A": (2, 2), "B": (0, 1)}, ["A.d=3"]),
    "up, as far as there is room": (4, (0, 1), {"A": (2, 2), "B": (0, 1)}, ["A.d=3"]),
    "not up, while a new pod isn't ready yet": (3, (1, 0), {"A": (2, 3), "B": (0, 1)}, []),
    "not at all, where what serves is enough": (2, (1, 0), {"A": (2, 2), "B": (0, 1)}, []),
    "not down, where it stopped at less": (4, (1, 1), {"A": (3, 3), "B": (0, 2)}, []),
    "down, what serves nothing first": (3, (1, 1), {"A": (3, 3), "B": (0, 2)}, ["B.d=1"]),
    "down, what serves nothing before what starts": (3, (2, 0), {"A": (1, 4), "B": (0, 2)}, ["B.d=1"]),
    "down, and a pod of each stays": (2, (0, 1), {"A": (3, 3), "B": (0, 1)}, ["A.d=2"]),
    "up, where nothing serves": (3, (1, 0), {"A": (0, 2), "B": (0, 1)}, []),
}


@pytest.mark.parametrize("how", ["paused", "held"])
@pytest.mark.parametrize(("desired", "limits", "decode", "writes"), SCALED.values(), ids=SCALED.keys())
def test_what_serves_is_scaled(
    desired: int, limits: tuple[int, int], decode: dict[str, tuple[int, int]], writes: list[str], how: str
) -> None:
    wanted = group(old={"p": 2, "d": 2}, p=(2, 1, 0), d=(desired, *limits), **{how: True})
    there = seen(A={"p": 2, "d": decode["A"]}, B={"p": 1, "d": decode["B"]})
    assert asks(plan(wanted, there)) == writes


def test_scaling_beside_another_revision_waits_for_the_deployment_controller() -> None:
    """What serves can't be told from a status that is behind."""
    wanted = group(p=(4, 1, 0), held=True)
    there = seen(A={"p": Observed(2, 2, 2, current=False)}, B={"p": (0, 1)})
    assert asks(plan(wanted, there)) == []


def test_paused_before_it_began_the_old_revision_scales() -> None:
    paused = group(old={"p": 2}, p=(3, 1, 0), paused=True)
    assert asks(plan(paused, seen(A={"p": 2}))) == ["A.p=3"]
    assert asks(plan(paused, seen(A={"p": 0}))) == ["A.p=3"]


def test_held_undoes_what_it_cannot_pair() -> None:
    held = group(p=(1, 0, 1), d=(2, 0, 1), held=True)
    planned = plan(held, seen(A={"p": 1, "d": 1}, B={"p": 0, "d": 1}))
    assert asks(planned) == ["B.d=0", "A.d=2"]
    assert planned.phase is Phase.HELD


def test_held_pairs_where_there_is_room() -> None:
    held = group(p=(2, 1, 0), d=(2, 1, 0), held=True)
    assert asks(plan(held, seen(A={"p": 2, "d": 2}, B={"p": (0, 1), "d": None}))) == ["B.d=1"]


# The KV coordinator.


def test_recreate_starts_the_new_pod_when_the_old_one_has_gone() -> None:
    wanted = group(c=(1, 1, 0), recreate=True)
    assert asks(plan(wanted, seen(A={"c": 1}))) == ["A.c=0"]
    planned = plan(wanted, seen(A={"c": Observed(0, 0, replicas=1)}))
    assert not planned.writes
    assert planned.message == "waiting for the pods of revision A to go"
    assert asks(plan(wanted, seen(A={"c": Observed(0, 0, 0, current=False)}))) == []
    assert asks(plan(wanted, seen(A={"c": 0}))) == ["B.c=1"]
    assert plan(wanted, seen(A={"c": 0}, B={"c": 1})).done


def test_recreate_paused_keeps_the_old_pod() -> None:
    assert asks(plan(group(c=(1, 1, 0), recreate=True, paused=True), seen(A={"c": 1}))) == []
