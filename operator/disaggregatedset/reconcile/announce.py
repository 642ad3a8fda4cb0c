"""What is worth an event: the decisions and changes that a person would ask about. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from disaggregatedset.api import ConditionType
from disaggregatedset.cluster.events import EventType
from disaggregatedset.reconcile.view import View
from disaggregatedset.rollout import Remove, Scale


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event to write once what it tells of is stored."""

    type: EventType
    reason: str
    note: str
    action: str


def of_writes(seen: View, writes: Iterable[Scale | Remove], repaired: Iterable[str]) -> list[Announcement]:
    """Announce what was written.

    Parameters
    ----------
    seen
        The children before the writes.
    writes
        The planner's writes.
    repaired
        Children that others had changed, and how.
    """
    said = []
    asked = {(r.role, r.revision): r.observed.asked for r in seen.running}
    started = [
        f"{w.role} of revision {w.revision} with {w.replicas} pods"
        for w in writes
        if isinstance(w, Scale) and (w.role, w.revision) not in asked
    ]
    if started:
        said.append(Announcement(EventType.NORMAL, "Starting", f"starting {', '.join(started)}", "Create"))
    for write in writes:
        before = asked.get((write.role, write.revision))
        if isinstance(write, Remove):
            note = f"removed {write.role} of revision {write.revision}: {write.why}"
            said.append(Announcement(EventType.NORMAL, "Removed", note, "Delete"))
        elif before is not None:
            note = f"scaled {write.role} of revision {write.revision} from {before} to {write.replicas}: {write.why}"
            said.append(Announcement(EventType.NORMAL, "Scaled", note, "Scale"))
    said += [Announcement(EventType.NORMAL, "Repaired", note, "Repair") for note in repaired]
    return said


#: The reason of the event when a condition becomes True and when it becomes False; None: not worth one.
_TURNS: Final[Mapping[ConditionType, tuple[str | None, str | None]]] = {
    ConditionType.ACCEPTED: ("Accepted", "NotAccepted"),
    ConditionType.AVAILABLE: ("Available", "NotAvailable"),
    ConditionType.DEGRADED: ("Degraded", "Recovered"),
    ConditionType.ACCELERATORS_ALLOCATED: (None, None),
    ConditionType.PROGRESSING: (None, None),
}
_BAD: Final = {"NotAccepted", "NotAvailable", "Degraded"}
#: What a new set starts from: becoming so is no news.
_AT_FIRST: Final = {
    ConditionType.ACCEPTED: "True",
    ConditionType.AVAILABLE: "False",
    ConditionType.DEGRADED: "False",
}


def of_status(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[Announcement]:
    """Announce the conditions that have turned.

    Parameters
    ----------
    before
        The status that was stored before; None: there was none.
    after
        The status that is stored now.
    """
    was = {c["type"]: c for c in (before or {}).get("conditions") or []}
    said = []
    for condition in after["conditions"]:
        kind = ConditionType(condition["type"])
        known = was.get(kind, {"status": _AT_FIRST.get(kind), "reason": condition["reason"]})
        reason = _TURNS[kind][0 if condition["status"] == "True" else 1]
        same = known["status"] == condition["status"]
        # Another reason for the same trouble is news too.
        if reason is None or (same and (reason not in _BAD or known["reason"] == condition["reason"])):
            continue
        kind_of_event = EventType.WARNING if reason in _BAD else EventType.NORMAL
        note = f"{condition['reason']}: {condition['message']}"
        said.append(Announcement(kind_of_event, reason, note, "Report"))
    return said
