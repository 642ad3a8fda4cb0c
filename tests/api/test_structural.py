from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from disaggregatedset.api.structural import structural_schema
from tests.api.cases import load, names


@pytest.mark.parametrize("name", names("structural"))
def test_conversion(name: str) -> None:
    case = load(f"structural/{name}.yaml")
    assert structural_schema(case["json_schema"]) == case["structural"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "exclusiveMinimum": 0},
        {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        {"oneOf": [{"type": "string"}]},
        {"type": "array", "prefixItems": [{"type": "string"}]},
    ],
)
def test_what_cannot_be_said_is_not_dropped(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="can't be said in a structural schema"):
        structural_schema(schema)


def test_the_input_is_left_alone() -> None:
    class Example(BaseModel):
        values: list[int] | None = Field(None, json_schema_extra={"x-kubernetes-validations": [{"rule": "true"}]})

    schema = Example.model_json_schema()
    structural_schema(schema)
    assert schema == Example.model_json_schema()
