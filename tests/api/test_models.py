"""The models take what the CRD takes, and give it back as it was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from disaggregatedset.api import DisaggregatedSet
from disaggregatedset.api.crd import custom_resource_definition
from tests.api.cases import accepted, changed, load

_SPEC = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
_META = {"apiVersion": "disaggregatedset.dev/v1alpha1", "kind": "DisaggregatedSet"}
_TEMPLATE = {"spec": {"containers": [{"name": "engine", "image": "engine", "unknownToThisRelease": 1}]}}
_OF_KUBERNETES = {
    "template": _TEMPLATE,
    "metrics[]": {"type": "Pods", "pods": {"target": {"type": "AverageValue", "unknownToThisRelease": 1}}},
    "behavior": {"scaleUp": {"selectPolicy": "Disabled"}, "unknownToThisRelease": {}},
}


def _parse(obj: dict[str, Any]) -> DisaggregatedSet:
    return DisaggregatedSet.model_validate({**obj, "metadata": {**obj["metadata"], "namespace": "default"}})


def _dump(parsed: DisaggregatedSet) -> Any:
    return parsed.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)


@pytest.mark.parametrize("name", accepted())
def test_accepted_cases_come_back_unchanged(name: str) -> None:
    obj = accepted()[name]
    assert _dump(_parse(obj)) == obj["spec"]


def _values(schema: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
    """What the schema accepts; of rules, only those that models repeat."""
    if name in _OF_KUBERNETES:
        return st.just(_OF_KUBERNETES[name])
    if name in {"maxSurge", "maxUnavailable"}:
        return st.integers(0, 1000) | st.integers(0, 100).map("{}%".format)
    if "x-kubernetes-int-or-string" in schema:
        return st.integers(0, 1000) | st.just("10Gi")
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "object" if "properties" in schema:
            properties = {key: _values(child, key) for key, child in schema["properties"].items()}
            required = set(schema.get("required", ()))
            return st.fixed_dictionaries(
                {key: value for key, value in properties.items() if key in required},
                optional={key: value for key, value in properties.items() if key not in required},
            )
        case "object" if "additionalProperties" in schema:
            entries = _values(schema["additionalProperties"])
            return st.dictionaries(st.text(max_size=8), entries, min_size=schema["minProperties"], max_size=2)
        case "object":
            return st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=2)
        case "array":
            return st.lists(_values(schema["items"], f"{name}[]"), min_size=schema.get("minItems", 0), max_size=2)
        case "string":
            return st.text(min_size=schema.get("minLength", 0), max_size=min(schema["maxLength"], 16))
        case "integer":
            return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
    assert schema["type"] == "boolean"
    return st.booleans()


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(_values(_SPEC))
def test_whatever_the_schema_accepts_comes_back_unchanged(spec: dict[str, Any]) -> None:
    assert _dump(_parse({**_META, "metadata": {"name": "a"}, "spec": spec})) == spec


def test_fields_of_a_newer_release_are_ignored() -> None:
    base = load("base.yaml")
    newer = changed(base, {"spec.compute.prices": {"policy": "Cheapest"}})
    assert _dump(_parse(newer)) == base["spec"]


def test_models_do_not_change() -> None:
    with pytest.raises(ValidationError):
        _parse(load("base.yaml")).spec.compute.roles[0].replicas = 2  # type: ignore[misc]


@pytest.mark.parametrize("field", ["disruption.maxUnavailable", "rollout.maxUnavailable", "rollout.maxSurge"])
@pytest.mark.parametrize("value", ["1", "half", "-1%", "%", -1])
def test_shares_are_numbers_or_percentages(value: str | int, field: str) -> None:
    bad = changed(load("base.yaml"), {f"spec.compute.roles[0].{field}": value})
    with pytest.raises(ValidationError, match="neither a number of 0 or more nor a percentage such as '25%'"):
        _parse(bad)


def test_defaults_are_those_of_the_schema() -> None:
    """What the API server fills in, and what the operator takes where it has not."""
    spec = _parse(changed(load("base.yaml"), {"spec.kvCache": {"template": _TEMPLATE}})).spec
    properties = _SPEC["properties"]
    rollout = {name: child["default"] for name, child in properties["rollout"]["properties"].items()}
    assert rollout == spec.rollout.model_dump(mode="json", by_alias=True)
    assert rollout == {
        "paused": False,
        "progressDeadlineSeconds": 600,
        "onFailure": "Rollback",
        "whenExhausted": "DrainFirst",
        "revisionHistoryLimit": 5,
    }
    assert properties["rollout"]["default"] == {}
    assert spec.kv_cache is not None
    assert properties["kvCache"]["properties"]["scope"]["default"] == spec.kv_cache.scope == "Model"
    tiers = (properties["weights"], properties["kvCache"], properties["compute"]["properties"]["roles"]["items"])
    for schema in (tier["properties"]["rollout"] for tier in tiers):
        assert schema["default"] == {"maxSurge": 1, "maxUnavailable": 0}
        each = {name: child["default"] for name, child in schema["properties"].items()}
        assert each == schema["default"] == spec.kv_cache.rollout.model_dump(by_alias=True)
    for schema in (tier["properties"]["scaling"] for tier in tiers):
        assert schema["default"] == spec.kv_cache.scaling.model_dump(mode="json", by_alias=True, exclude_none=True)
        assert schema["default"] == {"mode": schema["properties"]["mode"]["default"]} == {"mode": "Static"}


def test_defaults_of_what_shrinks_and_is_placed_and_routed() -> None:
    asked = {
        "spec.kvCache": {"template": _TEMPLATE},
        "spec.compute.placement": {"topologyKey": "rack"},
        "spec.routing": {"inferencePool": {"targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "epp"}}},
    }
    spec = _parse(changed(load("base.yaml"), asked)).spec
    dumped = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert dumped["kvCache"]["scaleDown"] == {"maxStep": 1, "periodSeconds": 300}
    assert dumped["compute"]["placement"] == {"topologyKey": "rack", "policy": "Preferred", "exclusive": False}
    assert dumped["compute"]["roles"][0]["allowZero"] is False
    picker = dumped["routing"]["inferencePool"]["endpointPickerRef"]
    assert picker == {
        "group": "",
        "kind": "Service",
        "name": "epp",
        "port": {"number": 9002},
        "failureMode": "FailClose",
    }
    properties = _SPEC["properties"]
    picked = properties["routing"]["properties"]["inferencePool"]["properties"]["endpointPickerRef"]["properties"]
    for schema, values in (
        (properties["kvCache"]["properties"]["scaleDown"]["properties"], dumped["kvCache"]["scaleDown"]),
        (properties["compute"]["properties"]["placement"]["properties"], dumped["compute"]["placement"]),
        (picked, picker),
    ):
        assert {name: child["default"] for name, child in schema.items() if "default" in child} == {
            name: value for name, value in values.items() if name not in ("name", "topologyKey")
        }
    assert properties["kvCache"]["properties"]["scaleDown"]["default"] == {}
