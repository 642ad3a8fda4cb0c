"""The status of a set: conditions as truth tables, numbers, and words."""

from __future__ import annotations

from typing import Any

import pytest

from disaggregatedset.api import DisaggregatedSetStatus
from disaggregatedset.reconcile.desired import desired_pods, optional_roles
from disaggregatedset.reconcile.diagnose import Cause, Diagnosis
from disaggregatedset.reconcile.status import ACCEPTED, Acceptance, Findings, status, turning_points
from disaggregatedset.reconcile.view import Claims
from disaggregatedset.rollout import Observed, plan_set
from tests.unit.builders import World, full_spec, make_set, observed

NOW, BEFORE = "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"
Object = dict[str, Any]


def _small(
    kv_required: bool = True, weights: int = 1, kv: int | None = None, prefill: int = 1, decode: int = 2
) -> Object:
    spec = full_spec()
    spec["weights"]["replicas"] = weights
    if kv is None:
        del spec["kvCache"]
    else:
        del spec["kvCache"]["coordinator"]
        spec["kvCache"] |= {"replicas": kv, "required": kv_required}
    for role, replicas in zip(spec["compute"]["roles"], (prefill, decode), strict=True):
        role["replicas"] = replicas
    return spec


def _status(world: World, acceptance: Acceptance = ACCEPTED, claims: Any = (), **diagnoses: Diagnosis) -> Object:
    view = world.view(claims=dict(claims))
    plans = plan_set(world.wanted, world.running, last="compute") if acceptance.accepted else {}
    desired, optional = desired_pods(world.dset), optional_roles(world.dset)
    findings = Findings(acceptance, world.tiers, desired, optional, view, plans, diagnoses)
    return status(world.dset, findings, NOW)


def _condition(made: Object, kind: str) -> tuple[str, str, str]:
    found = next(c for c in made["conditions"] if c["type"] == kind)
    return found["status"], found["reason"], found["message"]


def _role(made: Object, name: str) -> Object:
    return next(role for role in made["roles"] if role["name"] == name)


def test_everything_is_there() -> None:
    made = _status(World(make_set(_small())).run_all())
    assert made["observedGeneration"] == 1
    assert {c["type"]: (c["status"], c["reason"]) for c in made["conditions"]} == {
        "Accepted": ("True", "Accepted"),
        "Available": ("True", "AllRolesReady"),
        "Progressing": ("False", "Complete"),
        "Degraded": ("False", "AsExpected"),
        "AcceleratorsAllocated": ("False", "ClaimsNotCreated"),
    }
    assert made["summary"] == {"weights": "1/1", "compute": "3/3", "roles": "weights 1/1, prefill 1/1, decode 2/2"}
    assert all("message" not in role for role in made["roles"])


def test_nothing_is_there_yet() -> None:
    made = _status(World(make_set(_small(kv=2))))
    assert _condition(made, "Available")[:2] == ("False", "RolesNotReady")
    assert _condition(made, "Progressing") == (
        "True",
        "WaitingForTiers",
        "compute waits until weights and kv-cache are ready",
    )
    assert _role(made, "decode")["message"] == "waits until weights and kv-cache are ready"
    assert _role(made, "weights")["message"] == "1 of 1 pods are not ready yet"
    assert made["summary"]["kvCache"] == "0/2"


@pytest.mark.parametrize(
    ("spec", "seen", "available", "reason"),
    [
        ({}, {}, "True", "AllRolesReady"),
        ({}, {"decode": observed(2, ready=1)}, "False", "RolesNotReady"),
        ({}, {"weights": observed(1, ready=0)}, "False", "RolesNotReady"),
        ({"kv": 1}, {"kv_cache": observed(1, ready=0)}, "False", "RolesNotReady"),
        ({"kv": 1, "kv_required": False}, {"kv_cache": observed(1, ready=0)}, "True", "AllRolesReady"),
        ({"prefill": 0, "decode": 0}, {}, "True", "AllRolesReady"),
        # More than desired, for a moment, takes nothing away.
        ({}, {"decode": observed(2, ready=3, replicas=3)}, "True", "AllRolesReady"),
        # Nor does a Deployment that has just been written, whose status is a moment behind.
        ({}, {"decode": observed(2, ready=3, replicas=3, current=False)}, "True", "AllRolesReady"),
    ],
)
def test_available(spec: Object, seen: dict[str, Observed], available: str, reason: str) -> None:
    made = _status(World(make_set(_small(**spec))).run_all(**seen))
    assert _condition(made, "Available")[:2] == (available, reason)


