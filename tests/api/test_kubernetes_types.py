from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from disaggregatedset.api.kubernetes_types import BOUNDS, TYPES, extract, main, stored
from e2e.cluster.base import Cluster
from tests.api.cases import load


@pytest.mark.parametrize("name", TYPES)
def test_extraction(name: str) -> None:
    case = load("kubernetes-types.yaml")
    assert extract(case["openapi"], name) == case["schemas"][name]


@pytest.mark.parametrize("name", TYPES)
def test_command(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    case = load("kubernetes-types.yaml")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(case["openapi"])))
    main([name])
    assert json.loads(capsys.readouterr().out) == case["schemas"][name]


def test_command_says_what_can_be_extracted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pod"])
    error = capsys.readouterr().err
    assert all(name in error for name in TYPES)


def _walk(schema: dict[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    yield schema, keys
    for child in schema.get("properties", {}).values():
        yield from _walk(child)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _walk(schema[key], tuple(schema.get("x-kubernetes-list-map-keys", ())))


@pytest.mark.parametrize("name", TYPES)
def test_the_stored_schema_is_structural_and_sets_only_what_lists_need(name: str) -> None:
    for schema, keys in _walk(stored(name)):
        assert not {"$ref", "allOf", "description", "title"} & schema.keys()
        assert "type" in schema or "x-kubernetes-int-or-string" in schema
        for key in keys:
            assert key in schema.get("required", ()) or "default" in schema["properties"][key]
        defaulted = {name for name, child in schema.get("properties", {}).items() if "default" in child}
        assert defaulted <= set(keys)


@pytest.mark.parametrize("name", TYPES)
def test_the_stored_schema_has_our_bounds(name: str) -> None:
    assert _has(stored(name), BOUNDS[name])


def _has(schema: Any, bounds: Any) -> bool:
    if not isinstance(bounds, Mapping):
        return bool(schema == bounds)
    return all(key in schema and _has(schema[key], value) for key, value in bounds.items())


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["metric", "scaling_behavior"])
def test_what_is_stored_for_autoscaling_is_what_api_servers_know(cluster: Cluster, name: str) -> None:
    """The fields of pods are others in each release; those of HorizontalPodAutoscalers are the same in all of them."""
    openapi = json.loads(cluster.kubectl("get", "--raw", "/openapi/v3/apis/autoscaling/v2").stdout)
    assert extract(openapi, name) == stored(name)
