"""Why pods of a role are not ready: grouped by cause, in the words of scheduler, kubelet or container. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from disaggregatedset.cluster.objects import Object, is_terminating
from disaggregatedset.render import REVISION_LABEL, ROLE_LABEL


class Cause(StrEnum):
    """Why a pod is not ready, worst first."""

    REJECTED = "Rejected"
    IMAGE_PULL = "ImagePull"
    CRASH_LOOP = "CrashLoop"
    DEVICES_EXHAUSTED = "DevicesExhausted"
    UNSCHEDULABLE = "Unschedulable"
    NOT_READY = "NotReady"
    STARTING = "Starting"

    @property
    def failing(self) -> bool:
        """Whether waiting alone will probably not help."""
        return self is not Cause.STARTING and self is not Cause.NOT_READY


_WORDS = {
    Cause.REJECTED: "are rejected",
    Cause.IMAGE_PULL: "can't pull their image",
    Cause.CRASH_LOOP: "crash",
    Cause.DEVICES_EXHAUSTED: "wait for devices",
    Cause.UNSCHEDULABLE: "can't be scheduled",
    Cause.NOT_READY: "run but are not ready",
    Cause.STARTING: "are starting",
}
_MAX_WORDS = 600
_PULL_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_WAITING_REASONS = {"ContainerCreating", "PodInitializing", ""}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a role is not as desired.

    Attributes
    ----------
    cause
        The worst cause of its pods.
    message
        All causes, with how many pods and somebody's own words for each.
    counts
        Pods by cause.
    """

    cause: Cause
    message: str
    counts: Mapping[Cause, int] = field(default_factory=dict)


def diagnose(pods: Iterable[Object], *, total: int) -> Diagnosis | None:
    """Say why pods of a role are not ready.

    Parameters
    ----------
    pods
        The pods of the role.
    total
        How many pods are wanted.

    Returns
    -------
    Diagnosis or None
        None if all pods that there are are ready.
    """
    said: dict[Cause, Counter[str]] = defaultdict(Counter)
    for pod in pods:
        if is_terminating(pod) or (verdict := _verdict(pod)) is None:
            continue
        cause, words = verdict
        said[cause][words[:_MAX_WORDS]] += 1
    if not said:
        return None
    order = list(Cause)
    worst = min(said, key=order.index)
    parts = []
    for cause in sorted(said, key=order.index):
        words, _ = said[cause].most_common(1)[0]
        count = sum(said[cause].values())
        parts.append(f"{count} of {total} pods {_WORDS[cause]}" + (f": {words}" if words else ""))
    return Diagnosis(worst, "; ".join(parts), {cause: sum(words.values()) for cause, words in said.items()})


@dataclass(frozen=True, slots=True)
class Diagnoses:
    """Why pods of a set are not ready.

    Attributes
    ----------
    roles
        By role, over all its revisions.
    revisions
        By role and revision.
    """

    roles: Mapping[str, Diagnosis] = field(default_factory=dict)
    revisions: Mapping[tuple[str, str], Diagnosis] = field(default_factory=dict)


def diagnose_set(
    pods: Iterable[Object], deployments: Iterable[Object], desired: Mapping[str, Mapping[str, int]]
) -> Diagnoses:
    """Diagnose the roles of a set.

    Parameters
    ----------
    pods, deployments
        All of the set.
    desired
        Pods wanted, by tier group and role.
    """
    totals = {role: total for roles in desired.values() for role, total in roles.items()}
    by_role: dict[str, list[Object]] = defaultdict(list)
    by_revision: dict[tuple[str, str], list[Object]] = defaultdict(list)
    for pod in pods:
        labels = pod["metadata"]["labels"]
        role = labels.get(ROLE_LABEL, "")
        by_role[role].append(pod)
        by_revision[role, labels.get(REVISION_LABEL, "")].append(pod)
    roles = {role: found for role, total in totals.items() if (found := diagnose(by_role[role], total=total))}
    revisions = {key: found for key, of in by_revision.items() if (found := diagnose(of, total=len(of)))}
    for deployment in deployments:
        conditions = (deployment.get("status") or {}).get("conditions") or []
        failure = next((c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"), None)
        if failure is not None:
            labels = deployment["metadata"]["labels"]
            role = labels.get(ROLE_LABEL, "")
            message = f"pods {_WORDS[Cause.REJECTED]}: {failure['message'][:_MAX_WORDS]}"
            roles[role] = revisions[role, labels.get(REVISION_LABEL, "")] = Diagnosis(Cause.REJECTED, message)
    return Diagnoses(roles, revisions)


def _verdict(pod: Object) -> tuple[Cause, str] | None:
    status = pod.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    if conditions.get("Ready", {}).get("status") == "True":
        return None
    if status.get("phase") in {"Failed", "Succeeded"}:  # evicted, say: its ReplicaSet has replaced it
        return None
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        words = scheduled.get("message", "")
        return (Cause.DEVICES_EXHAUSTED if _is_about_devices(words) else Cause.UNSCHEDULABLE), words
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        if (found := _container_verdict(container)) is not None:
            return found
    running = [
        c["name"]
        for c in containers
        if "running" in (c.get("state") or {}) and c.get("started", True) and not c.get("ready")
    ]
    if running and status.get("phase") == "Running":
        return Cause.NOT_READY, f"container {running[0]} does not pass its readiness probe"
    return Cause.STARTING, ""


def _container_verdict(container: Mapping[str, Any]) -> tuple[Cause, str] | None:
    name = container["name"]
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    words = waiting.get("message") or reason
    if reason in _PULL_REASONS:
        return Cause.IMAGE_PULL, f"container {name}: {words}"
    ended = (container.get("lastState") or {}).get("terminated") or (container.get("state") or {}).get("terminated")
    if ended and not container.get("ready") and (reason == "CrashLoopBackOff" or ended.get("exitCode")):
        why = ended.get("message") or ended.get("reason") or ""
        restarts = container.get("restartCount", 0)
        return Cause.CRASH_LOOP, (
            f"container {name} ended with exit code {ended.get('exitCode')} ({why}), restarted {restarts} times"
        )
    if reason == "CrashLoopBackOff":
        return Cause.CRASH_LOOP, f"container {name}: {words}"
    if reason not in _WAITING_REASONS:
        return Cause.REJECTED, f"container {name}: {words}"
    return None


def _is_about_devices(words: str) -> bool:
    # The scheduler's plugins DynamicResources and NodeResourcesFit, the latter for what device plugins offer. The first
    # ends other verdicts with "no new claims to deallocate".
    return "cannot allocate all claims" in words or re.search(r"Insufficient [\w.-]+/", words) is not None
