"""The status of a RoleScaler, as a truth table."""

from __future__ import annotations

from typing import Any

import pytest

from disaggregatedset.api import Scaling
from disaggregatedset.reconcile.role_scalers import role_scaler_status
from disaggregatedset.reconcile.scaling import Scale
from disaggregatedset.render import role_scaler
from tests.unit.builders import World, live, make_set, observed, other

Object = dict[str, Any]
NOW, BEFORE = "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"
SAYS = "says how many pods there are"
STATIC, EXTERNAL = Scaling(), Scaling.model_validate({"mode": "External"})
HPA = Scaling.model_validate({"mode": "HPA", "maxReplicas": 9, "metrics": [{"type": "Resource"}]})
FOLLOW = Scaling.model_validate({"mode": "Follow", "follow": {"role": "prefill", "ratio": "1:4"}})


def _status(scale: Scale, before: Object | None = None, generation: int = 1, world: World | None = None) -> Object:
    world = world or World(make_set()).run_all()
    scaler = live(role_scaler(world.dset, world.tiers["compute"].tier, "decode", scale.scaling, None))
    scaler["metadata"]["generation"] = generation
    if before is not None:
        scaler["status"] = before
    return role_scaler_status("llama", scaler, scale, world.view(), NOW)


def _condition(made: Object, kind: str) -> tuple[str, str, str]:
    found = next(c for c in made["conditions"] if c["type"] == kind)
    return found["status"], found["reason"], found["message"]


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (
            STATIC,
            ("False", "DecidedBySet", "replicas of the DisaggregatedSet says how many pods there are (mode Static)"),
        ),
        (FOLLOW, ("False", "FollowsRole", "the role is scaled 1:4 with role prefill (mode Follow)")),
        (EXTERNAL, ("True", "ScaledByRoleScaler", f"spec.replicas {SAYS}, within the bounds")),
        (HPA, ("True", "ScaledByRoleScaler", f"spec.replicas {SAYS}, within the bounds")),
    ],
)
def test_who_decides(scaling: Scaling, expected: tuple[str, str, str]) -> None:
    assert _condition(_status(Scale(2, 2, 2, scaling)), "ScalingActive") == expected


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ((2, 2, 2, ""), ("False", "DesiredWithinRange", "the desired count is within the acceptable range")),
        ((1, 2, 2, ""), ("True", "TooFewReplicas", "1 asked for, and minReplicas is 2")),
        ((9, 2, 2, ""), ("True", "TooManyReplicas", "9 asked for, and maxReplicas is 2")),
        ((2, 2, 5, "it waits"), ("True", "ScaleDownLimit", "it waits")),
        ((1, 2, 5, "it waits"), ("True", "TooFewReplicas", "1 asked for, and minReplicas is 2")),
    ],
)
def test_what_limits(scale: tuple[int, int, int, str], expected: tuple[str, str, str]) -> None:
    asked, desired, replicas, waits = scale
    assert _condition(_status(Scale(asked, desired, replicas, EXTERNAL, waits=waits)), "ScalingLimited") == expected


def test_what_autoscalers_read() -> None:
    world = World(make_set()).run_all(decode=observed(2, ready=1, replicas=3))
    world.run(other(world.tiers["compute"], "old"), "decode", observed(4))
    world.run(other(world.tiers["compute"], "old"), "prefill", observed(9))
    made = _status(Scale(5, 5, 5, EXTERNAL), generation=7, world=world)
    assert {k: v for k, v in made.items() if k != "conditions"} == {
        "observedGeneration": 7,
        "replicas": 7,
        "desiredReplicas": 5,
        "selector": "disaggregatedset.dev/set=llama,disaggregatedset.dev/role=decode",
    }
    assert {c["observedGeneration"] for c in made["conditions"]} == {7}


def test_zero_is_said() -> None:
    made = _status(Scale(0, 0, 0, EXTERNAL), world=World(make_set()))
    assert (made["replicas"], made["desiredReplicas"]) == (0, 0)


def test_transition_times_change_with_the_status_only() -> None:
    before = _status(Scale(2, 2, 2, EXTERNAL))
    for condition in before["conditions"]:
        condition["lastTransitionTime"] = BEFORE
    assert _status(Scale(2, 2, 2, EXTERNAL), before) == before, "nothing to write"
    limited = _status(Scale(9, 2, 2, EXTERNAL), before)
    assert {c["type"]: c["lastTransitionTime"] for c in limited["conditions"]} == {
        "ScalingActive": BEFORE,
        "ScalingLimited": NOW,
    }
    for condition in limited["conditions"]:
        condition["lastTransitionTime"] = BEFORE
    too_few = _status(Scale(1, 2, 2, EXTERNAL), limited)
    assert [c["lastTransitionTime"] for c in too_few["conditions"]] == [BEFORE, BEFORE], "another reason"
