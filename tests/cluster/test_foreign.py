"""CRDs of other projects are downloaded once, and the API server takes them."""

from pathlib import Path

import pytest

from e2e.cluster import ApiError, Cluster, ClusterError
from e2e.cluster.cache import crds_directory
from e2e.cluster.foreign import Project, foreign_crds, install_foreign_crds
from tests.cluster.manifests import Object


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of all programs, of which there are none."""
    programs = tmp_path / "path"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("DSET_CACHE", str(tmp_path / "cache"))
    return programs


def go(programs: Path, body: str) -> None:
    (programs / "go").write_text(f"#!/bin/sh\n{body}\n")
    (programs / "go").chmod(0o755)


def test_a_download_is_kept_and_happens_once(bare_machine: Path, tmp_path: Path) -> None:
    bases = tmp_path / "module" / "config" / "crd" / "bases"
    bases.mkdir(parents=True)
    (bases / "keda.sh_scaledobjects.yaml").write_text("kind: CustomResourceDefinition")
    (bases / "keda.sh_scaledobjects.yaml").chmod(0o444)
    (bases / "other.yaml").touch()
    calls = tmp_path / "calls"
    go(bare_machine, f"""echo "$*" >> {calls}; echo '{{"Dir": "{tmp_path}/module"}}'""")
    assert foreign_crds("keda") == [{"kind": "CustomResourceDefinition"}]
    (bare_machine / "go").unlink()
    assert foreign_crds("keda") == [{"kind": "CustomResourceDefinition"}]
    assert calls.read_text() == "mod download -json github.com/kedacore/keda/v2@v2.21.0\n"
    assert [path.name for path in (crds_directory() / "keda-v2.21.0").iterdir()] == ["keda.sh_scaledobjects.yaml"]


def test_a_failed_download_says_why_and_leaves_no_part(bare_machine: Path) -> None:
    with pytest.raises(ClusterError, match=r"keda/v2 v2\.21\.0 has to be downloaded, but there is no Go in PATH"):
        foreign_crds("keda")
    go(bare_machine, "echo no such module; exit 1")
    with pytest.raises(
        ClusterError, match=r"downloading github.com/kedacore/keda/v2 v2\.21\.0 failed:\nno such module"
    ):
        foreign_crds("keda")
    assert [path.name for path in crds_directory().iterdir()] == [".keda-v2.21.0.lock"]


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("project", "kinds"),
    [
        ("gateway-api", {"GatewayClass", "Gateway", "HTTPRoute"}),
        ("inference-pool", {"InferencePool"}),
        ("keda", {"ScaledObject"}),
    ],
)
def test_crds_are_served_when_they_are_installed(
    cluster: Cluster, namespace: str, project: Project, kinds: set[str]
) -> None:
    install_foreign_crds(cluster, project)
    # A second time, nothing changes.
    install_foreign_crds(cluster, project)
    crds = foreign_crds(project)
    assert {crd["spec"]["names"]["kind"] for crd in crds} == kinds
    for crd in crds:
        spec = crd["spec"]
        for version in (each["name"] for each in spec["versions"] if each["served"]):
            assert cluster.client.list(f"{spec['group']}/{version}", spec["names"]["kind"], namespace) == []


def inference_pool(namespace: str, **spec: object) -> Object:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "llama", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "llama"}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
            **spec,
        },
    }


@pytest.mark.cluster
def test_objects_of_all_projects(cluster: Cluster, namespace: str) -> None:
    install_foreign_crds(cluster, "gateway-api", "inference-pool", "keda")
    [pool] = cluster.apply(inference_pool(namespace))
    picker = {"group": "", "kind": "Service", "name": "picker", "port": {"number": 9002}, "failureMode": "FailClose"}
    assert pool["spec"]["endpointPickerRef"] == picker
    backend = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"}
    route, scaled = cluster.apply(
        f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: llama, namespace: {namespace}}}
spec:
  parentRefs: [{{name: gateway}}]
  rules: [{{backendRefs: [{backend}]}}]
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{name: llama, namespace: {namespace}}}
spec:
  scaleTargetRef: {{name: llama}}
  triggers: [{{type: prometheus, metadata: {{query: up, threshold: "1"}}}}]
"""
    )
    assert route["spec"]["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert scaled["spec"]["triggers"][0]["type"] == "prometheus"


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"endpointPickerRef": {"name": "picker"}}, "a Service needs a port"),
        ({"targetPorts": [{"number": 1}, {"number": 1}]}, "each port number may be there once"),
        ({"targetPorts": []}, "should have at least 1 items"),
        ({"selector": {}}, "spec.selector.matchLabels: Required value"),
    ],
)
def test_inference_pools_that_are_refused(
    cluster: Cluster, namespace: str, spec: dict[str, object], message: str
) -> None:
    install_foreign_crds(cluster, "inference-pool")
    with pytest.raises(ApiError, match=message) as refused:
        cluster.apply(inference_pool(namespace, **spec))
    assert refused.value.status == 422
