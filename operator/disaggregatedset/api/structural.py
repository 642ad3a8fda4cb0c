"""Pydantic's JSON schema, made a structural schema as CustomResourceDefinitions want it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

#: Keywords that mean the same in both schemas.
_KEPT = frozenset(
    {
        "description",
        "default",
        "enum",
        "format",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "required",
        "type",
    }
)

_RULES = "x-kubernetes-validations"

#: Keywords that say nothing to an API server.
_DROPPED = frozenset({"$defs", "title"})


def structural_schema(schema: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> Schema:
    """Convert a JSON schema that pydantic wrote.

    Parameters
    ----------
    schema
        What ``model_json_schema()`` returned, or a part of it.
    definitions
        What ``$ref`` refers to; the schema's own ``$defs`` if absent.

    Returns
    -------
    dict
        The schema without references, with each union that a structural schema can express in its words, and with
        everything that API servers refuse or ignore left out.

    Raises
    ------
    ValueError
        The schema says something that has no counterpart. Nothing is lost in silence.
    """
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    schema = _resolved(schema, definitions)
    result: Schema = {}
    for key, value in schema.items():
        if key in _DROPPED or (key == "default" and value is None):
            continue
        if key == "description":
            result[key] = _one_line(value)
        elif key == "properties":
            result[key] = {name: structural_schema(child, definitions) for name, child in value.items()}
        elif key == "items":
            result[key] = structural_schema(value, definitions)
        elif key == "additionalProperties":
            # False would forbid what a newer version of the CRD knows, and true is said by x-kubernetes-*.
            if isinstance(value, dict):
                result[key] = structural_schema(value, definitions)
        elif key == "const":
            result["enum"] = [value]
        elif key in _KEPT or key.startswith("x-"):
            result[key] = value
        else:
            raise ValueError(f"{key}: {value!r} can't be said in a structural schema")
    if result.get("type") in ("integer", "number") and "format" not in result:
        result["format"] = "int64" if result["type"] == "integer" else "double"
    return result


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """Replace a reference or a union by what it stands for; what is said beside it wins."""
    beside = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
    if "$ref" in schema:
        target = _resolved(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
        return _merged(target, beside)
    if "anyOf" not in schema:
        return beside
    options = [option for option in schema["anyOf"] if option != {"type": "null"}]
    if len(options) == 1:
        return _merged(_resolved(options[0], definitions), beside)
    if sorted(option.get("type", "") for option in options) == ["integer", "string"]:
        bounds = {key: value for option in options for key, value in option.items() if key not in ("type", "title")}
        return {**bounds, **beside, "x-kubernetes-int-or-string": True}
    raise ValueError(f"anyOf: {options!r} can't be said in a structural schema")


def _merged(schema: Mapping[str, Any], beside: Mapping[str, Any]) -> Schema:
    """Say ``beside`` on top of what it stands beside: rules add up, all else is replaced."""
    result = {**schema, **beside}
    if _RULES in schema and _RULES in beside:
        result[_RULES] = [*schema[_RULES], *beside[_RULES]]
    return result


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "").split())
