"""What only the cluster can tell: refused with a message that says what to do, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.wait import wait_for
from e2e.operator import Operator, install_crds
from tests.integration.sets import Sets, changed, compute, condition, gpus, spec, template

SPEC = spec(
    kvCache={"template": template()}, compute=compute(prefill={"accelerators": gpus()}, decode={"accelerators": gpus()})
)

BAD: dict[str, tuple[Callable[[Object], Any], str, str]] = {
    "unknown device class": (
        lambda s: _decode(s)["accelerators"]["requests"][0].update(deviceClassName="gpu.nvidia.com"),
        "DeviceClassNotFound",
        (
            "spec.compute.roles[decode].accelerators.requests[gpu].deviceClassName: DeviceClass 'gpu.nvidia.com' does "
            "not exist; existing classes: gpu.example.com, nic.example.com"
        ),
    ),
    "unknown device class in an alternative": (
        lambda s: _decode(s)["accelerators"].update(
            requests=[{"name": "gpu", "firstAvailable": [{"name": "big", "deviceClassName": "gpu.nvidia.com"}]}]
        ),
        "DeviceClassNotFound",
        (
            "spec.compute.roles[decode].accelerators.requests[gpu].firstAvailable[big].deviceClassName: DeviceClass "
            "'gpu.nvidia.com' does not exist"
        ),
    ),
    "template that the API server refuses": (
        lambda s: _decode(s)["template"]["spec"]["containers"][0]["ports"][0].update(containerPort=99999),
        "Rejected",
        "spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 99999",
    ),
    "KV template that the API server refuses": (
        lambda s: s["kvCache"]["template"]["spec"]["containers"][0].update(image=""),
        "Rejected",
        "spec.kvCache: Deployment.apps",
    ),
    "selector that is no CEL": (
        lambda s: _decode(s)["accelerators"]["requests"][0].update(selectors=["device.foo("]),
        "Rejected",
        "spec.compute.roles[decode].accelerators: ResourceClaimTemplate.resource.k8s.io",
    ),
    "field behind a feature gate": (
        lambda s: _decode(s)["accelerators"]["requests"][0].update(capacity={"requests": {"memory": "10Gi"}}),
        "FieldNotSupported",
        "spec.compute.roles[decode].accelerators: this API server drops",
    ),
}


def _decode(spec: Object) -> Object:
    role: Object = spec["compute"]["roles"][1]
    return role


@pytest.mark.parametrize("case", BAD)
def test_a_bad_set_creates_nothing(sets: Sets, case: str) -> None:
    change, reason, message = BAD[case]
    sets.apply("bad", changed(SPEC, change))
    status = sets.wait("bad", lambda s: condition(s, "Accepted")["status"] == "False")
    accepted = condition(status, "Accepted")
    assert accepted["reason"] == reason
    assert message in accepted["message"]
    assert condition(status, "Available")["status"] == "False"
    assert sets.all_children("bad") == {}
    sets.wait_event("bad", f"NotAccepted: {reason}")


@pytest.mark.parametrize("case", BAD)
def test_a_bad_change_leaves_what_serves(sets: Sets, case: str) -> None:
    change, reason, _ = BAD[case]
    sets.apply("good", SPEC)
    sets.wait_available("good")
    before = sets.written("good")
    sets.apply("good", changed(SPEC, change))
    status = sets.wait("good", lambda s: condition(s, "Accepted")["status"] == "False")
    assert condition(status, "Accepted")["reason"] == reason
    assert condition(status, "Available")["status"] == "True"
    assert sets.written("good") == before

    sets.apply("good", SPEC)  # the way back
    sets.wait_available("good")


def test_a_device_class_that_appears_is_found(sets: Sets, cluster: Cluster) -> None:
    name = f"{sets.namespace}.example.com"
    wanted = {"requests": [{"name": "gpu", "deviceClassName": name}]}
    sets.apply("early", spec(compute=compute(prefill={}, decode={"accelerators": wanted})))
    sets.wait("early", lambda s: condition(s, "Accepted")["reason"] == "DeviceClassNotFound")
    like = cluster.client.get("resource.k8s.io/v1", "DeviceClass", "gpu.example.com")
    cluster.client.create({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": name}, "spec": like["spec"],
    })  # fmt: skip
    try:
        sets.wait_available("early")
    finally:
        cluster.client.delete("resource.k8s.io/v1", "DeviceClass", name)


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget"])
def test_an_object_of_somebody_else_is_never_written(sets: Sets, cluster: Cluster, kind: str) -> None:
    api_version, spec_of = {
        "Service": ("v1", {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}),
        "PodDisruptionBudget": ("policy/v1", {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "theirs"}}}),
    }[kind]
    theirs = cluster.client.create({
        "apiVersion": api_version, "kind": kind, "spec": spec_of,
        "metadata": {"name": "taken-decode", "namespace": sets.namespace},
    })  # fmt: skip
    sets.apply("taken", spec())
    status = sets.wait("taken", lambda s: condition(s, "Accepted")["reason"] == "NameConflict")
    assert f"{kind} taken-decode exists in namespace {sets.namespace}" in condition(status, "Accepted")["message"]
    now = cluster.client.get(api_version, kind, "taken-decode", sets.namespace)
    assert now["metadata"]["uid"] == theirs["metadata"]["uid"]
    assert now["spec"]["selector"] == theirs["spec"]["selector"]
    assert "ownerReferences" not in now["metadata"]

    cluster.client.delete(api_version, kind, "taken-decode", sets.namespace)
    sets.wait_available("taken")


def test_two_sets_that_derive_the_same_names(sets: Sets) -> None:
    sets.apply("a", spec(compute=compute(**{"b-c": {}})))
    sets.wait_available("a")
    sets.apply("a-b", spec(compute=compute(c={})))
    status = sets.wait("a-b", lambda s: condition(s, "Accepted")["reason"] == "NameConflict")
    assert "a-b-c" in condition(status, "Accepted")["message"]
    assert condition(sets.get("a")["status"], "Available")["status"] == "True"


def test_a_quota_that_refuses_pods_is_reported(sets: Sets, cluster: Cluster) -> None:
    cluster.client.create({
        "apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": {"pods": "1"}},
        "metadata": {"name": "tight", "namespace": sets.namespace},
    })  # fmt: skip
    quota = ("v1", "ResourceQuota", "tight", sets.namespace)
    cluster.client.wait(*quota, lambda q: (q.get("status") or {}).get("hard"))
    sets.apply("tight", spec())
    status = sets.wait("tight", lambda s: "exceeded quota" in condition(s, "Degraded")["message"])
    assert condition(status, "Degraded")["reason"] == "Rejected"


def test_a_cluster_without_dra(tmp_path: Path) -> None:
    with EmbeddedCluster(dra=False) as cluster:
        cluster.add_nodes(1)
        install_crds(cluster)
        with Operator(cluster.kubeconfig, tmp_path / "operator.log"):
            sets = Sets(cluster, "default")
            sets.apply("claims", SPEC)
            sets.apply("plain", spec())
            accepted = condition(
                sets.wait("claims", lambda s: condition(s, "Accepted")["status"] == "False"), "Accepted"
            )
            assert accepted["reason"] == "DRANotAvailable"
            assert "does not serve resource.k8s.io/v1" in accepted["message"]
            assert "Kubernetes 1.34" in accepted["message"]
            sets.wait_available("plain")
            wait_for("no children of the refused set", lambda: not sets.deployments("claims"))
