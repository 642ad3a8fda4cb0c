"""The operator works with exactly the rights that the chart gives it: it lacks none, and none is superfluous."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.foreign import install_foreign_crds
from e2e.cluster.wait import wait_for
from e2e.operator import Operator
from tests.chart.charts import CHART, NAMESPACE, RELEASE, ROOT, at, helm, render
from tests.integration.sets import Sets, compute, gpus, spec, template

pytestmark = pytest.mark.cluster

_SAMPLES = sorted((ROOT / "deploy" / "samples").glob("*.yaml"))


class Right(NamedTuple):
    """A verb on a resource, with its subresource after a slash."""

    group: str
    resource: str
    verb: str


#: Rights that the story below doesn't use, and what does.
_ELSEWHERE = {
    Right("apps", "deployments", "get"): "a Deployment that was changed since it was seen is read again",
    Right("apps", "controllerrevisions", "get"): "the same, and somebody else's object of the same name",
    Right("apps", "controllerrevisions", "delete"): "rollout.revisionHistoryLimit",
    Right("policy", "poddisruptionbudgets", "get"): "as for Deployments",
    Right("resource.k8s.io", "resourceclaimtemplates", "get"): "as for Deployments",
    Right("disaggregatedset.dev", "rolescalers", "get"): "as for Deployments",
    Right("autoscaling", "horizontalpodautoscalers", "get"): "as for Deployments",
    Right("inference.networking.k8s.io", "inferencepools", "get"): "as for Deployments",
}


def _granted(objects: list[Object]) -> set[Right]:
    """Return the rights that the chart gives the operator."""
    roles = [
        obj
        for obj in objects
        if obj["kind"] in {"ClusterRole", "Role"} and obj["metadata"]["name"] in {RELEASE, f"{RELEASE}-lease"}
    ]
    return {
        Right(group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture(scope="module")
def audited(cluster_binaries: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own: its audit log has nobody else's requests, and its CRDs come with the chart."""
    log = tmp_path_factory.mktemp("audit") / "audit.log"
    with EmbeddedCluster(audit_log=log) as cluster:
        cluster.add_nodes(2, devices=4)
        install_foreign_crds(cluster, "inference-pool")
        helm("install", RELEASE, str(CHART), f"--namespace={NAMESPACE}", "--create-namespace",
             values={"replicas": 0}, kubeconfig=cluster.kubeconfig)  # fmt: skip
        yield cluster


def _operator(cluster: Cluster, release: str, values: Object, log: Path) -> Operator:
    """Return the operator as a local process, with the arguments, the account and the rights of a release."""
    (deployment,) = (obj for obj in render(values) if obj["kind"] == "Deployment")
    arguments: list[str] = at(deployment, "spec.template.spec.containers[operator].args")
    own = [argument for argument in arguments if not argument.startswith("--health-")]
    kubeconfig = cluster.service_account_kubeconfig(NAMESPACE, release)
    return Operator(kubeconfig, log, own, leader_elect=True)


