"""The schema of a pod template, extracted from an API server's OpenAPI document.

The CRD types pod templates in full, so that ``kubectl apply`` refuses a misspelled field by name. To take the schema
from a newer Kubernetes::

    kubectl get --raw /openapi/v3/apis/apps/v1 | python -m disaggregatedset.api.pod_template > \
        operator/disaggregatedset/api/pod_template_schema.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

Schema = dict[str, Any]

_POD_TEMPLATE = "io.k8s.api.core.v1.PodTemplateSpec"

#: The API server's own pattern of quantities.
QUANTITY_PATTERN = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)

_STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}

#: Types that OpenAPI describes more loosely than a structural schema may.
_SPECIAL: dict[str, Schema] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {
        "x-kubernetes-int-or-string": True,
        "pattern": QUANTITY_PATTERN,
    },
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"x-kubernetes-int-or-string": True},
    # All that templates (of pods and, within them, of volume claims) may set.
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {
        "type": "object",
        "properties": {"labels": _STRINGS, "annotations": _STRINGS},
    },
}

_NAMED: Schema = {"name": {"maxLength": 63}}
_LABEL_VALUE: Schema = {"maxLength": 63}

#: Limits that no real template meets: API servers refuse CEL rules that walk what has none, as too expensive.
BOUNDS: Schema = {
    "required": ["spec"],
    "properties": {
        "metadata": {"properties": {"labels": {"maxProperties": 128, "additionalProperties": _LABEL_VALUE}}},
        "spec": {
            "properties": {
                "containers": {"minItems": 1, "maxItems": 64, "items": {"properties": _NAMED}},
                "initContainers": {"maxItems": 64, "items": {"properties": _NAMED}},
                "resourceClaims": {"maxItems": 64, "items": {"properties": _NAMED}},
            }
        },
    },
}

_KEPT = (
    "enum",
    "format",
    "required",
    "type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
)


def extract(openapi: Mapping[str, Any]) -> Schema:
    """Extract the structural schema of a pod template.

    Parameters
    ----------
    openapi
        What an API server serves as ``/openapi/v3/apis/apps/v1``.

    Returns
    -------
    dict
        The schema of a PodTemplateSpec: references inlined, no descriptions, no defaults but those of list-map keys
        (the API server wants them; all others it sets in pods, and here they would be stored in every set), bounds
        where CEL rules of the CRD walk.
    """
    schemas = openapi["components"]["schemas"]
    schema = _converted(schemas[_POD_TEMPLATE], schemas)
    # A rule of ours refuses these with a message; their schema would be a quarter of the whole.
    schema["properties"]["spec"]["properties"]["ephemeralContainers"] = {
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "x-kubernetes-list-type": "atomic",
    }
    return _bounded(schema, BOUNDS)


def pod_template_schema() -> Schema:
    """Return the schema that is stored with this package; the caller may change it."""
    text = files("disaggregatedset.api").joinpath("pod_template_schema.json").read_text()
    schema: Schema = json.loads(text)
    return schema


def _converted(schema: Mapping[str, Any], schemas: Mapping[str, Any], map_keys: Sequence[str] = ()) -> Schema:
    """Convert a schema; ``map_keys`` are the properties that tell items of a list from each other."""
    result: Schema = {}
    for reference in [schema, *schema.get("allOf", [])]:
        if "$ref" in reference:
            name = reference["$ref"].removeprefix("#/components/schemas/")
            result |= _SPECIAL[name] if name in _SPECIAL else _converted(schemas[name], schemas, map_keys)
    result |= {key: schema[key] for key in _KEPT if key in schema}
    if "properties" in schema:
        result["properties"] = {name: _converted(child, schemas) for name, child in schema["properties"].items()}
        for key in set(map_keys) - set(schema.get("required", ())):
            result["properties"][key] |= {"default": schema["properties"][key]["default"]}
    if "items" in schema:
        result["items"] = _converted(schema["items"], schemas, schema.get("x-kubernetes-list-map-keys", ()))
    if "additionalProperties" in schema:
        result["additionalProperties"] = _converted(schema["additionalProperties"], schemas)
    if "type" not in result and "x-kubernetes-int-or-string" not in result:
        result["x-kubernetes-preserve-unknown-fields"] = True
    return result


def _bounded(schema: Schema, bounds: Mapping[str, Any]) -> Schema:
    result = dict(schema)
    for key, value in bounds.items():
        result[key] = _bounded(schema[key], value) if isinstance(value, Mapping) else value
    return result


def main() -> None:
    """Read an OpenAPI document and write the schema as it is stored: one key a line, for small diffs."""
    json.dump(extract(json.load(sys.stdin)), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
