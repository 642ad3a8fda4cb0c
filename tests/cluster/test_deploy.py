"""The manifests beside the samples: API servers take them, and they name what the operator makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.base import Cluster
from e2e.cluster.foreign import install_foreign_crds

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = sorted([*(DEPLOY / "scaling").glob("*.yaml"), *(DEPLOY / "routing").glob("*.yaml")])
SCALED = {"llama-weights", "llama-kv-cache", "llama-prefill", "llama-decode"}


def _documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_api_server_takes_it(path: Path, cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    install_foreign_crds(cluster, "gateway-api", "keda")
    made = [document | {"metadata": document["metadata"] | {"namespace": namespace}} for document in _documents(path)]
    manifest = tmp_path / path.name
    manifest.write_text(yaml.safe_dump_all(made))
    said = cluster.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(manifest))
    assert said.stdout.count("serverside-applied (server dry run)") == len(made)


def test_autoscalers_target_role_scalers() -> None:
    for path in (DEPLOY / "scaling").glob("*.yaml"):
        for document in _documents(path):
            target = document["spec"]["scaleTargetRef"]
            assert (target["apiVersion"], target["kind"]) == ("disaggregatedset.dev/v1alpha1", "RoleScaler")
            assert target["name"] in SCALED


def test_the_screener_goes_by_labels_that_the_operator_sets() -> None:
    (document,) = _documents(DEPLOY / "routing" / "endpoint-picker-config.yaml")
    config = yaml.safe_load(document["data"]["config.yaml"])
    (screener,) = [p for p in config["plugins"] if p["type"] == "disaggregatedset-rollout-screener"]
    parameters = screener["parameters"]
    assert parameters["scope"]["labelSelector"] == "disaggregatedset.dev/set=llama,disaggregatedset.dev/tier=compute"
    gating = parameters["revisionGating"]
    assert gating["revisionLabelKey"] == "disaggregatedset.dev/revision"
    assert gating["roleLabelKey"] == "disaggregatedset.dev/role"
    used = {plugin["pluginRef"] for profile in config["schedulingProfiles"] for plugin in profile["plugins"]}
    assert used <= {plugin["type"] for plugin in config["plugins"]}