@pytest.fixture(scope="module")
def restricted_operator(audited: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    with _operator(audited, RELEASE, {}, log) as running:
        yield running


@pytest.fixture
def restricted_sets(audited: Cluster, restricted_operator: Operator) -> Sets:
    name = f"rights-{secrets.token_hex(3)}"
    audited.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    audited.client.wait("v1", "ServiceAccount", "default", name, bool)
    return Sets(audited, name)


def _used(cluster: Cluster, release: str = RELEASE) -> tuple[set[Right], list[str]]:
    """Return which rights a release's operator has used, and what it was refused for the lack of one."""
    used, refused = set(), []
    assert cluster.audit_log is not None
    for line in cluster.audit_log.read_text().splitlines():
        event = json.loads(line)
        if event["user"]["username"] != f"system:serviceaccount:{NAMESPACE}:{release}" or "objectRef" not in event:
            continue
        about = event["objectRef"]
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        right = Right(about.get("apiGroup", ""), resource, event["verb"])
        if event["annotations"].get("authorization.k8s.io/decision") == "forbid":
            refused.append(f"{event['verb']} {event['requestURI']}")
        elif event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201:
            used |= {right, right._replace(verb="create")}  # an apply that creates takes both
        else:
            used.add(right)
    return used, refused


@pytest.mark.parametrize("sample", _SAMPLES, ids=lambda path: path.stem)
def test_every_sample_becomes_available(restricted_sets: Sets, sample: Path) -> None:
    restricted_sets.cluster.kubectl("apply", "-n", restricted_sets.namespace, "-f", str(sample))
    names = [obj["metadata"]["name"] for obj in yaml.safe_load_all(sample.read_text())]
    for name in names:
        restricted_sets.wait_available(name)
    for name in names:
        restricted_sets.cluster.client.delete(
            "disaggregatedset.dev/v1alpha1", "DisaggregatedSet", name, restricted_sets.namespace
        )


def test_nothing_is_refused_and_no_right_is_superfluous(restricted_sets: Sets) -> None:
    sets, cluster = restricted_sets, restricted_sets.cluster
    metrics = [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
    ]
    hpa = {"mode": "HPA", "minReplicas": 1, "maxReplicas": 2, "metrics": metrics}
    pool = {"targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "picker", "port": {"number": 9002}}}
    first = spec(
        compute=compute(
            prefill={"accelerators": gpus(), "scaling": hpa},
            decode={"accelerators": gpus()},
        ),
        routing={"inferencePool": pool},
    )
    sets.apply("llama", first)
    sets.wait_available("llama")
    for api_version, kind, name in (
        ("autoscaling/v2", "HorizontalPodAutoscaler", "llama-prefill"),
        ("inference.networking.k8s.io/v1", "InferencePool", "llama"),
    ):
        cluster.client.wait(api_version, kind, name, sets.namespace, bool)
    # A pod that fails has its reason looked up; everything is rolled, and the old revision's devices and pods go.
    broken = spec(
        compute=compute(prefill={"template": template("example/engine:2", behaviour="crash-loop")}, decode={})
    )
    sets.apply("broken", broken)
    sets.wait("broken", lambda status: "CrashLoop" in json.dumps(status))
    sets.apply("llama", spec(compute=compute(prefill={"template": template("example/engine:3")}, decode={})))
    sets.wait_available("llama")
    # What somebody deletes is put back; what has another's name is looked at.
    name = "llama-prefill"
    cluster.client.delete("v1", "Service", name, sets.namespace)
    wait_for("the Service to be put back", lambda: cluster.client.find("v1", "Service", name, sets.namespace))
    cluster.client.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "other-prefill", "namespace": sets.namespace},
         "spec": {"ports": [{"port": 1}]}}
    )  # fmt: skip
    sets.apply("other", spec())
    sets.wait("other", lambda status: "NameConflict" in json.dumps(status))
    # A role that goes takes its Service, its budget and its scaler along.
    sets.apply("llama", spec(compute=compute(prefill={"template": template("example/engine:3")})))
    sets.wait_available("llama")
    for api_version, kind, name in (
        ("autoscaling/v2", "HorizontalPodAutoscaler", "llama-prefill"),
        ("inference.networking.k8s.io/v1", "InferencePool", "llama"),
        ("policy/v1", "PodDisruptionBudget", "llama-decode"),
        ("v1", "Service", "llama-decode"),
        ("disaggregatedset.dev/v1alpha1", "RoleScaler", "llama-decode"),
    ):
        cluster.client.wait_gone(api_version, kind, name, sets.namespace)

    used, refused = _used(cluster)
    assert refused == []
    granted = _granted(render())
    assert used - granted == set()
    assert granted - used - set(_ELSEWHERE) == set()
    assert set(_ELSEWHERE) <= granted


def test_rights_in_some_namespaces_are_enough_for_those(
    audited: Cluster, restricted_operator: Operator, tmp_path: Path
) -> None:
    for name in ("team-a", "team-b", "team-c"):
        audited.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        audited.client.wait("v1", "ServiceAccount", "default", name, bool)
    # A second release beside the first, which has the CRDs and the roles of users.
    values: Object = {
        "fullnameOverride": "team",
        "replicas": 0,
        "watch": {"namespaces": ["team-a", "team-b"]},
        "leaderElection": {"leaseName": "team"},
        "crds": {"install": False},
        "rbac": {"userRoles": {"create": False}},
    }
    helm("install", "team", str(CHART), f"--namespace={NAMESPACE}", values=values, kubeconfig=audited.kubeconfig)
    restricted_operator.stop()
    try:
        with _operator(audited, "team", values, tmp_path / "operator.log"):
            for name in ("team-c", "team-a", "team-b"):
                Sets(audited, name).apply("llama", spec(compute=compute(engine={"accelerators": gpus()})))
            for name in ("team-a", "team-b"):
                Sets(audited, name).wait_available("llama")
            assert "status" not in Sets(audited, "team-c").get("llama")
    finally:
        restricted_operator.start()
    _, refused = _used(audited, "team")
    assert refused == []
    events = audited.client.list("events.k8s.io/v1", "Event", NAMESPACE)
    assert any(event["reason"] == "LeaderElection" and event["regarding"]["name"] == "team" for event in events)
