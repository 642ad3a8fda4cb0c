from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from disaggregatedset.api.pod_template import extract, main, pod_template_schema
from tests.api.cases import load


def test_extraction() -> None:
    case = load("pod-template.yaml")
    assert extract(case["openapi"]) == case["schema"]


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    case = load("pod-template.yaml")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(case["openapi"])))
    main()
    assert json.loads(capsys.readouterr().out) == case["schema"]


def _walk(schema: dict[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    yield schema, keys
    for child in schema.get("properties", {}).values():
        yield from _walk(child)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _walk(schema[key], tuple(schema.get("x-kubernetes-list-map-keys", ())))


def test_the_stored_schema_is_structural_and_sets_only_what_lists_need() -> None:
    for schema, keys in _walk(pod_template_schema()):
        assert not {"$ref", "allOf", "description", "title"} & schema.keys()
        assert "type" in schema or "x-kubernetes-int-or-string" in schema
        for key in keys:
            assert key in schema.get("required", ()) or "default" in schema["properties"][key]
        defaulted = {name for name, child in schema.get("properties", {}).items() if "default" in child}
        assert defaulted <= set(keys)
