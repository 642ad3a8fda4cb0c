"""The status of a set: conditions as truth tables, numbers, and words."""

from __future__ import annotations

from typing import Any

import pytest

from disaggregatedset.api import DisaggregatedSetStatus
from disaggregatedset.reconcile.desired import optional_roles, zero_roles
from disaggregatedset.reconcile.diagnose import Cause, Diagnoses, Diagnosis
from disaggregatedset.reconcile.findings import ACCEPTED, Acceptance, Findings, Routed
from disaggregatedset.reconcile.scaling import desired_pods
from disaggregatedset.reconcile.status import status, turning_points
from disaggregatedset.reconcile.view import Claims
from disaggregatedset.rollout import Failure, Observed, Outcome, Record, State
from tests.api.cases import changed
from tests.unit import builders
from tests.unit.builders import World, full_spec, make_set, observed, other

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


def _findings(
    world: World,
    acceptance: Acceptance,
    outcomes: dict[str, Outcome],
    claims: Any,
    diagnoses: dict[str, Diagnosis],
    routed: Routed | None = None,
) -> Findings:
    roles = {name: role for tier in world.inputs.values() for name, role in tier.roles.items()}
    return Findings(
        acceptance,
        world.tiers,
        world.scales,
        roles,
        optional_roles(world.dset),
        zero_roles(world.dset),
        world.view(claims=dict(claims)),
        outcomes,
        Diagnoses(diagnoses),
        routed,
    )


def _status(
    world: World,
    acceptance: Acceptance = ACCEPTED,
    claims: Any = (),
    states: dict[str, State] | None = None,
    routed: Routed | None = None,
    **diagnoses: Diagnosis,
) -> Object:
    """Make the status of a set; by default what is wanted was good before, so that no rollout runs."""
    outcomes = world.plan(world.good() if states is None else states) if acceptance.accepted else {}
    return status(world.dset, _findings(world, acceptance, outcomes, claims, diagnoses, routed), NOW)


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
    made = _status(World(make_set(_small(kv=2))), states={})
    assert _condition(made, "Available")[:2] == ("False", "RolesNotReady")
    weights, kv = (World(make_set(_small(kv=2))).tiers[group].revision for group in ("weights", "kv-cache"))
    assert _condition(made, "Progressing") == (
        "True",
        "Starting",
        (
            f"weights: waiting for weights (0 of 1) of revision {weights} to be ready; "
            f"kv-cache: waiting for kv-cache (0 of 2) of revision {kv} to be ready"
        ),
    )
    assert made["summary"]["rollout"] == "weights: Progressing, kv-cache: Progressing"
    assert "goodRevisions" not in made
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
        ({"prefill": 0, "decode": 0}, {}, "True", "ScaledToZero"),
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
    old = other(new, "old")
    world.run(old, "prefill", observed(1)).run(new, "decode", observed(2))
    made = _status(world)
    assert _condition(made, "Available") == (
        "False",
        "NotCoherent",
        "no revision has all compute roles ready; ready/desired over all: weights 1/1, prefill 1/1, decode 2/2",
    )


def test_the_old_revision_keeps_a_set_available_while_the_new_one_comes() -> None:
    world = World(make_set(_small()))
    world.run(world.tiers["weights"], "weights", observed(1))
    old, new = other(world.tiers["compute"], "old"), world.tiers["compute"].revision
    for role, n in (("prefill", 1), ("decode", 2)):
        world.run(old, role, observed(n)).run(world.tiers["compute"], role, observed(n, ready=0))
    made = _status(world, states=world.good() | {"compute": State("old")})
    assert _condition(made, "Available")[0] == "True"
    assert _condition(made, "Progressing") == (
        "True",
        "RollingOut",
        f"compute: waiting for prefill (0 of 1), decode (0 of 2) of revision {new} to be ready",
    )
    decode = _role(made, "decode")
    assert (decode["replicas"], decode["ready"], decode["updated"]) == (4, 2, 2)
    assert decode["message"] == "pods of another revision are still there"
    assert made["summary"]["rollout"] == "compute: Progressing"
    [rollout] = made["rollouts"]
    assert rollout == {
        "group": "compute",
        "from": "old",
        "to": new,
        "phase": "Progressing",
        "message": f"waiting for prefill (0 of 1), decode (0 of 2) of revision {new} to be ready",
        "oldReplicas": {"prefill": 2, "decode": 4},
        "generation": 1,
        "progress": -3,
        "startedAt": NOW,
        "lastProgressAt": NOW,
    }


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
        ({"decode": observed(5)}, "True", "Scaling", "waiting for pods; ready/desired: decode 5/2"),
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
    assert turning_points({}) == ((), (), ())


