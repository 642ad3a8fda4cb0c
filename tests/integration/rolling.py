"""Rollouts of a set, recorded and checked, and nodes of a test's own for them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from e2e.cluster.base import Cluster
from e2e.cluster.client import ApiError, Object
from e2e.cluster.wait import wait_for
from tests.integration.recorder import Recorder, Recording
from tests.integration.sets import PATIENCE, Sets, compute, condition, gpus, spec, template

NAME = "llama"
Change = Callable[[Object], Any]


def engines(version: str | int, *, ready_after: str = "300ms", **roles: Object) -> Object:
    """A spec of compute roles, all of an engine's version; a role's ``behaviour`` goes into its template."""
    made = {}
    for name, role in roles.items():
        how = {"ready_after": ready_after} | role.pop("behave", {})
        made[name] = {"template": template(f"engine:{version}", **how)} | role
    return spec(compute=compute(**made))


def role(replicas: int, surge: int | str = 1, unavailable: int | str = 0, **more: Any) -> Object:
    """A role by its numbers."""
    return {"replicas": replicas, "rollout": {"maxSurge": surge, "maxUnavailable": unavailable}, **more}


def start(sets: Sets, spec: Object) -> Object:
    """Bring a set up; return its status."""
    sets.apply(NAME, spec)
    return sets.wait_available(NAME)


def retry(sets: Sets, value: str) -> None:
    """Ask for another try of a failed revision."""
    annotations = {"disaggregatedset.dev/retry": value}
    sets.cluster.client.patch(
        "disaggregatedset.dev/v1alpha1", "DisaggregatedSet", NAME, sets.namespace,
        {"metadata": {"annotations": annotations}},
    )  # fmt: skip


def misbehave(sets: Sets, behaviour: str | None, **labels: str) -> None:
    """Have all pods of these labels misbehave from now on; None: behave."""
    annotations = {"e2e.disaggregatedset.dev/behaviour": behaviour}
    for pod in sets.children("v1", "Pod", NAME, **labels):
        patch = {"metadata": {"annotations": annotations}}
        try:
            sets.cluster.client.patch("v1", "Pod", pod["metadata"]["name"], sets.namespace, patch)
        except ApiError as error:
            if error.status != 404:  # it may have gone meanwhile
                raise


def revisions(sets: Sets) -> set[str]:
    """The compute revisions that have Deployments."""
    return {d["metadata"]["labels"]["disaggregatedset.dev/revision"] for d in sets.deployments(NAME, tier="compute")}


def wanted(status: Object) -> str:
    """The compute revision that a spec asks for, by its status."""
    return next(str(r["revision"]) for r in status["roles"] if r["tier"] == "compute")


def wait_rolled(sets: Sets) -> Object:
    """Wait until a rollout has ended and nothing is left of what it replaced; return the status."""
    status = sets.wait_available(NAME)
    wait_for("old revisions to go", lambda: revisions(sets) == {wanted(status)}, timeout=PATIENCE)
    return status


@contextmanager
def recorded(sets: Sets, *, draining: bool = False, pods_fail: bool = False) -> Iterator[Recorder]:
    """Record what a block does to the set, and check that no invariant was broken."""
    with Recorder(sets, NAME) as recorder:
        yield recorder
    check(recorder.recording, draining=draining, pods_fail=pods_fail)


def check(recording: Recording, *, draining: bool = False, pods_fail: bool = False) -> None:
    """Check that no invariant was broken."""
    found = recording.violations(draining=draining, pods_fail=pods_fail)
    assert not found, "\n".join([*found, recording.table()])


def roll(sets: Sets, spec: Object, *, draining: bool = False) -> Recording:
    """Apply a spec and record until it has rolled out."""
    with recorded(sets, draining=draining) as recorder:
        sets.apply(NAME, spec)
        wait_rolled(sets)
    return recorder.recording


def reason(status: Object, kind: str) -> str:
    """The reason of a condition."""
    return str(condition(status, kind)["reason"])


@dataclass(frozen=True)
class Pool:
    """A node with devices that only pods of one test run on.

    Attributes
    ----------
    cluster
        The cluster.
    name
        The node.
    """

    cluster: Cluster
    name: str

    def role(self, replicas: int, surge: int = 1, unavailable: int = 0) -> Object:
        """A role whose pods each claim a device of this node."""
        return role(replicas, surge, unavailable, accelerators=gpus())

    def only(self, spec: Object) -> Object:
        """Have all compute pods of a spec run here."""
        for of in spec["compute"]["roles"]:
            of["template"]["spec"] |= {
                "nodeSelector": {"kubernetes.io/hostname": self.name},
                "tolerations": [{"key": "reserved", "value": self.name}],
            }
        return spec


@contextmanager
def reserved(cluster: Cluster, *, devices: int = 0, cpu: str = "64") -> Iterator[Pool]:
    """Reserve a node of its own for a test."""
    (name,) = cluster.add_nodes(1, cpu=cpu, prefix=f"reserved-{secrets.token_hex(2)}")
    try:
        taint = {"key": "reserved", "value": name, "effect": "NoSchedule"}
        cluster.client.patch("v1", "Node", name, None, {"spec": {"taints": [taint]}})
        # Only now: nobody else's pod may have taken one.
        cluster.set_devices(name, devices)
        yield Pool(cluster, name)
    finally:
        cluster.remove_node(name)
