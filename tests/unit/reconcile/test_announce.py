"""Which events are said."""

from __future__ import annotations

from typing import Any

import pytest

from disaggregatedset.cluster.events import EventType
from disaggregatedset.reconcile.announce import Announcement, of_status, of_writes
from disaggregatedset.rollout import Deletion, Outcome, Phase, Plan, State, Write
from tests.unit.builders import World, make_set, observed


def _said(before: dict[str, str] | None, after: dict[str, str]) -> list[str]:
    def made(conditions: dict[str, str]) -> dict[str, Any]:
        parts = {kind: text.split("/") for kind, text in conditions.items()}
        return {"conditions": [{"type": k, "status": s, "reason": r, "message": "m"} for k, (s, r) in parts.items()]}

    news = of_status(None if before is None else made(before), made(after))
    assert all(n.note.endswith(": m") and n.action == "Report" for n in news)
    bad = {"NotAccepted", "NotAvailable", "Degraded"}
    assert all((n.type is EventType.WARNING) == (n.reason in bad) for n in news)
    return [n.reason for n in news]


@pytest.mark.parametrize(
    ("kind", "before", "after", "said"),
    [
        ("Available", "False/A", "True/B", ["Available"]),
        ("Available", "True/B", "False/A", ["NotAvailable"]),
        ("Available", "True/B", "True/C", []),
        ("Available", "False/A", "False/A", []),
        ("Available", "False/A", "False/B", ["NotAvailable"]),
        ("Accepted", "True/A", "False/B", ["NotAccepted"]),
        ("Accepted", "False/B", "True/A", ["Accepted"]),
        ("Accepted", "False/B", "False/C", ["NotAccepted"]),
        ("Degraded", "False/A", "True/CrashLoop", ["Degraded"]),
        ("Degraded", "True/CrashLoop", "True/ImagePull", ["Degraded"]),
        ("Degraded", "True/CrashLoop", "False/A", ["Recovered"]),
        ("Degraded", "False/A", "False/B", []),
        ("Progressing", "False/A", "True/B", []),
        ("AcceleratorsAllocated", "True/A", "False/B", []),
    ],
)
def test_a_condition_that_turns(kind: str, before: str, after: str, said: list[str]) -> None:
    assert _said({kind: before}, {kind: after}) == said


@pytest.mark.parametrize("before", [None, {}])
def test_a_new_set(before: dict[str, str] | None) -> None:
    usual = {"Accepted": "True/A", "Available": "False/A", "Degraded": "False/A", "Progressing": "True/A"}
    assert _said(before, usual) == [], "every set starts so"
    unusual = {"Accepted": "False/A", "Available": "True/A", "Degraded": "True/A", "AcceleratorsAllocated": "False/A"}
    assert _said(before, unusual) == ["NotAccepted", "Available", "Degraded"]


def _outcome(*writes: Write, removals: tuple[Deletion, ...] = (), deletions: tuple[Deletion, ...] = ()) -> Outcome:
    return Outcome(
        "r2", Plan(writes, deletions, done=False, phase=Phase.PROGRESSING, message=""), State(), removals=removals
    )


def test_writes() -> None:
    world = World(make_set())
    compute = world.tiers["compute"]
    world.run(compute, "decode", observed(2)).run(compute, "prefill", observed(3))
    outcomes = [
        _outcome(Write("weights", "w2", 1, "1 desired, and room for 2"), removals=(Deletion("weights", "w1"),)),
        _outcome(
            Write("encode", "r2", 3, "3 desired, and room for 4"),
            Write("decode", compute.revision, 5, "5 desired"),
            Write("prefill", compute.revision, 1, "makes room for revision r2"),
            deletions=(Deletion("prefill", "r0"),),  # it had no pods: nobody would ask
        ),
    ]
    assert of_writes(world.view(), outcomes, ["Service x: spec.type was changed, put back"]) == [
        Announcement(
            EventType.NORMAL,
            "Starting",
            "starting weights of revision w2 with 1 pods, encode of revision r2 with 3 pods",
            "Create",
        ),
        Announcement(
            EventType.NORMAL,
            "Scaled",
            f"scaled decode of revision {compute.revision} from 2 to 5 (5 desired), "
            f"prefill of revision {compute.revision} from 3 to 1 (makes room for revision r2)",
            "Scale",
        ),
        Announcement(
            EventType.NORMAL,
            "Removed",
            "removed, because no compute pod uses it any more, weights of revision w1",
            "Delete",
        ),
        Announcement(EventType.NORMAL, "Repaired", "Service x: spec.type was changed, put back", "Repair"),
    ]
    assert of_writes(world.view(), [_outcome()], []) == []


