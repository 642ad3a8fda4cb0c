"""Alerts and dashboard ask for metrics that exist, by labels that they have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from tests.chart.charts import CHART, HERE, default_values, render
from tests.chart.metrics import METRICS, OTHERS, TARGET_LABELS, in_code

Alert = dict[str, Any]

_PROMTOOL = shutil.which("promtool")
_HISTOGRAM_PARTS = re.compile(r"_(bucket|sum|count)$")


def _alerts() -> list[Alert]:
    (rule,) = (obj for obj in render({"prometheusRule": {"enabled": True}}) if obj["kind"] == "PrometheusRule")
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


def _panels() -> list[dict[str, Any]]:
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def _queries() -> Iterator[tuple[str, str]]:
    for alert in _alerts():
        yield alert["alert"], alert["expr"]
    for panel in _panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def _nodes(node: Any) -> Iterator[Any]:
    """Walk an expression."""
    yield node
    for field in ("lhs", "rhs", "expr", "vector_selector", "param"):
        child = getattr(node, field, None)
        if isinstance(child, promql.Expr):
            yield from _nodes(child)
    for child in getattr(node, "args", None) or ():
        yield from _nodes(child)


def _known(name: str | None) -> set[str] | None:
    """Return the labels that a series has, or None if there is no such series."""
    if name is None:
        return None
    base = _HISTOGRAM_PARTS.sub("", name)
    if base != name and base in METRICS:
        return METRICS[base] | TARGET_LABELS | {"le"}
    labels = METRICS.get(name, OTHERS.get(name))
    return None if labels is None else labels | TARGET_LABELS


@pytest.mark.parametrize(("where", "query"), list(_queries()))
def test_queries_ask_for_series_that_exist(where: str, query: str) -> None:
    expression = promql.parse(query)  # raises with the place of a mistake
    nodes = list(_nodes(expression))
    selectors = [node for node in nodes if isinstance(node, promql.VectorSelector)]
    assert selectors, where
    for selector in selectors:
        labels = _known(selector.name)
        assert labels is not None, f"{where}: there is no metric {selector.name}"
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels, where
    asked = set().union(*(_known(selector.name) or set() for selector in selectors))
    for node in nodes:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= asked, where


def test_the_list_of_metrics_is_that_of_the_code() -> None:
    assert in_code() == METRICS


def test_every_alert_says_what_to_do() -> None:
    alerts = _alerts()
    assert len({alert["alert"] for alert in alerts}) == len(alerts)
    for alert in alerts:
        name, annotations = alert["alert"], alert["annotations"]
        assert name.startswith("DisaggregatedSet")
        assert alert["labels"]["severity"] in {"info", "warning", "critical"}, name
        assert set(annotations) == {"summary", "description", "runbook"}, name
        assert re.match(r"1\. .+\n", annotations["runbook"]), f"{name}: a runbook is a list of steps"
        assert "$(" not in re.sub(r"\$\(date", "", str(alert)), name


def test_alerts_use_only_labels_that_their_result_has() -> None:
    for alert in _alerts():
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(alert["annotations"])))
        kept = re.findall(r"\b(?:sum|max|min|avg|count) by \(([^)]*)\)", alert["expr"])
        has = {label.strip() for labels in kept for label in labels.split(",")}
        assert used <= has, alert["alert"]


def test_the_dashboard_is_in_order() -> None:
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    (config,) = (obj for obj in render({"dashboard": {"enabled": True}}) if obj["kind"] == "ConfigMap")
    assert json.loads(config["data"]["disaggregatedset.json"]) == dashboard
    assert config["metadata"]["labels"].items() >= default_values()["dashboard"]["labels"].items()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["description"] for panel in _panels())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert place["x"] + place["w"] <= 24
        taken |= cells
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(_panels()))) - {"__all"}
    assert used <= variables


def test_every_metric_about_sets_is_on_the_dashboard() -> None:
    shown = " ".join(target["expr"] for panel in _panels() for target in panel["targets"])
    assert {name for name in METRICS if name.startswith("disaggregatedset_") and name not in shown} == set()


@pytest.mark.skipif(_PROMTOOL is None, reason="no promtool in PATH; building it takes longer than all other tests")
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    (rule,) = (obj for obj in render({"prometheusRule": {"enabled": True}}) if obj["kind"] == "PrometheusRule")
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(rule["spec"]))
    _promtool("check", "rules", "--lint=all", str(tmp_path / "whole.yaml"))

    # The texts are for people; here it counts who is alerted, and when.
    for alert in (alert for group in rule["spec"]["groups"] for alert in group["rules"]):
        del alert["annotations"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    tests = yaml.safe_load((HERE / "alerts.yaml").read_text())
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], **tests}))
    _promtool("test", "rules", str(tmp_path / "tests.yaml"))


def _promtool(*arguments: str) -> None:
    assert _PROMTOOL is not None
    done = subprocess.run([_PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tests = yaml.safe_load((HERE / "alerts.yaml").read_text())["tests"]
    asked = [expected for test in tests for expected in test["alert_rule_test"]]
    names = {alert["alert"] for alert in _alerts()}
    assert {expected["alertname"] for expected in asked if expected.get("exp_alerts")} == names
    assert {expected["alertname"] for expected in asked if not expected.get("exp_alerts")} == names