def test_running_without_a_plan_is_no_error() -> None:
    world = World(make_set(_small())).run_all()
    assert status(world.dset, _findings(world, ACCEPTED, {}, (), {}), NOW)["roles"]


@pytest.mark.parametrize(
    ("rollout", "ready", "available", "reason"),
    [
        ({"maxUnavailable": 1}, 2, "True", "AllRolesReady"),
        ({"maxUnavailable": 1}, 1, "False", "RolesNotReady"),
        ({"maxUnavailable": "34%"}, 2, "True", "AllRolesReady"),
        ({"maxUnavailable": "33%"}, 2, "False", "RolesNotReady"),
        ({"maxSurge": 0, "maxUnavailable": "10%"}, 2, "True", "AllRolesReady"),  # both round to 0: 1 may be missing
        ({"maxUnavailable": 3}, 0, "True", "AllRolesReady"),
    ],
)
def test_as_many_may_be_missing_as_a_rollout_may_take(rollout: Object, ready: int, available: str, reason: str) -> None:
    spec = changed(_small(decode=3), {"compute.roles[1].rollout": rollout})
    made = _status(World(make_set(spec)).run_all(decode=observed(3, ready=ready)))
    assert _condition(made, "Available")[:2] == (available, reason)


@pytest.mark.parametrize("replicas", range(1, 50))
def test_one_that_may_be_missing_is_no_outage_for_any_number_of_replicas(replicas: int) -> None:
    spec = changed(_small(decode=replicas), {"compute.roles[1].rollout": {"maxUnavailable": 1}})
    made = _status(World(make_set(spec)).run_all(decode=observed(replicas, ready=replicas - 1)))
    assert _condition(made, "Available")[0] == "True"


# Rollouts, as a truth table and in words.


def _rolling(
    *,
    failed: str | None = None,
    running: bool = True,
    back: bool = False,
    good: bool = True,
    rollback_failed: bool = False,
    rollout: Object | None = None,
    devices: bool = False,
) -> Object:
    """Make the status of a set whose compute rolls from revision "old" to what is wanted."""
    world = World(make_set(changed(_small(), {"rollout": rollout or {}})))
    new, old = world.tiers["compute"], other(world.tiers["compute"], "old")
    world.run(world.tiers["weights"], "weights", observed(1))
    unready = Observed(1, 0, 1, without_devices=int(devices))
    for role, desired in (("prefill", 1), ("decode", 2)):
        if good:
            world.run(old, role, observed(desired))
        if running:
            world.run(new, role, unready)
    failure = None
    if failed is not None:
        failure = Failure(new.revision, "ImagePull", failed, builders.NOW, "", rollback_failed)
    record = Record(
        *((new.revision, "old") if back else ("old" if good else None, new.revision)),
        {"prefill": 1, "decode": 2},
        1,
        builders.NOW,
        builders.NOW,
        -9,
    )
    state = State("old" if good else None, record if running else None, failure)
    made = _status(world, states=world.good() | {"compute": state})
    words = {c["type"]: c["message"].replace(new.revision, "new") for c in made["conditions"]}
    for condition in made["conditions"]:
        condition["message"] = words[condition["type"]]
    return made


PULL = "decode: 1 of 1 pods can't pull their image: not found"
UNREADY = "waiting for prefill (0 of 1), decode (0 of 2) of revision new to be ready"
AGAIN = "it is tried again when it changes, or when annotation disaggregatedset.dev/retry gets a new value"


