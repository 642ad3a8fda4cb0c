"""What each value does, and that wrong ones are refused by name. No cluster is needed."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.charts import (
    CHART,
    HERE,
    Case,
    HelmError,
    at,
    cases,
    default_values,
    helm,
    key,
    leaves,
    render,
    rendered,
)

Schema = dict[str, Any]


def _schema() -> Schema:
    schema: Schema = json.loads((CHART / "values.schema.json").read_text())
    return schema


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_values_make_what_a_case_says(case: Case) -> None:
    objects = {key(obj): obj for obj in rendered(case.name)}
    assert set(case.there) <= set(objects)
    assert not set(case.gone) & set(objects)
    for name, expected in case.expect.items():
        assert {path: at(objects[name], path) for path in expected} == expected
    for name, expected in case.contains.items():
        for path, item in expected.items():
            assert item in at(objects[name], path)
    for name, expected in case.lacks.items():
        for path, item in expected.items():
            assert item not in at(objects[name], path)


def test_every_value_has_a_case() -> None:
    changed = {
        path
        for case in cases()
        for path in leaves(case.values)
        if at(default_values(), path) != at(case.values, path) or at(case.values, path) is None
    }
    missing = {leaf for leaf in leaves(default_values()) if not any(_within(path, leaf) for path in changed)}
    assert missing == set()


def _within(path: str, leaf: str) -> bool:
    return path == leaf or path.startswith((f"{leaf}.", f"{leaf}["))


def test_every_object_says_what_it_belongs_to() -> None:
    everything = {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")}
    for obj in render(everything, crds=True):
        labels = obj["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "disaggregatedset"
        assert labels["app.kubernetes.io/instance"] == "disaggregatedset"
        assert labels["app.kubernetes.io/part-of"] == "disaggregatedset"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_no_secrets_no_wildcards_and_nothing_that_grants_rights() -> None:
    for values in ({}, {"watch": {"namespaces": ["team-a"]}}):
        for obj in render(values):
            for rule in obj.get("rules", ()) if obj["kind"].endswith("Role") else ():
                assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}
                for asked in (rule["apiGroups"], rule["resources"], rule["verbs"]):
                    assert asked
                    assert not any("*" in item for item in asked)
                assert "secrets" not in rule["resources"]
                assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
                assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_a_viewer_writes_nothing_and_an_editor_scales() -> None:
    roles = {key(obj): obj for obj in render()}
    view = roles["ClusterRole/disaggregatedset-view"]["rules"]
    assert {verb for rule in view for verb in rule["verbs"]} == {"get", "list", "watch"}
    scale = [rule for rule in roles["ClusterRole/disaggregatedset-edit"]["rules"] if "scale" in str(rule["resources"])]
    assert [rule["verbs"] for rule in scale] == [["update", "patch"]]


@pytest.mark.parametrize(("path", "exit_code"), [("/readyz", 0), ("/elsewhere", 1)])
def test_the_test_job_asks_whether_the_operator_is_ready(path: str, exit_code: int) -> None:
    """Its command is run here: no simulated node does."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            pass

    job = next(obj for obj in render() if obj["kind"] == "Job")
    python, *arguments, url, name = at(job, "spec.template.spec.containers[test].command")
    assert python == "python"
    assert url == "http://disaggregatedset.dset-system:8080/readyz"
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}{path}"
        done = subprocess.run([sys.executable, *arguments, url, name], capture_output=True, text=True, check=False)
        thread.join()
    assert done.returncode == exit_code
    assert f"{url} 200 ok" in done.stdout if exit_code == 0 else "Deployment disaggregatedset ready" in done.stderr


def test_lint() -> None:
    said = helm("lint", "--strict", str(CHART))
    assert "WARNING" not in said
    assert "ERROR" not in said


@pytest.mark.parametrize("case", yaml.safe_load((HERE / "refused.yaml").read_text()), ids=lambda case: case["says"])
def test_wrong_values_are_refused_by_name(case: dict[str, Any]) -> None:
    with pytest.raises(HelmError) as refused:
        render(case["values"])
    assert case["says"] in str(refused.value)


@pytest.mark.parametrize(("version", "fits"), [("1.33.9", False), ("1.34.0", True), ("1.37.2-gke.100", True)])
def test_an_older_kubernetes_is_refused(version: str, fits: bool) -> None:
    arguments = ("template", "disaggregatedset", str(CHART), f"--kube-version={version}", "--set=crds.install=false")
    if fits:
        helm(*arguments)
    else:
        with pytest.raises(HelmError, match=r"chart requires kubeVersion: >=1\.34\.0-0"):
            helm(*arguments)


def test_it_can_be_part_of_another_chart(tmp_path: Path) -> None:
    chart = {"apiVersion": "v2", "name": "platform", "version": "1.0.0"}
    (tmp_path / "Chart.yaml").write_text(
        yaml.safe_dump(
            {**chart, "dependencies": [{"name": "disaggregatedset", "version": "*", "condition": "dset.enabled"}]}
        )
    )
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "disaggregatedset").symlink_to(CHART)
    values = {"global": {"region": "east"}, "dset": {"enabled": True}, "disaggregatedset": {"replicas": 3}}
    rendered = helm("template", "platform", str(tmp_path), values=values)
    assert "replicas: 3" in rendered
    with pytest.raises(HelmError, match="disaggregatedset:\n- at '': additional properties 'replica' not allowed"):
        helm("template", "platform", str(tmp_path), values={"disaggregatedset": {"replica": 3}})


def _objects(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Walk all schemas of objects, with what they refer to."""
    if "$ref" in schema:
        return
    if schema.get("type") == "object":
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _objects(child, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from _objects(schema["items"], f"{path}[]")
    for name, child in schema.get("definitions", {}).items():
        yield from _objects(child, f"#{name}")


def test_the_schema_is_strict() -> None:
    """Objects with fields of their own take no others; those without are Kubernetes' own, or maps of strings."""
    free = {path for path, schema in _objects(_schema()) if schema.get("additionalProperties") is None}
    assert free == {
        "global",
        *(f"affinity.{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")),
        *(f"networkPolicy.metricsFrom[].{field}" for field in ("namespaceSelector", "podSelector", "ipBlock")),
        *(f"serviceMonitor.{field}[]" for field in ("relabelings", "metricRelabelings")),
        *(
            f"#env.valueFrom.{source}"
            for source in ("configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef")
        ),
    }
    for _, schema in _objects(_schema()):
        if "properties" in schema:
            assert schema["additionalProperties"] is False


def test_schema_and_values_have_the_same_fields() -> None:
    schema, values = _schema(), default_values()

    def compare(schema: Schema, values: Any, path: str) -> None:
        if "$ref" in schema:  # the type of a value that stands for itself
            return
        if "properties" in schema and isinstance(values, dict):
            known = set(schema["properties"]) - ({"global"} if not path else set())
            if path in {"resources", "affinity"}:  # what is left out there is not ours to have a default for
                assert set(values) <= known, path
                return
            assert known == set(values), path
            for name in known:
                compare(schema["properties"][name], values[name], f"{path}.{name}".lstrip("."))

    compare(schema, values, "")


def test_every_value_has_a_comment() -> None:
    readme = (CHART / "README.md").read_text()
    rows = {line.split("`")[1]: line for line in readme.splitlines() if line.startswith("| `")}
    documented = {path for path, line in rows.items() if line.rstrip(" |").rpartition("|")[2].strip()}
    missing = {leaf for leaf in leaves(default_values()) if not any(_within(leaf, path) for path in documented)}
    assert missing == set()
