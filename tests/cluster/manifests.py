"""Objects that several of these tests need."""

from collections.abc import Callable
from typing import Any

Object = dict[str, Any]


def pod(name: str, namespace: str, annotations: dict[str, str] | None = None, **spec: Any) -> Object:
    containers = [{"name": "main", "image": "registry.example/server:v1"}, {"name": "extra", "image": "extra:v1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations or {}},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 30, **spec},
    }


def deployment(name: str, namespace: str, replicas: int, **spec: Any) -> Object:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod(name, namespace, **spec)["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


def claim_template(name: str, namespace: str, requests: list[Object], **devices: Any) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"spec": {"devices": {"requests": requests, **devices}}},
    }


def request(name: str, device_class: str, count: int = 1, **more: Any) -> Object:
    return {"name": name, "exactly": {"deviceClassName": device_class, "count": count, **more}}


def is_ready(pod: Object) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def has_ready(pods: int) -> Callable[[Object], bool]:
    """Return whether a Deployment has so many ready pods; one that is new has no status yet."""
    return lambda deployment: deployment.get("status", {}).get("readyReplicas") == pods


def condition(obj: Object, kind: str) -> Object:
    conditions = obj.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})