@pytest.mark.parametrize(
    ("case", "progressing", "degraded", "summary"),
    [
        (
            {},
            (
                "True",
                "RollingOut",
                f"compute: {UNREADY}",
            ),
            ("False", "AsExpected", "no role has failing pods"),
            "compute: Progressing",
        ),
        (
            {"devices": True, "rollout": {"whenExhausted": "Wait"}},
            (
                "True",
                "WaitingForDevices",
                "compute: waiting for devices for prefill (0 of 1), decode (0 of 2) of revision new to be ready",
            ),
            ("False", "AsExpected", "no role has failing pods"),
            "compute: WaitingForDevices",
        ),
        (
            {"rollout": {"paused": True}},
            ("False", "Paused", "compute: paused, with pods of revision old"),
            ("False", "AsExpected", "no role has failing pods"),
            "compute: Paused",
        ),
        (
            {"failed": PULL, "back": True},
            ("True", "RollingBack", "compute: waiting for the pods of revision new to go"),
            (
                "True",
                "ImagePull",
                f"compute revision new failed: ImagePull: {PULL}; going back to revision old; {AGAIN}",
            ),
            "compute: RollingBack",
        ),
        (
            {"failed": PULL, "running": False},
            ("False", "RolledBack", "back on the last good revision of compute"),
            (
                "True",
                "ImagePull",
                f"compute revision new failed: ImagePull: {PULL}; went back to revision old; {AGAIN}",
            ),
            None,
        ),
        (
            {"failed": PULL, "rollout": {"onFailure": "Hold"}},
            ("False", "Held", "compute: held, with pods of revision old"),
            (
                "True",
                "ImagePull",
                f"compute revision new failed: ImagePull: {PULL}; it stopped where it was; {AGAIN}",
            ),
            "compute: Held",
        ),
        (
            {"failed": PULL, "back": True, "rollback_failed": True},
            ("False", "Held", "compute: held, with pods of revision new"),
            (
                "True",
                "RollbackFailed",
                (
                    f"compute revision new failed: ImagePull: {PULL}; going back to revision old failed too, and it "
                    f"stopped where it was; {AGAIN}"
                ),
            ),
            "compute: Held",
        ),
        (
            {"failed": PULL, "good": False},
            (
                "False",
                "ProgressDeadlineExceeded",
                f"compute: {UNREADY}",
            ),
            (
                "True",
                "ImagePull",
                f"compute revision new failed: ImagePull: {PULL}; there is no good revision to go back to; {AGAIN}",
            ),
            "compute: Progressing",
        ),
    ],
    ids=["runs", "devices", "paused", "goes back", "went back", "held", "rollback failed", "nothing to go back to"],
)
def test_rollouts(
    case: Object, progressing: tuple[str, str, str], degraded: tuple[str, str, str], summary: str | None
) -> None:
    made = _rolling(**case)
    assert _condition(made, "Progressing") == progressing
    assert _condition(made, "Degraded") == degraded
    assert made["summary"].get("rollout") == summary
    expected = "True" if case.get("good", True) else "False"
    assert _condition(made, "Available")[0] == expected, "the old revision serves on"


def test_a_failure_is_what_degraded_is_about_and_roles_say_what_their_pods_suffer_from() -> None:
    world = World(make_set(_small()))
    for role, desired in (("prefill", 1), ("decode", 2)):
        world.run(other(world.tiers["compute"], "old"), role, observed(desired, ready=0))
    failure = Failure(world.tiers["compute"].revision, "ImagePull", PULL, builders.NOW, "")
    made = _status(
        world, states={"compute": State("old", None, failure)}, prefill=Diagnosis(Cause.CRASH_LOOP, "it crashes")
    )
    assert _condition(made, "Degraded")[1] == "ImagePull"
    assert _role(made, "prefill")["message"] == "it crashes"


def _new_model(**rollout: Any) -> tuple[World, World]:
    """A set that serves one model and wants another one, and the set as it was."""
    before = World(make_set(_small())).run_all()
    spec = changed(_small(), {"model.name": "other", "rollout": rollout})
    world = World(make_set(spec))
    for group, tier in before.tiers.items():
        for role, n in desired_pods(before.scales)[group].items():
            world.run(tier, role, observed(n))
    return world, before


def test_a_new_model_comes() -> None:
    world, before = _new_model()
    weights = world.tiers["weights"]
    world.run(weights, "weights", observed(1, ready=0))
    made = _status(world, states=before.good())
    assert _condition(made, "Progressing") == (
        "True",
        "RollingOut",
        f"weights: waiting for weights (0 of 1) of revision {weights.revision} to be ready",
    )
    assert _condition(made, "Available")[0] == "True"
    assert made["summary"]["rollout"] == "weights: Progressing"


