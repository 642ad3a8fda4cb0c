"""A case for every bound of the schemas, made from the objects that have every field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from disaggregatedset.api.crd import ROLE_SCALERS, SETS, Resource, custom_resource_definition
from tests.api.cases import Rejected, Schema, compact, load, nodes

#: The objects that have every field.
_EVERYTHING = ((SETS, "accepted/everything.yaml"), (ROLE_SCALERS, "role-scaler.yaml"))

_KEYWORDS = (
    "enum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
)


class _Field(NamedTuple):
    """A field of the schema, with the first place where the object has it."""

    schema: Schema
    path: str
    place: tuple[str, Any] | None


def _fields(resource: Resource, everything: dict[str, Any]) -> list[_Field]:
    """List the fields of spec; those that look alike in several tiers once, where the object has them."""
    schema = custom_resource_definition(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec = schema["properties"]["spec"]
    fields: dict[tuple[str, str], _Field] = {}
    for path, node in nodes(spec, ".spec"):
        shape = (path.rsplit(".", 1)[-1], compact(node))
        if shape not in fields or fields[shape].place is None:
            fields[shape] = _Field(node, path, _locate(everything, path))
    return list(fields.values())


def unused_fields() -> list[str]:
    """List the fields that the objects lack which should have every one."""
    return [
        f"{path}: {field.path}"
        for resource, path in _EVERYTHING
        for field in _fields(resource, load(path))
        if field.place is None
    ]


def beyond_bounds() -> Iterator[Rejected]:
    """Go beyond each bound of each field in turn."""
    for resource, path in _EVERYTHING:
        for field in _fields(resource, load(path)):
            if field.place is None:
                continue
            name, value = field.place[0].removeprefix("."), field.place[1]
            label = f"{resource.short_name} {name}"
            for keyword in _KEYWORDS:
                if keyword in field.schema:
                    beyond, message = _beyond(keyword, field.schema[keyword], value)
                    yield Rejected(f"{label} {keyword}", {name: beyond}, name, message, path)
            for child in field.schema.get("required", ()):
                missing = f"{name}.{child}"
                yield Rejected(f"{label}.{child} required", {missing: None}, missing, "Required value", path)


def _too_many(value: list[Any], count: int) -> list[Any]:
    if isinstance(value[0], dict) and "name" in value[0]:
        return [{**value[0], "name": f"n{index}"} for index in range(count)]
    return [f"n{index}" for index in range(count)] if isinstance(value[0], str) else [value[0]] * count


def _beyond(keyword: str, bound: Any, value: Any) -> tuple[Any, str]:
    """Return a value that a bound of the schema forbids, and what the API server says about it."""
    match keyword:
        case "maxItems":
            return _too_many(value, bound + 1), f"must have at most {bound} items"
        case "minItems":
            return [], f"should have at least {bound} items"
        case "maxLength":
            return "a" * (bound + 1), f"Too long: may not be more than {bound} bytes"
        case "minLength":
            return "", f"should be at least {bound} chars long"
        case "maxProperties":
            return {f"n{index}": "1" for index in range(bound + 1)}, f"must have at most {bound} items"
        case "minProperties":
            return {}, f"should have at least {bound} properties"
        case "minimum":
            return bound - 1, f"should be greater than or equal to {bound}"
        case "maximum":
            return bound + 1, f"should be less than or equal to {bound}"
    assert keyword == "enum"
    return "Other", f'Unsupported value: "Other": supported values: {", ".join(json.dumps(value) for value in bound)}'


def _locate(value: Any, path: str) -> tuple[str, Any] | None:
    """Find the first place in an object that a path of the schema (``.requests[].count``) describes."""
    if not path:
        return "", value
    step, rest = re.match(r"(\.[^.\[]+|\[\]|\[\*\])(.*)", path).groups()  # type: ignore[union-attr]
    if step == "[]":
        places = [(f"[{index}]", item) for index, item in enumerate(value)]
    elif step == "[*]":
        places = [(f".{key}" if re.fullmatch(r"\w+", key) else f"['{key}']", item) for key, item in value.items()]
    else:
        places = [(step, value[step[1:]])] if step[1:] in value else []
    for prefix, item in places:
        if found := _locate(item, rest):
            return prefix + found[0], found[1]
    return None