ROLLING = {"rollouts": [{"group": "compute", "from": "A", "to": "B", "phase": "Progressing", "message": "words"}]}
FIRST = {"rollouts": [{"group": "compute", "to": "A", "phase": "Progressing", "message": "words"}]}
BACK = {"rollouts": [{"group": "compute", "from": "B", "to": "A", "phase": "RollingBack", "message": "words"}]}


def _phase(phase: str) -> dict[str, Any]:
    return {"rollouts": [ROLLING["rollouts"][0] | {"phase": phase}]}


def _failed(**more: Any) -> dict[str, Any]:
    failure = {"group": "compute", "revision": "B", "reason": "ImagePull", "message": "no such image", "failedAt": "1"}
    return {"failedRevisions": [failure | more]}


def _good(revision: str) -> dict[str, Any]:
    return {"goodRevisions": {"compute": revision}}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, FIRST, []),  # Starting says it
        (FIRST, _good("A"), []),
        (_good("A"), ROLLING | _good("A"), ["Normal RolloutStarted compute: from revision A to B"]),
        (ROLLING, ROLLING, []),
        (ROLLING, ROLLING | {"summary": {"compute": "1/3"}}, []),
        (ROLLING, _good("B"), ["Normal RolloutComplete compute: all pods are of revision B"]),
        (ROLLING, _good("A"), []),  # its status was edited by hand
        (ROLLING, _phase("WaitingForDevices"), ["Warning WaitingForDevices compute: words"]),
        (_phase("WaitingForDevices"), _phase("WaitingForDevices"), []),
        (_phase("WaitingForDevices"), ROLLING, []),
        (ROLLING, _phase("Paused"), []),  # a person has just done that
        (
            ROLLING,
            {"rollouts": [ROLLING["rollouts"][0] | {"from": "B", "to": "C"}]},
            ["Normal RolloutStarted compute: from revision B to C"],
        ),
        (ROLLING, ROLLING | _failed(), ["Warning RolloutFailed compute revision B: ImagePull: no such image"]),
        (ROLLING | _failed(), ROLLING | _failed(), []),
        (_failed(), _failed(failedAt="2"), ["Warning RolloutFailed compute revision B: ImagePull: no such image"]),
        (
            _failed(),
            _failed(revision="C"),
            ["Warning RolloutFailed compute revision C: ImagePull: no such image"],
        ),
        (_failed(), {}, []),
        (ROLLING | _failed(), BACK | _failed(), ["Normal RollingBack compute: from revision B to A"]),
        (
            BACK | _failed(),
            BACK | _failed(rollbackFailed=True),
            ["Warning RollbackFailed compute revision B: ImagePull: no such image"],
        ),
        (BACK | _failed(rollbackFailed=True), BACK | _failed(rollbackFailed=True), []),
        (
            BACK | _failed(),
            _good("A") | _failed(),
            ["Normal RolledBack compute: all pods are of revision A again"],
        ),
    ],
)
def test_rollouts(before: dict[str, Any] | None, after: dict[str, Any], said: list[str]) -> None:
    news = of_status(before, {"conditions": []} | after)
    assert [f"{n.type.value} {n.reason} {n.note}" for n in news] == said
    assert all(n.action == "Rollout" for n in news)


def test_each_tier_speaks_for_itself() -> None:
    both = {"rollouts": [{"group": g, "from": "A", "to": "B", "phase": "Progressing"} for g in ("weights", "kv-cache")]}
    assert [n.note for n in of_status({}, {"conditions": []} | both)] == [
        "weights: from revision A to B",
        "kv-cache: from revision A to B",
    ]