def test_failed_weights_of_a_new_model_are_what_compute_does_not_wait_for_any_more() -> None:
    """Nothing goes on by itself, so nothing progresses."""
    world, before = _new_model()
    failure = Failure(world.tiers["weights"].revision, "ImagePull", PULL, builders.NOW, "")
    good = before.good()
    made = _status(world, states=good | {"weights": State(good["weights"].good, None, failure)})
    assert _condition(made, "Progressing") == ("False", "RolledBack", "back on the last good revision of weights")
    assert _condition(made, "Degraded")[1] == "ImagePull"
    assert _condition(made, "Available")[0] == "True"


def test_held_weights_of_a_new_model_hold_compute_too() -> None:
    world, before = _new_model(onFailure="Hold")
    weights = world.tiers["weights"]
    world.run(weights, "weights", observed(1, ready=0))
    good = before.good()
    record = Record(good["weights"].good, weights.revision, {}, 1, builders.NOW, builders.NOW, 0)
    failure = Failure(weights.revision, "ImagePull", PULL, builders.NOW, "")
    made = _status(world, states=good | {"weights": State(good["weights"].good, record, failure)})
    assert _condition(made, "Progressing")[:2] == ("False", "Held")


def test_a_first_rollout_of_weights_that_failed() -> None:
    world = World(make_set(_small()))
    weights = world.tiers["weights"]
    world.run(weights, "weights", observed(1, ready=0))
    record = Record(None, weights.revision, {}, 1, builders.NOW, builders.NOW, 0)
    failure = Failure(weights.revision, "ImagePull", PULL, builders.NOW, "")
    made = _status(world, states={"weights": State(None, record, failure)})
    assert _condition(made, "Progressing")[:2] == ("False", "ProgressDeadlineExceeded")
    assert _role(made, "decode")["message"] == "waits until weights is ready"


def test_a_new_model_of_a_paused_set_says_that_it_is_paused() -> None:
    world, before = _new_model(paused=True)
    made = _status(world, states=before.good())
    new = world.tiers["weights"].revision
    assert _condition(made, "Progressing") == ("False", "Paused", f"weights: paused before revision {new} starts")


def test_a_spec_that_is_refused_in_mid_rollout_forgets_nothing() -> None:
    before = _rolling(failed=PULL, back=True)
    world = _with_status(World(make_set(_small())).run_all(), before)
    made = _status(world, Acceptance("Rejected", "no"))
    for field in ("rollouts", "failedRevisions", "goodRevisions"):
        assert made[field] == before[field]
    assert _condition(made, "Progressing")[:2] == ("False", "NotAccepted")


def test_turning_points_of_rollouts() -> None:
    def points(**more: Any) -> Any:
        return turning_points(_rolling(**more))

    assert points() == points(), "it depends on nothing else"
    different = [
        points(),
        points(rollout={"paused": True}),
        points(failed=PULL, back=True),
        points(failed=PULL, back=True, rollback_failed=True),
        points(failed=PULL, running=False),
    ]
    assert all(one != another for n, one in enumerate(different) for another in different[:n])
    first = {"rollouts": [{"group": "weights", "to": "A", "phase": "Progressing"}]}
    assert turning_points(first) == turning_points({}), "every new set has those, which Progressing says"


# Scaling and routing.


def _external(spec: Object, **fields: Any) -> Object:
    """Let others scale decode; it has what the set says at first."""
    return changed(spec, {"compute.roles[1].scaling": {"mode": "External"}} | fields)


@pytest.mark.parametrize(
    ("prefill", "decode", "allow_zero", "available", "reason"),
    [
        (0, 0, [], "True", "ScaledToZero"),
        (0, 0, [0, 1], "True", "ScaledToZero"),
        (1, 0, [], "False", "RoleScaledToZero"),
        (0, 1, [], "False", "RoleScaledToZero"),
        (1, 0, [0], "False", "RoleScaledToZero"),
        (1, 0, [1], "True", "AllRolesReady"),
        (0, 2, [0], "True", "AllRolesReady"),
        (1, 2, [0, 1], "True", "AllRolesReady"),
    ],
)
def test_compute_roles_at_zero(prefill: int, decode: int, allow_zero: list[int], available: str, reason: str) -> None:
    fields = {f"compute.roles[{n}].allowZero": True for n in allow_zero}
    made = _status(World(make_set(_external(_small(prefill=prefill, decode=decode), **fields))).run_all())
    assert _condition(made, "Available")[:2] == (available, reason)


