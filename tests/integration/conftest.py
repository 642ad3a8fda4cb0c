"""The operator, running against the shared cluster, and what tests ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.base import Cluster
from e2e.operator import Operator, install_crds
from tests.integration.sets import Sets


@pytest.fixture(scope="session")
def crds(cluster: Cluster) -> None:
    install_crds(cluster)


@pytest.fixture(scope="session")
def operator(cluster: Cluster, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    # With its default resync, of minutes: a short one would hide that it is not woken when it should be.
    log: Path = tmp_path_factory.mktemp("operator") / "operator.log"
    with Operator(cluster.kubeconfig, log) as running:
        yield running


@pytest.fixture
def resyncing(cluster: Cluster, operator: Operator, tmp_path: Path) -> Iterator[Operator]:
    """An operator in place of the other, with a short resync: what it must not do at one shows within a test."""
    operator.stop()
    try:
        with Operator(cluster.kubeconfig, tmp_path / "operator.log", ["--resync-seconds=2"]) as running:
            yield running
    finally:
        operator.start()


@pytest.fixture
def sets(cluster: Cluster, operator: Operator, namespace: str) -> Sets:
    """Sets in a fresh namespace, with the operator running."""
    return Sets(cluster, namespace)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.cluster)
