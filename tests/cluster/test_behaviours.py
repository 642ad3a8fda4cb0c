"""Pods live as their annotations say, with the statuses that a kubelet would write."""

import json
import time
from typing import Any

import pytest

from e2e.cluster import Cluster, behave
from tests.cluster.manifests import Object, condition, is_ready, pod

pytestmark = pytest.mark.cluster


def start(cluster: Cluster, namespace: str, annotations: dict[str, str]) -> Object:
    (subject,) = cluster.apply(pod("subject", namespace, annotations))
    return subject


def life(cluster: Cluster, subject: Object) -> list[Object]:
    """Return all that a pod has become since it was as given, also what it was too briefly for who looks now and then.

    It has to be more than one thing.
    """
    metadata = subject["metadata"]
    query = {
        "watch": "1",
        "fieldSelector": f"metadata.name={metadata['name']}",
        "resourceVersion": metadata["resourceVersion"],
        "timeoutSeconds": "3",  # for what has happened already
    }
    answer = cluster.client.request("GET", cluster.client.path("v1", "Pod", None, metadata["namespace"]), query=query)
    return [json.loads(line)["object"] for line in answer["text"].splitlines()]


def wait(cluster: Cluster, namespace: str, until: Any) -> Object:
    return cluster.client.wait("v1", "Pod", "subject", namespace, until)


def waiting_reasons(subject: Object) -> list[str | None]:
    statuses = subject["status"].get("containerStatuses", [])
    return [status["state"].get("waiting", {}).get("reason") for status in statuses]


def annotate(cluster: Cluster, namespace: str, annotations: dict[str, Any]) -> None:
    cluster.client.patch("v1", "Pod", "subject", namespace, {"metadata": {"annotations": annotations}})


def test_slow_start(cluster: Cluster, namespace: str) -> None:
    subject = start(cluster, namespace, behave(ready_after="1s"))
    ready = wait(cluster, namespace, is_ready)
    starting = next(each for each in life(cluster, subject) if each["status"]["phase"] == "Running")
    assert condition(starting, "Ready")["reason"] == "ContainersNotReady"
    assert [status["ready"] for status in ready["status"]["containerStatuses"]] == [True, True]
    assert "reason" not in condition(ready, "Ready")


def test_never_ready(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, behave("never-ready"))
    subject = wait(cluster, namespace, lambda each: each["status"]["phase"] == "Running")
    ready = condition(subject, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ContainersNotReady")
    assert ready["message"] == "containers with unready status: [main extra]"
    assert all("running" in status["state"] for status in subject["status"]["containerStatuses"])


def test_a_ready_pod_can_turn_unready_and_heal(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, {})
    wait(cluster, namespace, is_ready)
    annotate(cluster, namespace, behave("never-ready"))
    wait(cluster, namespace, lambda each: not is_ready(each))
    annotate(cluster, namespace, dict.fromkeys(behave("never-ready")))
    wait(cluster, namespace, is_ready)


def test_crash_loop(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, behave("crash-loop", exit_code=137))
    subject = wait(cluster, namespace, lambda each: waiting_reasons(each) == ["CrashLoopBackOff"] * 2)
    main = subject["status"]["containerStatuses"][0]
    assert subject["status"]["phase"] == "Running"
    assert main["restartCount"] == 1
    assert main["state"]["waiting"]["message"] == (
        f"back-off 10s restarting failed container=main pod=subject_{namespace}({subject['metadata']['uid']})"
    )
    assert main["lastState"]["terminated"]["exitCode"] == 137
    assert main["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert not is_ready(subject)


def test_one_container_crashes_while_the_other_runs(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, behave("crash-loop", container="main"))
    subject = wait(cluster, namespace, lambda each: waiting_reasons(each) == ["CrashLoopBackOff", None])
    assert condition(subject, "Ready")["message"] == "containers with unready status: [main]"
    assert subject["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "Error"


def test_image_pull_failure_and_recovery(cluster: Cluster, namespace: str) -> None:
    made = start(cluster, namespace, behave("image-pull-failure", container="main"))
    subject = wait(cluster, namespace, lambda each: waiting_reasons(each) == ["ImagePullBackOff", None])
    first = next(each for each in life(cluster, made) if waiting_reasons(each))
    assert waiting_reasons(first) == ["ErrImagePull", None]
    assert first["status"]["phase"] == "Pending"
    message = subject["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    assert message.startswith('Back-off pulling image "registry.example/server:v1": ErrImagePull: rpc error')
    annotate(cluster, namespace, dict.fromkeys(behave("image-pull-failure")))
    wait(cluster, namespace, is_ready)


def test_slow_termination(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, behave(terminate_after="1s"))
    ready = wait(cluster, namespace, is_ready)
    began = time.monotonic()
    cluster.client.delete("v1", "Pod", "subject", namespace)
    cluster.client.wait_gone("v1", "Pod", "subject", namespace)
    assert time.monotonic() - began >= 1
    assert all(is_ready(each) for each in life(cluster, ready))


def test_finalizers_are_left_to_those_who_set_them(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, {})
    wait(cluster, namespace, is_ready)
    cluster.client.patch("v1", "Pod", "subject", namespace, {"metadata": {"finalizers": ["example.com/hold"]}})
    cluster.client.delete("v1", "Pod", "subject", namespace)
    wait(cluster, namespace, lambda each: each["metadata"].get("deletionGracePeriodSeconds") == 0)
    cluster.client.patch("v1", "Pod", "subject", namespace, {"metadata": {"finalizers": None}})
    cluster.client.wait_gone("v1", "Pod", "subject", namespace)
