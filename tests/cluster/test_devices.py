"""The scheduler really allocates the devices that the nodes publish."""

from typing import Any

import pytest

from e2e.cluster import Cluster, wait_for
from tests.cluster.manifests import Object, claim_template, condition, deployment, has_ready, is_ready, pod, request

pytestmark = pytest.mark.cluster

GPU = "gpu.example.com"
NIC = "nic.example.com"
CLAIMS: dict[str, Any] = {"resourceClaims": [{"name": "devices", "resourceClaimTemplateName": "devices"}]}


def allocated(cluster: Cluster, namespace: str) -> list[Object]:
    """Return the devices of the namespace's only claim."""
    [claim] = cluster.client.list("resource.k8s.io/v1", "ResourceClaim", namespace)
    results: list[Object] = claim["status"]["allocation"]["devices"]["results"]
    return results


def test_a_pod_gets_its_device(cluster: Cluster, namespace: str) -> None:
    cluster.apply([claim_template("devices", namespace, [request("gpu", GPU)]), pod("user", namespace, **CLAIMS)])
    user = cluster.client.wait("v1", "Pod", "user", namespace, is_ready)
    [device] = allocated(cluster, namespace)
    assert device["driver"] == GPU
    assert device["pool"] == user["spec"]["nodeName"]


def test_a_selector_and_a_constraint_choose_devices(cluster: Cluster, namespace: str) -> None:
    expression = (
        f"device.attributes['{GPU}'].index == 2"
        f" && device.attributes['{GPU}'].driverVersion.isGreaterThan(semver('1.0.0'))"
        f" && device.capacity['{GPU}'].memory.compareTo(quantity('80Gi')) >= 0"
    )
    gpu = request("gpu", GPU, selectors=[{"cel": {"expression": expression}}])
    constraint = {"requests": ["gpu", "nic"], "matchAttribute": "resource.kubernetes.io/pcieRoot"}
    template = claim_template("devices", namespace, [gpu, request("nic", NIC)], constraints=[constraint])
    cluster.apply([template, pod("user", namespace, **CLAIMS)])
    cluster.client.wait("v1", "Pod", "user", namespace, is_ready)
    assert {device["device"] for device in allocated(cluster, namespace)} == {"gpu-2", "nic-2"}


def test_what_there_is_no_device_for_waits_and_gets_one_when_it_is_added(cluster: Cluster, namespace: str) -> None:
    [node] = cluster.add_nodes(1, devices=2, labels={"pool": namespace}, prefix=namespace[-12:])
    selector = {"nodeSelector": {"pool": namespace}}
    template = claim_template("devices", namespace, [request("gpu", GPU)])
    cluster.apply([template, deployment("users", namespace, 3, **CLAIMS, **selector)])

    def finds_none() -> bool:
        pods = cluster.client.list("v1", "Pod", namespace)
        waiting = [condition(each, "PodScheduled").get("message", "") for each in pods if not is_ready(each)]
        return len(pods) == 3 and len(waiting) == 1 and "cannot allocate all claims" in waiting[0]

    try:
        wait_for("the scheduler to find no device for one of three pods", finds_none)
        cluster.add_devices(node, 1)
        cluster.client.wait("apps/v1", "Deployment", "users", namespace, has_ready(3))
    finally:
        cluster.remove_node(node)
