"""What is worth an event: the decisions and changes that a person would ask about. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from disaggregatedset.api import ConditionType
from disaggregatedset.cluster.events import EventType
from disaggregatedset.reconcile.view import View
from disaggregatedset.rollout import Outcome


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event to write once what it tells of is stored."""

    type: EventType
    reason: str
    note: str
    action: str


def of_writes(seen: View, outcomes: Iterable[Outcome], repaired: Iterable[str]) -> list[Announcement]:
    """Announce what was written.

    Parameters
    ----------
    seen
        The children before the writes.
    outcomes
        The planner's.
    repaired
        Children that others had changed, and how.
    """
    asked = {(r.role, r.revision): r.observed.asked for r in seen.running}
    started, scaled, removed = [], [], []
    for outcome in outcomes:
        for write in outcome.writes:
            before = asked.get((write.role, write.revision))
            what = f"{write.role} of revision {write.revision}"
            if before is None:
                started.append(f"{what} with {write.replicas} pods")
            else:
                scaled.append(f"{what} from {before} to {write.replicas} ({write.why})")
        removed += [f"{gone.role} of revision {gone.revision}" for gone in outcome.removals]
    said = [("Starting", "starting", "Create", started), ("Scaled", "scaled", "Scale", scaled)]
    said.append(("Removed", "removed, because no compute pod uses it any more,", "Delete", removed))
    return [
        *(
            Announcement(EventType.NORMAL, reason, f"{verb} {', '.join(what)}", action)
            for reason, verb, action, what in said
            if what
        ),
        *(Announcement(EventType.NORMAL, "Repaired", note, "Repair") for note in repaired),
    ]


#: The reason of the event when a condition becomes True and when it becomes False; None: not worth one.
_TURNS: Final[Mapping[ConditionType, tuple[str | None, str | None]]] = {
    ConditionType.ACCEPTED: ("Accepted", "NotAccepted"),
    ConditionType.AVAILABLE: ("Available", "NotAvailable"),
    ConditionType.DEGRADED: ("Degraded", "Recovered"),
    ConditionType.ACCELERATORS_ALLOCATED: (None, None),
    ConditionType.PROGRESSING: (None, None),
    ConditionType.ROUTED: ("Routed", "NotRouted"),
}
_BAD: Final = {"NotAccepted", "NotAvailable", "Degraded", "NotRouted"}
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
    return [*said, *_of_rollouts(before or {}, after)]


def _of_rollouts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Announcement]:
    def by_group(status: Mapping[str, Any], field: str) -> dict[str, Mapping[str, Any]]:
        return {entry["group"]: entry for entry in status.get(field) or []}

    said = []
    was, now = by_group(before, "rollouts"), by_group(after, "rollouts")
    failed, fails = by_group(before, "failedRevisions"), by_group(after, "failedRevisions")
    for group, rollout in now.items():
        known = was.get(group, {})
        if rollout.get("from") and known.get("to") != rollout["to"]:
            note = f"{group}: from revision {rollout['from']} to {rollout['to']}"
            reason = "RollingBack" if rollout["phase"] == "RollingBack" else "RolloutStarted"
            said.append(Announcement(EventType.NORMAL, reason, note, "Rollout"))
        if rollout["phase"] == "WaitingForDevices" != known.get("phase"):
            note = f"{group}: {rollout.get('message', '')}"
            said.append(Announcement(EventType.WARNING, "WaitingForDevices", note, "Rollout"))
    for group, rollout in was.items():
        if group not in now and rollout.get("from") and (after.get("goodRevisions") or {}).get(group) == rollout["to"]:
            reason, again = ("RolledBack", " again") if group in fails else ("RolloutComplete", "")
            note = f"{group}: all pods are of revision {rollout['to']}{again}"
            said.append(Announcement(EventType.NORMAL, reason, note, "Rollout"))
    for group, failure in fails.items():
        known = failed.get(group, {})
        note = f"{group} revision {failure['revision']}: {failure['reason']}: {failure['message']}"
        if failure.get("rollbackFailed") and not known.get("rollbackFailed"):
            said.append(Announcement(EventType.WARNING, "RollbackFailed", note, "Rollout"))
        elif known.get("revision") != failure["revision"] or known.get("failedAt") != failure["failedAt"]:
            said.append(Announcement(EventType.WARNING, "RolloutFailed", note, "Rollout"))
    return said