def test_words_about_roles_at_zero() -> None:
    made = _status(World(make_set(_external(_small(decode=0)))).run_all())
    assert _condition(made, "Available")[2] == (
        "decode is scaled to 0 while others are not, so nothing can be served: scale decode up, or set allowZero on a "
        "role that the set can serve without"
    )
    made = _status(World(make_set(_small(prefill=0, decode=0))).run_all())
    assert _condition(made, "Available")[2] == (
        "all compute roles are scaled to 0, as desired; ready/desired: weights 1/1, prefill 0/0, decode 0/0"
    )
    assert _condition(made, "Progressing")[1] == "Complete"


def test_at_zero_what_is_still_to_come_is_said_first() -> None:
    spec = _small(prefill=0, decode=0)
    assert _condition(_status(World(make_set(spec)).run_all(weights=observed(1, ready=0))), "Available")[:2] == (
        "False",
        "RolesNotReady",
    )


def _shrinking() -> World:
    """A KV cache that is to go from 6 pods to 2."""
    role = {"name": "kv-cache", "tier": "kvCache", "desired": 6, "replicas": 6, "ready": 6, "updated": 6}
    dset = make_set(_small(kv=2), status={"roles": [role | {"revision": "r"}]})
    return World(dset).run_all(kv_cache=observed(6))


def test_a_role_that_shrinks_says_how_far_it_is_and_why_it_waits() -> None:
    made = _status(_shrinking())
    words = (
        "shrinks to 2 by 1 every 300 s, to keep what it can of the cache; now at 5, the next step is due at "
        "2026-01-02T00:05:00Z"
    )
    cache = _role(made, "kv-cache")
    assert (cache["desired"], cache["replicas"], cache["message"]) == (2, 6, words)
    assert cache["scaleDown"] == {"replicas": 5, "lastStepAt": NOW}
    assert _condition(made, "Available")[0] == "True"
    message = f"waiting for pods; ready/desired: kv-cache 6/2; {words}"
    assert _condition(made, "Progressing") == ("True", "Scaling", message)
    assert all("scaleDown" not in role for role in made["roles"] if role["name"] != "kv-cache")
    both = _status(_shrinking(), **{"kv-cache": Diagnosis(Cause.CRASH_LOOP, "it crashes")})
    assert _role(both, "kv-cache")["message"] == f"it crashes; {words}"
    long = _status(_shrinking(), **{"kv-cache": Diagnosis(Cause.CRASH_LOOP, "x" * 5000)})
    assert len(_role(long, "kv-cache")["message"]) == 4096, "as much as the API server takes"


ROUTES = {"inferencePool": {"targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "picker"}}}


def test_routed_is_there_where_a_route_is_asked_for() -> None:
    plain = _status(World(make_set(_small())).run_all())
    assert "Routed" not in {c["type"] for c in plain["conditions"]}
    world = World(make_set(_small() | {"routing": ROUTES})).run_all()
    made = _status(world, routed=Routed("InferencePoolReady", "it is there"))
    assert _condition(made, "Routed") == ("True", "InferencePoolReady", "it is there")
    made = _status(world, routed=Routed("Rejected", "no"))
    assert _condition(made, "Routed") == ("False", "Rejected", "no")
    assert _condition(made, "Available")[0] == "True", "it serves all the same"


def test_routed_stays_as_it_was_where_it_was_not_looked_at() -> None:
    world = World(make_set(_small() | {"routing": ROUTES})).run_all()
    before = _status(world, routed=Routed("InferencePoolReady", "it is there"))
    assert _status(_with_status(world, before)) == before
    dropped = _with_status(World(make_set(_small())).run_all(), before)
    assert "Routed" not in {c["type"] for c in _status(dropped)["conditions"]}
