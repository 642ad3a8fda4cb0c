from __future__ import annotations

import pytest

from e2e.cluster import binaries
from e2e.cluster.base import Cluster
from e2e.cluster.foreign import install_foreign_crds
from tests.chart.charts import NAMESPACE, OTHER_NAMESPACES


@pytest.fixture(scope="session", autouse=True)
def helm_binary(pytestconfig: pytest.Config) -> None:
    """Build what the chart's tests need, in view of whoever waits for it."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        binaries.obtain_tools()


@pytest.fixture(scope="session")
def prepared(cluster: Cluster) -> Cluster:
    """A cluster with the namespaces that cases name, where only restricted pods may run, and the Prometheus CRDs."""
    for name in (NAMESPACE, *OTHER_NAMESPACES):
        labels = {"pod-security.kubernetes.io/enforce": "restricted"} if name == NAMESPACE else {}
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    install_foreign_crds(cluster, "prometheus-operator")
    return cluster
