"""Records what users of a set can see through a rollout, and checks the rollout's invariants at every instant of it.

It knows nothing of the operator's code: it watches Deployments, their pods and the set, puts the events in the order
in which the API server stored them, and states the invariants (design, section 5) in its own words.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import urllib3

from e2e.cluster import kubeconfig
from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from tests.integration.sets import API, KIND, LABEL, PATIENCE, Sets

SINGLE_ROLES = {"weights": "weights", "kv-cache": "kvCache"}
COORDINATOR = "kv-coordinator"
_DEPLOYMENT, _POD, _SET = ("apps/v1", "Deployment"), ("v1", "Pod"), (API, KIND)


@dataclass(frozen=True)
class Key:
    """A Deployment; ``identity`` is what the Services of weights and KV go by, and empty for compute."""

    role: str
    revision: str
    identity: str = ""


@dataclass(frozen=True)
class Count:
    """Pods of a Deployment: asked for, ready as its status says, and ready as the pods themselves say."""

    asked: int
    ready: int
    serving: int = 0


@dataclass(frozen=True)
class Limits:
    """What a spec says of a role."""

    replicas: int
    surge: int = 1
    unavailable: int = 0


Spec = Mapping[str, Limits]


@dataclass(frozen=True)
class Instant:
    """What was there after an event.

    Attributes
    ----------
    what
        The event.
    counts
        Pods of each Deployment.
    specs
        The specs that the operator may have acted on: the last one, and those before it since the one it has reported.
    at
        Seconds since the recording began.
    """

    what: str
    counts: Mapping[Key, Count]
    specs: Sequence[Spec]
    at: float = 0

    def asks_for(self) -> Mapping[Key, int]:
        """Return how many pods are asked for."""
        return {key: count.asked for key, count in self.counts.items()}


@dataclass(frozen=True)
class Recording:
    """What happened, in order; ``roles`` are those that each compute revision has."""

    instants: Sequence[Instant]
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def violations(self, *, draining: bool = False, pods_fail: bool = False) -> list[str]:
        """Say where the invariants were broken.

        Parameters
        ----------
        draining
            Whether new pods found no devices under DrainFirst, so that one pod may be missing of two or more.
        pods_fail
            Whether pods stopped being ready on their own: then only what was asked for is held against anybody.
        """
        first = self.instants[0]
        old: dict[tuple[str, str], int] = {}
        for key, count in first.counts.items():
            old[key.role, key.identity] = old.get((key.role, key.identity), 0) + count.asked
        before_all = frozenset(key.revision for key in first.counts)
        found = []
        for before, after in pairwise(self.instants):
            if pods_fail and before.asks_for() == after.asks_for():
                continue
            judged = [
                _Judge(self.roles, old, before_all, spec, draining=draining).judge(before.counts, after.counts)
                for spec in after.specs
            ]
            if all(judged):  # one of the specs that it may have acted on allows it
                found += [f"{after.at:.2f} s, {after.what}: {what}" for what in judged[-1]]
        return [*found, *self._orphans()]

    def _orphans(self) -> Iterator[str]:
        """When it is over, no compute revision has pods in one role and none in another."""
        last = self.instants[-1]
        for revision, roles in self.roles.items():
            asked = {r: last.counts.get(Key(r, revision), _NONE).asked for r in roles}
            wanted = [r for r in roles if r not in last.specs[-1] or last.specs[-1][r].replicas]
            if any(asked[r] for r in wanted) and not all(asked[r] for r in wanted):
                yield f"at the end: revision {revision} has pods in one role and none in another: {asked}"

    def total(self, role: str) -> list[int]:
        """Return how many pods of a role were asked for over all revisions, at each instant."""
        return [sum(c.asked for key, c in i.counts.items() if key.role == role) for i in self.instants]

    def ready(self, role: str) -> list[int]:
        """Return how many pods of a role were ready and asked for, at each instant."""
        return [sum(min(c.serving, c.asked) for key, c in i.counts.items() if key.role == role) for i in self.instants]

    def coherent(self) -> list[Fraction]:
        """Return the coherent capacity at each instant, measured by the last spec of it."""
        return [_coherent(self.roles, i.counts, i.specs[-1]) for i in self.instants]

    def table(self, *, everything: bool = False) -> str:
        """Write the instants as a table; without those at which no number changed."""
        roles = sorted({key.role for i in self.instants for key in i.counts})
        revisions = list(dict.fromkeys(key.revision for i in self.instants for key in i.counts))
        names = {revision: chr(ord("A") + number) for number, revision in enumerate(revisions)}
        keys = sorted({key for i in self.instants for key in i.counts}, key=lambda k: (k.role, names[k.revision]))
        head = ["seconds", *(f"{k.role} {names[k.revision]}" for k in keys), *(f"{r} asked/ready" for r in roles)]
        lines = [[*head, "coherent", "event"]]
        before = None
        for number, i in enumerate(self.instants):
            numbers = [
                f"{i.counts[k].asked}/{min(i.counts[k].serving, i.counts[k].asked)}" if k in i.counts else "-"
                for k in keys
            ]
            sums = [f"{self.total(r)[number]}/{self.ready(r)[number]}" for r in roles]
            if everything or numbers != before:
                coherent = str(self.coherent()[number])
                lines.append([f"{i.at:.2f}", *numbers, *sums, coherent, i.what])
            before = numbers
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join(row.rstrip() for row in rows)


_NONE = Count(0, 0, 0)


@dataclass(frozen=True)
class _Judge:
    """Judges one step, measured by one spec; ``old`` is what was desired at first, by role and identity."""

    roles: Mapping[str, frozenset[str]]
    old: Mapping[tuple[str, str], int]
    old_revisions: frozenset[str]
    spec: Spec
    draining: bool

    def judge(self, before: Mapping[Key, Count], after: Mapping[Key, Count]) -> list[str]:
        found = []
        places = dict.fromkeys((key.role, key.identity) for key in (*before, *after))
        for role, identity in places:
            limits, old = self.spec.get(role, Limits(0)), self.old.get((role, identity), 0)
            mine = [
                [c for k, c in side.items() if (k.role, k.identity) == (role, identity)] for side in (before, after)
            ]
            was, now = (sum(c.asked for c in counts) for counts in mine)
            most = max(old, limits.replicas) + limits.surge
            if now > max(most, was):
                found.append(f"ceiling: {now} pods of {role} are asked for, and {most} may be")
            # Two identities stand side by side; how long the one that goes has to stay is not seen from its numbers.
            alone = sum(other == role for other, _ in places) == 1
            least = min(old, limits.replicas) - self.unavailable(limits) if alone else 0
            for view in ("ready", "serving"):
                had, has = (sum(min(c.asked, getattr(c, view)) for c in counts) for counts in mine)
                if has < min(least, had):
                    found.append(f"floor: {has} pods of {role} are {view}, and {least} have to be")
        return [*found, *self.coherence(before, after)]

    def unavailable(self, limits: Limits) -> int:
        return max(limits.unavailable, 1) if self.draining and limits.replicas >= 2 else limits.unavailable

    def coherence(self, before: Mapping[Key, Count], after: Mapping[Key, Count]) -> Iterator[str]:
        live = _desired(self.spec)
        gone = {
            role: number
            for (role, identity), number in self.old.items()
            if not identity and number and role not in self.spec
        }
        least = {role: min(number, self.old.get((role, ""), 0) or number) for role, number in live.items()}
        for name, desired in (("desired", live | gone), ("least desired", least | gone)):
            missing = max(
                (Fraction(self.unavailable(self.spec[r]), n) for r, n in desired.items() if r in self.spec),
                default=Fraction(0),
            )
            for view in ("ready", "serving"):
                was, now = (self._sum(side, desired, view) for side in (before, after))
                if now < min(1 - missing, was):
                    yield f"coherence: {now} of what is {name} is {view} in whole revisions; {1 - missing} has to be"

    def _sum(self, counts: Mapping[Key, Count], desired: Mapping[str, int], view: str) -> Fraction:
        whole = Fraction(0)
        for revision, has in self.roles.items():
            mine = {role: counts.get(Key(role, revision), _NONE) for role in has}
            needed = [
                role
                for role in desired
                if role in has
                and (revision not in self.old_revisions or self.old.get((role, ""), 0) or mine[role].asked)
            ]
            parts = [Fraction(min(mine[r].asked, getattr(mine[r], view)), desired[r]) for r in needed]
            whole += min(parts, default=Fraction(0))
        return whole


def _coherent(roles: Mapping[str, frozenset[str]], counts: Mapping[Key, Count], spec: Spec) -> Fraction:
    judge = _Judge(roles, {}, frozenset(), spec, draining=False)
    return judge._sum(counts, _desired(spec), "serving")


def _desired(spec: Spec) -> dict[str, int]:
    """The compute roles that pods are wanted of, and how many."""
    return {role: of.replicas for role, of in spec.items() if of.replicas and role not in {*SINGLE_ROLES, COORDINATOR}}


class Recorder:
    """Records a set while a block runs; afterwards `recording` has it all.

    Parameters
    ----------
    sets, name
        The set.
    """

    def __init__(self, sets: Sets, name: str) -> None:
        self._sets, self._name = sets, name
        self._watches = [Watch(sets.cluster, *kind, sets.namespace) for kind in (_DEPLOYMENT, _POD, _SET)]
        self.recording: Recording

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        for watch in self._watches:
            watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if exception is None:
                for watch in self._watches:
                    watch.catch_up()
        finally:
            for watch in self._watches:
                watch.stop()
        self.recording = self._made()
        if exception is not None:
            exception.add_note(self.recording.table())

    def _is_mine(self, obj: Object) -> bool:
        metadata = obj["metadata"]
        return bool(self._name == ((metadata.get("labels") or {}).get(f"{LABEL}/set") or metadata["name"]))

    def _made(self) -> Recording:
        story = _Story(self._name)
        for watch in self._watches:
            for obj in watch.at_first:
                if self._is_mine(obj):
                    story.tell({"type": "ADDED", "object": obj, "before": None})
        instants = [story.instant("at first", at=0)]
        events = sorted(
            (event for watch in self._watches for event in watch.events if self._is_mine(event["object"])),
            key=lambda event: _version(event["object"]),
        )
        instants += [
            story.instant(what, at=event["at"] - self._began) for event in events if (what := story.tell(event))
        ]
        revisions = self._sets.children("apps/v1", "ControllerRevision", self._name, tier="compute")
        roles = {r["data"]["revision"]: frozenset(r["data"]["roles"]) for r in revisions}
        return Recording(instants, roles)


class _Story:
    """What is there after the events that were told so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: dict[Key, tuple[int, int]] = {}
        self.pods: dict[str, Key] = {}
        self.specs: list[tuple[int, Spec]] = []

    def tell(self, event: Object) -> str:
        """Take in an event, and say in words what it was; nothing if it doesn't matter."""
        obj = event["object"]
        metadata, gone = obj["metadata"], event["type"] == "DELETED"
        match obj["kind"]:
            case "Deployment":
                key, before = _key(obj["spec"]["template"]["metadata"]), event["before"]
                name = f"{key.role} of {key.revision}"
                if gone:
                    self.asked.pop(key, None)
                    return f"{name} is deleted"
                asked, ready = obj["spec"]["replicas"], (obj.get("status") or {}).get("readyReplicas", 0)
                was = self.asked.get(key)
                self.asked[key] = asked, ready
                if was is None:
                    return f"{name} is created with {asked}"
                if was[0] != asked:
                    return f"{name} is asked for {asked}, was {was[0]}"
                if was[1] != ready:
                    return f"{name} reports {ready} ready"
                return f"{name} is edited" if before and before["spec"] != obj["spec"] else ""
            case "Pod":
                key = _key(metadata)
                conditions = (obj.get("status") or {}).get("conditions") or []
                ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
                serves, served = (
                    ready and not gone and "deletionTimestamp" not in metadata,
                    metadata["uid"] in self.pods,
                )
                if serves:
                    self.pods[metadata["uid"]] = key
                else:
                    self.pods.pop(metadata["uid"], None)
                name = f"a pod of {key.role} of {key.revision}"
                return "" if serves == served else f"{name} {'is ready' if serves else 'serves no more'}"
            case _:
                generation, known = metadata["generation"], (obj.get("status") or {}).get("observedGeneration", 0)
                if not self.specs or self.specs[-1][0] != generation:
                    self.specs.append((generation, limits(obj["spec"])))
                self.specs = [entry for entry in self.specs if entry[0] >= min(known, generation)]
                return f"generation {generation} of the set, {known} reported"

    def instant(self, what: str, *, at: float) -> Instant:
        """Return what is there."""
        serving: dict[Key, int] = {}
        for key in self.pods.values():
            serving[key] = serving.get(key, 0) + 1
        # A status that is behind counts pods that have gone: asked for again, they would seem to be lost only then.
        counts = {
            key: Count(asked, min(ready, serving.get(key, 0)), serving.get(key, 0))
            for key, (asked, ready) in self.asked.items()
        }
        return Instant(what, counts, tuple(spec for _, spec in self.specs), at)


