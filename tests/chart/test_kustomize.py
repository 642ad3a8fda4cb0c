"""The kustomize base is what the chart installs by default."""

from __future__ import annotations

import pytest

from charts.generate import HELM_LABELS, KUSTOMIZE, NAMESPACE, RELEASE
from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from tests.chart.charts import CHART, documents, helm

pytestmark = pytest.mark.cluster


def _by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}


def test_the_base_is_what_the_chart_installs_by_default(cluster: Cluster) -> None:
    base = _by_name(documents(cluster.kubectl("kustomize", str(KUSTOMIZE)).stdout))
    namespace = base.pop(("Namespace", NAMESPACE))
    rendered = helm("template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", "--no-hooks")
    chart = _by_name(documents(HELM_LABELS.sub("", rendered)))
    for (kind, _), obj in chart.items():
        if kind == "CustomResourceDefinition":
            # Only Helm reads it: kustomize has the operator without the CRDs for that.
            assert obj["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert base == chart
    assert "helm" not in cluster.kubectl("kustomize", str(KUSTOMIZE / "operator")).stdout.lower()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_operator_alone_leaves_the_crds_and_so_the_sets(cluster: Cluster) -> None:
    whole = _by_name(documents(cluster.kubectl("kustomize", str(KUSTOMIZE)).stdout))
    operator = _by_name(documents(cluster.kubectl("kustomize", str(KUSTOMIZE / "operator")).stdout))
    assert {kind for kind, _ in whole.keys() - operator.keys()} == {"CustomResourceDefinition"}
    assert operator == {name: obj for name, obj in whole.items() if name in operator}


def test_the_base_is_accepted(cluster: Cluster) -> None:
    cluster.client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    arguments = (
        "--server-side",
        "--dry-run=server",
        "--force-conflicts",
        "--validate=strict",
        f"--kustomize={KUSTOMIZE}",
    )
    said = cluster.kubectl("apply", *arguments)
    assert said.stderr == ""
    assert len(said.stdout.splitlines()) == len(documents(cluster.kubectl("kustomize", str(KUSTOMIZE)).stdout))
