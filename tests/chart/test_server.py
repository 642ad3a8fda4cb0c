"""What a real API server makes of everything that the chart is rendered to."""

from __future__ import annotations

import json

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.client import ApiError, Object
from tests.chart.charts import CHART, NAMESPACE, RELEASE, Case, cases, helm, rendered

pytestmark = pytest.mark.cluster

_DRY_RUN = {"dryRun": "All", "fieldManager": "helm", "fieldValidation": "Strict"}
_APPLY = "application/apply-patch+yaml"
# Most objects are the same in most cases.
_accepted: set[str] = set()


def _dry_run(cluster: Cluster, obj: Object) -> None:
    """Have the API server check an object as a create or an update, misspelled fields included."""
    written = json.dumps(obj, sort_keys=True)
    if written not in _accepted:
        metadata = obj["metadata"]
        path = cluster.client.path(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))
        cluster.client.request("PATCH", path, obj, query={**_DRY_RUN, "force": "true"}, content_type=_APPLY)
        _accepted.add(written)


def _pods(objects: list[Object]) -> list[Object]:
    """Return the pods that Deployments and Jobs would make."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**obj["spec"]["template"]["metadata"], "name": "pod", "namespace": NAMESPACE},
            "spec": obj["spec"]["template"]["spec"],
        }
        for obj in objects
        if obj["kind"] in {"Deployment", "Job"}
    ]


def _create_dry(cluster: Cluster, pod: Object) -> None:
    """Have the API server admit a pod: what it breaks of the Pod Security Standard is said here only."""
    cluster.client.request("POST", cluster.client.path("v1", "Pod", None, NAMESPACE), pod, query=_DRY_RUN)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_variant_is_accepted(prepared: Cluster, case: Case) -> None:
    objects = rendered(case.name)
    for obj in objects:
        _dry_run(prepared, obj)
    for pod in _pods(objects):
        # Pods are refused until the service account that they run as exists.
        account = {"name": pod["spec"].get("serviceAccountName", "default"), "namespace": NAMESPACE}
        prepared.client.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        if case.restricted:
            _create_dry(prepared, pod)
        else:
            with pytest.raises(ApiError, match='violates PodSecurity "restricted'):
                _create_dry(prepared, pod)


def test_notes_say_what_to_do_next(prepared: Cluster) -> None:
    def notes(**values: object) -> str:
        arguments = ("install", RELEASE, str(CHART), "--namespace=team-a", "--dry-run=client", "--take-ownership")
        return helm(*arguments, values=values, kubeconfig=prepared.kubeconfig).partition("NOTES:\n")[2]

    default = notes()
    assert "kubectl -n team-a rollout status deployment/disaggregatedset" in default
    assert "helm -n team-a test disaggregatedset" in default
    assert "looks after all sets" in default
    assert "crds." not in default
    other = notes(
        watch={"namespaces": ["team-a", "team-b"]},
        crds={"keep": False},
        rbac={"create": False},
        test={"enabled": False},
        serviceMonitor={"enabled": True},
    )
    assert "the sets in namespaces team-a, team-b" in other
    assert "crds.keep is false" in other
    assert "bind ServiceAccount disaggregatedset" in other
    assert "helm -n" not in other
    assert "/metrics" not in other
    assert "crds.install=false" in notes(crds={"install": False})
