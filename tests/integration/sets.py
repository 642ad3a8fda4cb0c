"""Sets in a namespace of a cluster: made, changed, and watched until they are as a test wants them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for

API = "disaggregatedset.dev/v1alpha1"
KIND = "DisaggregatedSet"
LABEL = "disaggregatedset.dev"
#: Seconds to wait for what takes a few on an idle machine: this one may have more to do.
PATIENCE = 180
CHILD_KINDS = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "ControllerRevision"),
    ("v1", "Service"),
    ("policy/v1", "PodDisruptionBudget"),
    ("resource.k8s.io/v1", "ResourceClaimTemplate"),
)


def template(image: str = "example/engine:1", **annotations: str) -> Object:
    """A pod template; annotations choose how simulated pods behave."""
    made: Object = {"spec": {"containers": [{"name": "engine", "image": image, "ports": [{"containerPort": 8000}]}]}}
    if annotations:
        names = {name.replace("_", "-"): value for name, value in annotations.items()}
        made["metadata"] = {"annotations": {f"e2e.disaggregatedset.dev/{name}": value for name, value in names.items()}}
    return made


def gpus(count: int = 1) -> Object:
    """The accelerators of a role: GPUs of the simulated driver."""
    return {"requests": [{"name": "gpu", "deviceClassName": "gpu.example.com", "count": count}]}


def compute(**roles: Object) -> Object:
    """The compute tier of named roles; each may leave out what it doesn't care about."""
    return {"roles": [{"name": name, "template": template(), **role} for name, role in roles.items()]}


def spec(**tiers: Any) -> Object:
    """A spec: a model, one prefill and one decode role unless said otherwise, and more tiers."""
    return {
        "model": {"name": "example/model", "source": "hf://example/model"},
        "compute": compute(prefill={}, decode={}),
    } | tiers


@dataclass(frozen=True)
class Sets:
    """The sets of one namespace."""

    cluster: Cluster
    namespace: str

    def apply(self, name: str, spec: Object) -> Object:
        """Apply a set as a user does."""
        metadata = {"name": name, "namespace": self.namespace}
        return self.cluster.client.apply({"apiVersion": API, "kind": KIND, "metadata": metadata, "spec": spec})

    def get(self, name: str) -> Object:
        """Return a set."""
        return self.cluster.client.get(API, KIND, name, self.namespace)

    def wait(self, name: str, until: Callable[[Object], Any], *, timeout: float = PATIENCE) -> Object:
        """Return a set's status as soon as it is of its generation and ``until`` is true for it."""

        def seen(obj: Object) -> bool:
            status = obj.get("status") or {}
            return status.get("observedGeneration") == obj["metadata"]["generation"] and bool(until(status))

        status: Object = self.cluster.client.wait(API, KIND, name, self.namespace, seen, timeout=timeout)["status"]
        return status

    def wait_available(self, name: str, *, timeout: float = PATIENCE) -> Object:
        """Return a set's status as soon as it is available and everything is as desired."""
        return self.wait(
            name,
            lambda s: (
                condition(s, "Available")["status"] == "True" and condition(s, "Progressing")["reason"] == "Complete"
            ),
            timeout=timeout,
        )

    def children(self, api_version: str, kind: str, name: str, **labels: str) -> list[Object]:
        """Return the children of a set of one kind."""
        selector = ",".join(f"{LABEL}/{key}={value}" for key, value in {"set": name, **labels}.items())
        return self.cluster.client.list(api_version, kind, self.namespace, labels=selector)

    def all_children(self, name: str) -> dict[str, Object]:
        """Return all children of a set by kind and name."""
        return {
            f"{kind}/{child['metadata']['name']}": child
            for api_version, kind in CHILD_KINDS
            for child in self.children(api_version, kind, name)
        }

    def written(self, name: str) -> dict[str, Object]:
        """Return all children of a set by kind and name, without their status: what stays the same was not written."""
        children = self.all_children(name)
        for child in children.values():
            child.pop("status", None)
            metadata = child["metadata"]
            del metadata["resourceVersion"]
            metadata["managedFields"] = [m for m in metadata["managedFields"] if m.get("subresource") != "status"]
        return children

    def deployments(self, name: str, **labels: str) -> list[Object]:
        """Return the Deployments of a set."""
        return self.children("apps/v1", "Deployment", name, **labels)

    def events(self, name: str) -> list[str]:
        """Return reason and message of the events about a set."""
        events = self.cluster.client.list("events.k8s.io/v1", "Event", self.namespace)
        return [f"{e['reason']}: {e.get('note', '')}" for e in events if e["regarding"]["name"] == name]

    def wait_event(self, name: str, text: str) -> None:
        """Return as soon as there is an event about a set with this text in it."""
        wait_for(f"an event with {text!r}", lambda: [e for e in self.events(name) if text in e], timeout=PATIENCE)


def condition(status: Object, kind: str) -> Object:
    """Return a condition of a status; one that is not there is empty."""
    found: Object = next((c for c in status.get("conditions") or [] if c["type"] == kind), {})
    return {"status": "", "reason": "", "message": ""} | found


def role(status: Object, name: str) -> Object:
    """Return a role of a status."""
    return next(r for r in status["roles"] if r["name"] == name)


def changed(spec: Object, change: Callable[[Object], Any]) -> Object:
    """Return a copy of a spec with a change."""
    made = copy.deepcopy(spec)
    change(made)
    return made
