"""Objects of the API server as they are: dicts, never round-tripped through models that could drop a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

Object = dict[str, Any]


class Key(NamedTuple):
    """What identifies an object of a kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects, and where the API server serves it."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the path of a collection, an object or a subresource of it."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/" + "/".join(parts)


DEPLOYMENT: Final = Kind("apps", "v1", "deployments", "Deployment")
CONTROLLER_REVISION: Final = Kind("apps", "v1", "controllerrevisions", "ControllerRevision")
SERVICE: Final = Kind("", "v1", "services", "Service")
POD: Final = Kind("", "v1", "pods", "Pod")
DISRUPTION_BUDGET: Final = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
CLAIM_TEMPLATE: Final = Kind("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate")
CLAIM: Final = Kind("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim")
DEVICE_CLASS: Final = Kind("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", namespaced=False)
AUTOSCALER: Final = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
INFERENCE_POOL: Final = Kind("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")
EVENT: Final = Kind("events.k8s.io", "v1", "events", "Event")
LEASE: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")


def key_of(obj: Object) -> Key:
    """Return the key of an object."""
    metadata = obj["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def controller_uid(obj: Object) -> str | None:
    """Return the uid of the object's controller."""
    owners = obj["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def resource_version(obj: Object) -> int:
    """Return the object's resource version.

    Comparing those of one kind is defined since Kubernetes 1.35 (KEP-5504) and has always worked with etcd.
    """
    return int(obj["metadata"].get("resourceVersion") or 0)


def is_terminating(obj: Object) -> bool:
    """Whether the object is being deleted."""
    return bool(obj["metadata"].get("deletionTimestamp"))