def _key(labelled: Object) -> Key:
    labels = {name.removeprefix(f"{LABEL}/"): value for name, value in labelled["labels"].items()}
    identity = "" if labels["tier"] == "compute" else labels.get("compute-revision", labels["model-revision"])
    return Key(labels["role"], labels["revision"], identity)


def trusting(access: kubeconfig.Access) -> ssl.SSLContext:
    """Trust the API server of a kubeconfig, and show it the certificate of the client where there is one."""
    context = ssl.create_default_context(cadata=access.authority)
    if access.certificate and access.key:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # ssl takes them from files only
            file.write(access.certificate + access.key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


def limits(spec: Object) -> Spec:
    """Read what a spec says of each role."""
    roles = {name: spec[tier] for name, tier in SINGLE_ROLES.items() if tier in spec}
    roles |= {role["name"]: role for role in spec["compute"]["roles"]}
    return {name: _limits(role) for name, role in roles.items()} | (
        {COORDINATOR: Limits(1, 0, 1)} if "coordinator" in spec.get("kvCache", {}) else {}
    )


def _limits(role: Object) -> Limits:
    replicas, rollout = role.get("replicas", 1), role.get("rollout") or {}

    def pods(value: int | str, *, up: bool) -> int:
        if isinstance(value, int):
            return value
        part = Fraction(int(value.removesuffix("%")) * replicas, 100)
        return -(-part.numerator // part.denominator) if up else int(part)

    surge, unavailable = pods(rollout.get("maxSurge", 1), up=True), pods(rollout.get("maxUnavailable", 0), up=False)
    return Limits(replicas, surge, unavailable if surge or unavailable else 1)


class Watch:
    """A watch stream in a thread of its own: every event of a kind in a namespace, in order."""

    def __init__(self, cluster: Cluster, api_version: str, kind: str, namespace: str) -> None:
        access = kubeconfig.read(cluster.kubeconfig)
        headers = {"Accept": "application/json"}
        if access.token:
            headers["Authorization"] = f"Bearer {access.token}"
        context = trusting(access)
        self._cluster, self._api_version, self._kind = cluster, api_version, kind
        self._path = cluster.client.path(api_version, kind, None, namespace)
        self._pool = urllib3.PoolManager(ssl_context=context, headers=headers, retries=False)
        self._stopping, self._error = False, ""
        self.at_first: list[Object] = []
        self.events: list[Object] = []

    def start(self) -> None:
        listed = self._cluster.client.request("GET", self._path)
        of_kind = {"apiVersion": self._api_version, "kind": self._kind}  # a list's items don't say it
        self.at_first = [item | of_kind for item in listed["items"]]
        query = {"watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": "3600"}
        timeout = urllib3.Timeout(connect=5, read=None)
        url = f"{self._cluster.server}{self._path}?{urlencode(query)}"
        self._response = self._pool.request("GET", url, preload_content=False, timeout=timeout)
        if self._response.status != 200:
            raise ConnectionError(f"watching {self._kind}s: {self._response.status} {self._response.data!r}")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        known = {item["metadata"]["uid"]: item for item in self.at_first}
        try:
            for line in self._response:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ConnectionError(line)
                obj = event["object"]
                self.events.append({**event, "before": known.get(obj["metadata"]["uid"]), "at": time.monotonic()})
                known[obj["metadata"]["uid"]] = obj
            raise ConnectionError("the stream has ended")
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
            if not self._stopping:
                self._error = f"watching {self._kind}s: {error!r}"

    def catch_up(self) -> None:
        """Return when all that has happened by now is recorded."""
        listed = self._cluster.client.request("GET", self._path)
        now = {item["metadata"]["uid"]: _version(item) for item in listed["items"]}

        def seen() -> bool:
            if self._error:
                raise ConnectionError(self._error)
            known = {item["metadata"]["uid"]: _version(item) for item in self.at_first}
            for event in list(self.events):
                known[event["object"]["metadata"]["uid"]] = _version(event["object"])
                if event["type"] == "DELETED":
                    del known[event["object"]["metadata"]["uid"]]
            gone = {uid for uid, version in known.items() if uid not in now and version <= _version(listed)}
            return not gone and all(known.get(uid, version) >= version for uid, version in now.items())

        wait_for(f"the recorder to see all {self._kind}s", seen, timeout=PATIENCE)

    def stop(self) -> None:
        self._stopping = True
        with contextlib.suppress(ValueError):  # it has ended by itself, of which `catch_up` tells
            self._response.shutdown()
        self._thread.join()
        self._response.close()
        self._pool.clear()
