"""Schemas of Kubernetes' own types, extracted from an API server's OpenAPI documents.

The CRD types pod templates and what becomes part of HorizontalPodAutoscalers in full, so that ``kubectl apply`` refuses
a misspelled field by name. To take the schemas from a newer Kubernetes, for each of :data:`TYPES`::

    kubectl get --raw /openapi/v3/apis/apps/v1 | python -m disaggregatedset.api.kubernetes_types pod_template > \
        operator/disaggregatedset/api/schemas/pod_template.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

Schema = dict[str, Any]

#: The types that are stored, and their names in OpenAPI documents: of pod templates in that of ``apps/v1``, of the
#: others in that of ``autoscaling/v2``.
TYPES: Final = {
    "pod_template": "io.k8s.api.core.v1.PodTemplateSpec",
    "metric": "io.k8s.api.autoscaling.v2.MetricSpec",
    "scaling_behavior": "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerBehavior",
}

#: Marks, in a model's JSON schema, where the CRD has the schema of one of them.
MARK: Final = "x-disaggregatedset-type"

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

#: Bounds of how fast a HorizontalPodAutoscaler scales in one direction.
_SCALING_RULES: Schema = {
    "properties": {
        "policies": {
            "minItems": 1,
            "maxItems": 16,
            "items": {
                "properties": {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": {"minimum": 1},
                    "periodSeconds": {"minimum": 1, "maximum": 1800},
                }
            },
        },
        "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
        "stabilizationWindowSeconds": {"minimum": 0, "maximum": 3600},
    }
}

#: Bounds that OpenAPI documents lack: those of API servers, so that a set is refused and not what it is made into; and
#: limits that no real object meets, because API servers refuse CEL rules that walk what has none, as too expensive.
BOUNDS: Final[dict[str, Schema]] = {
    "pod_template": {
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
    },
    "metric": {"properties": {"type": {"enum": ["Resource", "ContainerResource", "Pods", "Object", "External"]}}},
    "scaling_behavior": {"properties": {"scaleUp": _SCALING_RULES, "scaleDown": _SCALING_RULES}},
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


def extract(openapi: Mapping[str, Any], name: str) -> Schema:
    """Extract the structural schema of a type.

    Parameters
    ----------
    openapi
        What an API server serves under ``/openapi/v3/apis``.
    name
        One of :data:`TYPES`.

    Returns
    -------
    dict
        The schema: references inlined, no descriptions, no defaults but those of list-map keys (the API server wants
        them; all others it sets in pods, and here they would be stored in every set), with :data:`BOUNDS`.
    """
    schemas = openapi["components"]["schemas"]
    schema = _converted(schemas[TYPES[name]], schemas)
    if name == "pod_template":
        # A rule of ours refuses these with a message; their schema would be a quarter of the whole.
        schema["properties"]["spec"]["properties"]["ephemeralContainers"] = {
            "type": "array",
            "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "x-kubernetes-list-type": "atomic",
        }
    return _bounded(schema, BOUNDS[name])


def stored(name: str) -> Schema:
    """Return a schema that is stored with this package; the caller may change it."""
    text = files("disaggregatedset.api").joinpath("schemas", f"{name}.json").read_text()
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Read an OpenAPI document and write the schema as it is stored: one key a line, for small diffs."""
    parser = argparse.ArgumentParser(description="Extract the schema of a type from an OpenAPI document.")
    parser.add_argument("type", choices=TYPES, help="what to extract")
    name = parser.parse_args(arguments).type
    json.dump(extract(json.load(sys.stdin), name), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
