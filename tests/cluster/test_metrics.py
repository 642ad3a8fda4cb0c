"""The real autoscaler of the controller manager scales by metrics that a test sets."""

from typing import Any

import pytest

from e2e.cluster import ApiError, Cluster, EmbeddedCluster
from e2e.cluster.metrics import Metrics
from tests.cluster.manifests import Object, condition, deployment

pytestmark = pytest.mark.cluster


def autoscaler(namespace: str, metric: Object) -> Object:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    spec: dict[str, Any] = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 4, "metrics": [metric]}
    spec["behavior"] = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": spec,
    }


def external(average: str, **selector: str) -> Object:
    metric: dict[str, Any] = {"name": "queue_depth"}
    if selector:
        metric["selector"] = {"matchLabels": selector}
    target = {"type": "AverageValue", "averageValue": average}
    return {"type": "External", "external": {"metric": metric, "target": target}}


def pods(average: str) -> Object:
    target = {"type": "AverageValue", "averageValue": average}
    return {"type": "Pods", "pods": {"metric": {"name": "busy"}, "target": target}}


def cpu(utilization: int) -> Object:
    target = {"type": "Utilization", "averageUtilization": utilization}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def utilization(scaler: Object) -> int | None:
    metrics = scaler.get("status", {}).get("currentMetrics") or []
    return next((each["resource"]["current"]["averageUtilization"] for each in metrics if each.get("resource")), None)


def wait_for_replicas(cluster: Cluster, namespace: str, replicas: int) -> None:
    def scaled(web: Object) -> bool:
        return bool(web["spec"]["replicas"] == replicas == web["status"].get("readyReplicas"))

    cluster.client.wait("apps/v1", "Deployment", "web", namespace, scaled, timeout=120)


def test_an_external_metric_scales_up_and_down(cluster: Cluster, metrics: Metrics, namespace: str) -> None:
    metrics.set(namespace, "queue_depth", 12)
    cluster.apply([deployment("web", namespace, 1), autoscaler(namespace, external("3"))])
    wait_for_replicas(cluster, namespace, 4)
    metrics.set(namespace, "queue_depth", 5.5)
    wait_for_replicas(cluster, namespace, 2)


def test_a_selector_chooses_the_values_of_an_external_metric(
    cluster: Cluster, metrics: Metrics, namespace: str
) -> None:
    metrics.set(namespace, "queue_depth", 100, {"role": "decode", "model": "a"})
    metrics.set(namespace, "queue_depth", 4, {"role": "prefill", "model": "a"})
    metrics.set(namespace, "queue_depth", "2", {"role": "prefill", "model": "b"})
    cluster.apply([deployment("web", namespace, 1), autoscaler(namespace, external("2", role="prefill"))])
    wait_for_replicas(cluster, namespace, 3)


def test_a_pods_metric_is_that_of_the_target_s_pods(cluster: Cluster, metrics: Metrics, namespace: str) -> None:
    busy = {"web": 4, "other": 50}
    metrics.set_pods(namespace, "busy", lambda pod: busy[pod["metadata"]["labels"]["app"]])
    cluster.apply([deployment("other", namespace, 1), deployment("web", namespace, 1)])
    cluster.apply(autoscaler(namespace, pods("2")))
    wait_for_replicas(cluster, namespace, 4)
    busy["web"] = 1
    wait_for_replicas(cluster, namespace, 1)


def test_cpu_usage_is_that_of_each_container(cluster: Cluster, metrics: Metrics, namespace: str) -> None:
    web = deployment("web", namespace, 1)
    for container in web["spec"]["template"]["spec"]["containers"]:
        container["resources"] = {"requests": {"cpu": "200m"}}
    metrics.set_usage(namespace, "cpu", "100m")
    metrics.set_usage(namespace, "memory", "1Gi")
    cluster.apply([web, autoscaler(namespace, cpu(50))])
    scaler = ("autoscaling/v2", "HorizontalPodAutoscaler", "web", namespace)
    seen = cluster.client.wait(*scaler, lambda each: utilization(each) == 50)
    assert seen["status"]["desiredReplicas"] == 1
    metrics.set_usage(namespace, "cpu", lambda pod: "250m" if pod["metadata"]["labels"]["app"] == "web" else None)
    wait_for_replicas(cluster, namespace, 4)
    [row, *_] = cluster.kubectl("top", "pods", "--no-headers", "-n", namespace).stdout.splitlines()
    assert row.split()[1:] == ["500m", "2048Mi"]


def test_a_metric_that_is_removed_stops_the_autoscaler(cluster: Cluster, metrics: Metrics, namespace: str) -> None:
    metrics.set(namespace, "queue_depth", 4)
    cluster.apply([deployment("web", namespace, 1), autoscaler(namespace, external("2"))])
    wait_for_replicas(cluster, namespace, 2)
    metrics.set(namespace, "queue_depth", None)

    def is_stopped(scaler: Object) -> bool:
        return condition(scaler, "ScalingActive").get("reason") == "FailedGetExternalMetric"

    stopped = cluster.client.wait("autoscaling/v2", "HorizontalPodAutoscaler", "web", namespace, is_stopped)
    assert f"no metric queue_depth is set in namespace {namespace}" in condition(stopped, "ScalingActive")["message"]
    assert cluster.client.get("apps/v1", "Deployment", "web", namespace)["spec"]["replicas"] == 2


def test_nothing_is_left_of_an_adapter_that_stops(cluster_binaries: None) -> None:
    with EmbeddedCluster() as own:
        client = own.client
        with Metrics(own) as metrics:
            metrics.set("default", "queue_depth", 1.5)
            path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue_depth"
            assert client.request("GET", path)["items"][0]["value"] == "1500m"
        with pytest.raises(ApiError, match="404"):
            client.request("GET", path)
        services = client.list("apiregistration.k8s.io/v1", "APIService")
        assert [each["metadata"]["name"] for each in services if each["spec"].get("service")] == []
        client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "deleted"}})
        client.delete("v1", "Namespace", "deleted")
        client.wait_gone("v1", "Namespace", "deleted")
