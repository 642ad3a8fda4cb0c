"""Reading case files, changing objects by path, and walking the schema of the CRD."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from disaggregatedset.api.kubernetes_types import BOUNDS

HERE = Path(__file__).parent
Schema = dict[str, Any]

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|\['([^']+)'\]")


#: Where the schema has types of Kubernetes, and their names there.
_KUBERNETES_TYPES = {".template": "pod_template", ".metrics[]": "metric", ".behavior": "scaling_behavior"}


class Rejected(NamedTuple):
    """A change of an object that is accepted, which the API server must refuse."""

    name: str
    changes: dict[str, Any]
    field: str
    message: str
    base: str = "base.yaml"

    def object(self) -> dict[str, Any]:
        """Return the object with the changes."""
        return changed(load(self.base), self.changes)


def load(path: str) -> Any:
    return yaml.safe_load((HERE / path).read_text())


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (HERE / folder).glob("*.yaml"))


def rejected() -> list[Rejected]:
    return [
        Rejected(f"{file}: {case['name']}", case["set"], case["field"], case["message"])
        for file in names("rejected")
        for case in load(f"rejected/{file}.yaml")
    ]


def accepted() -> dict[str, dict[str, Any]]:
    return {name: load(f"accepted/{name}.yaml") for name in names("accepted")}


def changed(obj: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which each path (``spec.compute.roles[0].name``) has a new value; null removes it."""
    result = copy.deepcopy(obj)
    for path, value in changes.items():
        steps = [key or quoted or int(index) for key, index, quoted in _STEP.findall(path)]
        parent: Any = result
        for step in steps[:-1]:
            parent = parent[step] if isinstance(step, int) else parent.setdefault(step, {})
        if value is None:
            del parent[steps[-1]]
        else:
            parent[steps[-1]] = value
    return result


def nodes(schema: Schema, path: str = "", limits: Schema | None = None) -> Iterator[tuple[str, Schema]]:
    """Walk what the models say: all of the schema, but of types of Kubernetes only what has limits of ours."""
    yield path, schema
    if (kubernetes_type := kubernetes_type_at(path)) is not None:
        limits = BOUNDS[kubernetes_type]
    for name, child in schema.get("properties", {}).items():
        if limits is None or name in limits.get("properties", {}):
            yield from nodes(child, f"{path}.{name}", limits and limits["properties"][name])
    for key, suffix in (("items", "[]"), ("additionalProperties", "[*]")):
        if key in schema and (limits is None or key in limits):
            yield from nodes(schema[key], f"{path}{suffix}", limits and limits[key])


def kubernetes_type_at(path: str) -> str | None:
    """Return the name of the type of Kubernetes that the schema has at a path."""
    return next((name for end, name in _KUBERNETES_TYPES.items() if path.endswith(end)), None)


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
