"""Fixtures for tests that need a cluster; a top-level conftest.py names this module in ``pytest_plugins``."""

import re
import secrets
from collections.abc import Iterator

import pytest

from e2e.cluster import binaries
from e2e.cluster.base import Cluster
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.metrics import Metrics

GPUS_PER_NODE = 4
GPU_NODES = 2

_NAMESPACE_LENGTH = 50


@pytest.fixture(scope="session")
def cluster_binaries(pytestconfig: pytest.Config) -> None:
    """Build what the embedded cluster needs, in view of whoever waits for it."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        binaries.obtain()


@pytest.fixture(scope="session")
def cluster(cluster_binaries: None) -> Iterator[Cluster]:  # noqa: ARG001
    """Give a cluster that all tests of a worker share: two nodes with four GPUs each, and one without."""
    with EmbeddedCluster() as shared:
        shared.add_nodes(GPU_NODES, devices=GPUS_PER_NODE)
        shared.add_nodes(1)
        yield shared


@pytest.fixture(scope="session")
def metrics(cluster: Cluster) -> Iterator[Metrics]:
    """Give the metrics that autoscalers of the shared cluster scale by; there are none until a test sets them."""
    with Metrics(cluster) as shared:
        yield shared


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Give a fresh namespace, which is deleted afterwards without waiting for that."""
    readable = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:_NAMESPACE_LENGTH].strip("-")
    name = f"{readable}-{secrets.token_hex(3)}"
    cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    # Pods are refused until the service account that they run as exists.
    cluster.client.wait("v1", "ServiceAccount", "default", name, bool)
    yield name
    cluster.client.delete("v1", "Namespace", name)