def test_pods_of_two_revisions_that_cannot_serve_together_are_not_available() -> None:
    world = World(make_set(_small()))
    new = world.tiers["compute"]
    world.run(world.tiers["weights"], "weights", observed(1))
    old = _renamed(new, "old")
    world.run(old, "prefill", observed(1)).run(new, "decode", observed(2))
    made = _status(world)
    assert _condition(made, "Available") == (
        "False",
        "NotCoherent",
        "no revision has all compute roles ready; ready/desired over all: weights 1/1, prefill 1/1, decode 2/2",
    )


def _renamed(tier: Any, revision: str) -> Any:
    return type(tier)(tier.group, revision, tier.model_revision, tier.roles)


def test_the_old_revision_keeps_a_set_available_while_the_new_one_comes() -> None:
    world = World(make_set(_small()))
    world.run(world.tiers["weights"], "weights", observed(1))
    old = _renamed(world.tiers["compute"], "old")
    for role, n in (("prefill", 1), ("decode", 2)):
        world.run(old, role, observed(n)).run(world.tiers["compute"], role, observed(n, ready=0))
    made = _status(world)
    assert _condition(made, "Available")[0] == "True"
    assert _condition(made, "Progressing") == ("True", "RollingOut", "rolling out compute")
    decode = _role(made, "decode")
    assert (decode["replicas"], decode["ready"], decode["updated"]) == (4, 2, 2)
    assert decode["message"] == "pods of an older revision are still there"


@pytest.mark.parametrize(
    ("seen", "progressing", "reason", "message"),
    [
        ({}, "False", "Complete", "everything is as desired"),
        ({"decode": observed(2, ready=1)}, "True", "Scaling", "waiting for pods; ready/desired: decode 1/2"),
        (
            {"decode": observed(2, ready=2, replicas=3)},
            "True",
            "Scaling",
            "waiting for pods; ready/desired: decode 2/2",
        ),
        ({"decode": observed(5)}, "True", "RollingOut", "rolling out compute"),
    ],
)
def test_progressing(seen: dict[str, Observed], progressing: str, reason: str, message: str) -> None:
    made = _status(World(make_set(_small())).run_all(**seen))
    assert _condition(made, "Progressing") == (progressing, reason, message)


def test_a_spec_that_is_not_accepted() -> None:
    bad = Acceptance("DeviceClassNotFound", "no such class")
    fresh = _status(World(make_set(_small())), bad)
    assert _condition(fresh, "Accepted") == ("False", "DeviceClassNotFound", "no such class")
    assert _condition(fresh, "Progressing")[:2] == ("False", "NotAccepted")
    assert _condition(fresh, "Available")[0] == "False"
    assert all("message" not in role for role in fresh["roles"]), "Accepted says it already"
    serving = _status(World(make_set(_small())).run_all(), bad)
    assert _condition(serving, "Available")[0] == "True", "what serves goes on serving"


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        ({}, ("False", "AsExpected")),
        ({"decode": Cause.STARTING, "prefill": Cause.NOT_READY}, ("False", "AsExpected")),
        ({"decode": Cause.UNSCHEDULABLE}, ("True", "Unschedulable")),
        ({"prefill": Cause.DEVICES_EXHAUSTED, "decode": Cause.CRASH_LOOP}, ("True", "CrashLoop")),
        ({"weights": Cause.REJECTED, "decode": Cause.IMAGE_PULL}, ("True", "Rejected")),
    ],
)
def test_degraded(causes: dict[str, Cause], expected: tuple[str, str]) -> None:
    diagnoses = {role: Diagnosis(cause, f"about {role}") for role, cause in causes.items()}
    made = _status(World(make_set(_small())).run_all(), **diagnoses)
    assert _condition(made, "Degraded")[:2] == expected
    if expected[0] == "True":
        failing = [f"{role}: about {role}" for role, cause in causes.items() if cause.failing]
        assert _condition(made, "Degraded")[2] == "; ".join(failing)
    for role in causes:
        assert _role(made, role)["message"] == f"about {role}"


