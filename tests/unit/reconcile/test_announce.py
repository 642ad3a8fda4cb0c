"""Which events are said."""

from __future__ import annotations

from typing import Any

import pytest

from disaggregatedset.cluster.events import EventType
from disaggregatedset.reconcile.announce import Announcement, of_status, of_writes
from disaggregatedset.rollout import Remove, Scale
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


def test_writes() -> None:
    world = World(make_set())
    compute = world.tiers["compute"]
    world.run(compute, "decode", observed(2))
    writes = [
        Scale("prefill", "r2", 1, "as desired"),
        Scale("encode", "r2", 3, "as desired"),
        Scale("decode", compute.revision, 5, "as desired"),
        Remove("weights", "r1", "replaced"),
    ]
    assert of_writes(world.view(), writes, ["Service x: spec.type was changed, put back"]) == [
        Announcement(
            EventType.NORMAL,
            "Starting",
            "starting prefill of revision r2 with 1 pods, encode of revision r2 with 3 pods",
            "Create",
        ),
        Announcement(
            EventType.NORMAL, "Scaled", f"scaled decode of revision {compute.revision} from 2 to 5: as desired", "Scale"
        ),
        Announcement(EventType.NORMAL, "Removed", "removed weights of revision r1: replaced", "Delete"),
        Announcement(EventType.NORMAL, "Repaired", "Service x: spec.type was changed, put back", "Repair"),
    ]
    assert of_writes(world.view(), [], []) == []
