"""Scaling of roles as people do it, and what became of it as others see it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from tests.integration.recorder import Recording, Watch
from tests.integration.rolling import NAME
from tests.integration.sets import API, LABEL, PATIENCE, Sets, role

EXTERNAL = {"scaling": {"mode": "External"}}
HPA = ("autoscaling/v2", "HorizontalPodAutoscaler")


def scale(sets: Sets, name: str, replicas: int) -> None:
    """Scale a role by kubectl, as a person does."""
    sets.cluster.kubectl("scale", f"dscale/{NAME}-{name}", f"--replicas={replicas}", "-n", sets.namespace)


def scaler(sets: Sets, name: str) -> Object:
    """The RoleScaler of a role."""
    return sets.cluster.client.get(API, "RoleScaler", f"{NAME}-{name}", sets.namespace)


def wait_scaler(sets: Sets, name: str, until: Callable[[Object], Any]) -> Object:
    """Return the RoleScaler of a role as soon as something is true for it."""
    kind = (API, "RoleScaler", f"{NAME}-{name}", sets.namespace)
    return sets.cluster.client.wait(*kind, until, timeout=PATIENCE)


def wait_scaled(sets: Sets, **replicas: int) -> Object:
    """Wait until so many pods of some roles are wanted, there and ready; return the status."""
    wanted = {name.replace("_", "-"): number for name, number in replicas.items()}

    def scaled(status: Object) -> bool:
        found = {name: role(status, name) for name in wanted}
        return all((r["desired"], r["replicas"], r["ready"]) == (wanted[name],) * 3 for name, r in found.items())

    return sets.wait(NAME, scaled)


def steps(numbers: list[int]) -> list[int]:
    """Leave out what is the same as before."""
    return [number for index, number in enumerate(numbers) if index == 0 or number != numbers[index - 1]]


def timed(recording: Recording, name: str) -> list[tuple[float, int]]:
    """Return when how many pods of a role were asked for, each time that the number changed."""
    found: list[tuple[float, int]] = []
    for instant, number in zip(recording.instants, recording.total(name), strict=True):
        if not found or found[-1][1] != number:
            found.append((round(instant.at, 2), number))
    return found


def asked(sets: Sets, name: str, **labels: str) -> int:
    """Return how many pods of a role are asked for."""
    return sum(d["spec"]["replicas"] for d in sets.deployments(NAME, role=name, **labels))


def pods(sets: Sets, **labels: str) -> list[Object]:
    """The pods of a set that are not on their way out."""
    found = sets.children("v1", "Pod", NAME, **labels)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


@contextmanager
def watched(sets: Sets, api_version: str, kind: str) -> Iterator[Watch]:
    """Watch a kind while a block runs."""
    watch = Watch(sets.cluster, api_version, kind, sets.namespace)
    watch.start()
    try:
        yield watch
        watch.catch_up()
    finally:
        watch.stop()


@contextmanager
def labelled_nodes(cluster: Cluster, *values: str, each: int = 1, cpu: str = "8") -> Iterator[str]:
    """Add nodes with a label of a test's own, so many of each value; yield its key."""
    key = f"test-{secrets.token_hex(3)}.example.com/rack"
    names: list[str] = []
    try:
        for value in values:
            names += cluster.add_nodes(each, labels={key: value}, cpu=cpu, prefix=f"{value}-{secrets.token_hex(2)}")
        yield key
    finally:
        for name in names:
            cluster.remove_node(name)


def only_on(key: str, value: str | None = None) -> Object:
    """Have pods run only on nodes with a label, of one value or any: part of their spec."""
    wanted = {"key": key, "operator": "In", "values": [value]} if value else {"key": key, "operator": "Exists"}
    required = {"nodeSelectorTerms": [{"matchExpressions": [wanted]}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


class Held:
    """A rollout that is held open: the new pods run nowhere before a node has a label.

    Parameters
    ----------
    cluster
        The cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._key = f"test-{secrets.token_hex(3)}.example.com/open"
        self._node = ""

    def holding(self, spec: Object) -> Object:
        """Have the compute pods of a spec wait."""
        for of in spec["compute"]["roles"]:
            of["template"]["spec"] |= only_on(self._key)
        return spec

    def release(self) -> None:
        """Let the pods run."""
        nodes = self._cluster.client.list("v1", "Node", labels="!node.kubernetes.io/unschedulable")
        self._node = next(n["metadata"]["name"] for n in nodes if not n["spec"].get("taints"))
        self._label("yes")

    def forget(self) -> None:
        """Take the label away."""
        if self._node:
            self._label(None)

    def _label(self, value: str | None) -> None:
        self._cluster.client.patch("v1", "Node", self._node, None, {"metadata": {"labels": {self._key: value}}})


@contextmanager
def held(cluster: Cluster) -> Iterator[Held]:
    """Hold rollouts open in a block."""
    holder = Held(cluster)
    try:
        yield holder
    finally:
        holder.forget()


def wait_started(sets: Sets) -> None:
    """Wait until pods of two compute revisions are asked for."""

    def started() -> bool:
        found = {d["metadata"]["labels"][f"{LABEL}/revision"] for d in sets.deployments(NAME, tier="compute")}
        return len(found) == 2

    wait_for("a rollout to be under way", started, PATIENCE)


def conditions(obj: Object) -> Mapping[str, Object]:
    """The conditions of an object, by type."""
    return {c["type"]: c for c in (obj.get("status") or {}).get("conditions") or []}
