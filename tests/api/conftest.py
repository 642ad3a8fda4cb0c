from __future__ import annotations

import re
from typing import Any

import pytest

from disaggregatedset.api import GROUP
from disaggregatedset.api import crd as generated
from e2e.cluster.base import Cluster
from tests.api.cases import HERE


@pytest.fixture(scope="session")
def crd() -> dict[str, Any]:
    return generated.custom_resource_definition()


@pytest.fixture(scope="session")
def schema(crd: dict[str, Any]) -> dict[str, Any]:
    root: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root


@pytest.fixture(scope="session")
def spec_schema(schema: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = schema["properties"]["spec"]
    return spec


@pytest.fixture(scope="session")
def installing(cluster: Cluster) -> str:
    """Install the CRDs as a user does, and return what kubectl said."""
    said = cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(HERE.parents[1] / "crds"))
    for resource in generated.RESOURCES:
        name = f"{resource.plural}.{GROUP}"
        cluster.client.wait("apiextensions.k8s.io/v1", "CustomResourceDefinition", name, None, _is_established)
    return re.sub(r"\s+", " ", said.stdout + said.stderr).strip()


def _is_established(crd: dict[str, Any]) -> bool:
    conditions = crd.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


@pytest.fixture
def server(cluster: Cluster, installing: str) -> Cluster:
    """A cluster that has the CRDs."""
    return cluster
