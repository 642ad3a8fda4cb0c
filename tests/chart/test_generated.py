"""What the chart shares with the rest of the repository is the same there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

import disaggregatedset
from charts import generate
from disaggregatedset.api import GROUP
from tests.chart.charts import CHART, ROOT, documents, render

CRDS = ROOT / "crds"


def test_nothing_generated_is_out_of_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_the_chart_installs_the_crds_as_they_are() -> None:
    ours = {obj["metadata"]["name"]: obj for path in CRDS.glob("*.yaml") for obj in documents(path.read_text())}
    theirs = {obj["metadata"]["name"]: obj for obj in render(crds=True) if obj["kind"] == "CustomResourceDefinition"}
    assert set(theirs) == set(ours)
    for name, crd in theirs.items():
        assert set(crd["metadata"]) == {"name", "labels", "annotations"}
        assert crd == {**ours[name], "metadata": crd["metadata"]}


def test_a_crd_that_the_template_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "crd.yaml"
    path.write_text("apiVersion: v1\nkind: X\nmetadata: {name: x}\nspec:\n  a: '{{ b }}'\n")
    with pytest.raises(ValueError, match="for a template"):
        generate.crd_template(path)
    path.write_text("apiVersion: v1\nkind: X\nmetadata: {name: x, labels: {}}\nspec:\n  a: b\n")
    with pytest.raises(ValueError, match="metadata with a name only"):
        generate.crd_template(path)


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "operator/disaggregatedset/__init__.py"
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == disaggregatedset.__version__
    changed = yaml.safe_load(generate.chart_yaml((CHART / "Chart.yaml").read_text(), "1.2.3-rc.1"))
    assert changed["version"] == changed["appVersion"] == "1.2.3-rc.1"
    (image,) = yaml.safe_load(changed["annotations"]["artifacthub.io/images"])
    assert image["image"].endswith(":1.2.3-rc.1")


def test_artifact_hub_knows_the_crds() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    assert all(isinstance(value, str) for value in annotations.values())
    listed = yaml.safe_load(annotations["artifacthub.io/crds"])
    crds = [crd for path in CRDS.glob("*.yaml") for crd in documents(path.read_text())]
    assert {(crd["kind"], crd["name"], crd["version"]) for crd in listed} == {
        (crd["spec"]["names"]["kind"], crd["metadata"]["name"], crd["spec"]["versions"][0]["name"]) for crd in crds
    }
    kinds = {example["kind"] for example in yaml.safe_load(annotations["artifacthub.io/crdsExamples"])}
    assert kinds == {"DisaggregatedSet"}
    assert all(crd["metadata"]["name"].endswith(f".{GROUP}") for crd in crds)