@pytest.mark.parametrize(
    ("prefill", "claims", "expected"),
    [
        (2, Claims(allocated=2), ("True", "Allocated", "2 of 2 claims have their devices")),
        (
            2,
            Claims(allocated=1, pending=1),
            ("False", "ClaimsPending", "1 of 2 claims have their devices; prefill: no GPU"),
        ),
        (2, Claims(allocated=1), ("False", "ClaimsNotCreated", "1 of 2 claims have their devices")),
        (2, None, ("False", "ClaimsNotCreated", "0 of 2 claims have their devices")),
        (0, None, ("True", "Allocated", "0 of 0 claims have their devices")),
        # A surge pod's claim counts too.
        (
            2,
            Claims(allocated=2, pending=1),
            ("False", "ClaimsPending", "2 of 3 claims have their devices; prefill: no GPU"),
        ),
        (1, Claims(allocated=2), ("True", "Allocated", "2 of 2 claims have their devices")),
    ],
)
def test_accelerators_allocated(prefill: int, claims: Claims | None, expected: tuple[str, str, str]) -> None:
    world = World(make_set(_small(prefill=prefill))).run_all()
    counted = {"prefill": claims} if claims else {}
    made = _status(world, claims=counted, prefill=Diagnosis(Cause.DEVICES_EXHAUSTED, "no GPU"))
    assert _condition(made, "AcceleratorsAllocated") == expected
    seen = claims or Claims()
    assert _role(made, "prefill")["claims"] == {"allocated": seen.allocated, "pending": seen.pending}
    assert "claims" not in _role(made, "decode")


def test_accelerators_of_a_set_that_wants_none() -> None:
    spec = _small()
    del spec["compute"]["roles"][0]["accelerators"]
    made = _status(World(make_set(spec)).run_all())
    assert _condition(made, "AcceleratorsAllocated") == ("True", "NotRequested", "no role claims accelerators")


def _with_status(world: World, before: Object, generation: int = 1) -> World:
    parsed = DisaggregatedSetStatus.model_validate(before)
    metadata = world.dset.metadata.model_copy(update={"generation": generation})
    world.dset = world.dset.model_copy(update={"status": parsed, "metadata": metadata})
    return world


def test_transition_times_change_with_the_status_only() -> None:
    before = _status(World(make_set(_small())).run_all())
    for condition in before["conditions"]:
        condition["lastTransitionTime"] = BEFORE
    same = _status(_with_status(World(make_set(_small())).run_all(), before))
    assert same == before, "nothing to write"
    after = _status(_with_status(World(make_set(_small())).run_all(decode=observed(2, ready=1)), before))
    times = {c["type"]: c["lastTransitionTime"] for c in after["conditions"]}
    assert times == {
        "Accepted": BEFORE,
        "Available": NOW,
        "Progressing": NOW,
        "Degraded": BEFORE,
        "AcceleratorsAllocated": BEFORE,
    }
    other = Diagnosis(Cause.IMAGE_PULL, "no such image")
    once = _status(
        _with_status(World(make_set(_small())).run_all(), before), decode=Diagnosis(Cause.CRASH_LOOP, "boom")
    )
    for condition in once["conditions"]:
        condition["lastTransitionTime"] = BEFORE
    twice = _status(_with_status(World(make_set(_small())).run_all(), once), decode=other)
    degraded = next(c for c in twice["conditions"] if c["type"] == "Degraded")
    assert (degraded["reason"], degraded["lastTransitionTime"]) == ("ImagePull", BEFORE), (
        "another reason, the same status"
    )


def test_the_generation_that_was_seen_is_on_the_status_and_on_each_condition() -> None:
    before = _status(World(make_set(_small())).run_all())
    made = _status(_with_status(World(make_set(_small())).run_all(), before, generation=7))
    assert {made["observedGeneration"], *(c["observedGeneration"] for c in made["conditions"])} == {7}
    assert {c["lastTransitionTime"] for c in made["conditions"]} == {NOW}


def test_no_words_are_too_long_for_the_status() -> None:
    made = _status(World(make_set(_small())), Acceptance("Rejected", "x" * 100_000))
    assert len(_condition(made, "Accepted")[2]) <= 32768


def test_turning_points() -> None:
    def made(**seen: Observed) -> Object:
        return _status(World(make_set(_small())).run_all(**seen))

    scaling = made(decode=observed(2, ready=1)), made(decode=observed(2, ready=0))
    assert scaling[0] != scaling[1]
    assert turning_points(scaling[0]) == turning_points(scaling[1]), "numbers can wait"
    assert turning_points(made()) != turning_points(scaling[0]), "a condition that turns can't"
    crash, pull = (
        _status(World(make_set(_small())).run_all(), decode=Diagnosis(cause, "x"))
        for cause in (Cause.CRASH_LOOP, Cause.IMAGE_PULL)
    )
    assert turning_points(crash) != turning_points(pull), "nor can another reason for trouble"
    assert turning_points({}) == ()


def test_running_without_a_plan_is_no_error() -> None:
    world = World(make_set(_small())).run_all()
    findings = Findings(ACCEPTED, world.tiers, desired_pods(world.dset), frozenset(), world.view(), {}, {})
    assert status(world.dset, findings, NOW)["roles"]
