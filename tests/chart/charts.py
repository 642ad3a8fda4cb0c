"""The chart as tests see it: rendered, compared, and its cases read."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import binaries
from e2e.cluster.client import Object

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHART = ROOT / "charts" / "disaggregatedset"

#: What every case is rendered as, and the namespaces that cases name beside the release's.
RELEASE = "disaggregatedset"
NAMESPACE = "dset-system"
OTHER_NAMESPACES = ("team-a", "team-b", "monitoring")

_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\]']+)\]|\['([^']+)'\]")
# libyaml reads the CRDs in a second, not in ten.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class HelmError(Exception):
    """Helm has failed; the message is what it said."""


def helm(*arguments: str, values: Object | None = None, kubeconfig: Path | None = None) -> str:
    """Run Helm and return what it printed.

    Raises
    ------
    HelmError
        If it fails.
    """
    command = [str(binaries.helm()), *arguments]
    if values is not None:
        command.append("--values=-")
    if kubeconfig is not None:
        command.append(f"--kubeconfig={kubeconfig}")
    done = subprocess.run(
        command,
        input=None if values is None else yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HelmError(done.stderr.strip())
    return done.stdout


def documents(text: str) -> list[Object]:
    """Return the objects of a stream of YAML documents."""
    return [document for document in yaml.load_all(text, Loader=_LOADER) if document]


def render(values: Object | None = None, *, crds: bool = False) -> list[Object]:
    """Render the chart as an install would; the CRDs, which take the longest to read, only where they are asked for."""
    chosen = values or {}
    if not crds:
        chosen = {**chosen, "crds": {**chosen.get("crds", {}), "install": False}}
    return documents(helm("template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", values=chosen))


def key(obj: Object) -> str:
    """Name an object as cases do: ``Kind/name``, and ``Kind/namespace/name`` outside of the release's namespace."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace", NAMESPACE)
    return "/".join([obj["kind"], *([] if namespace == NAMESPACE else [namespace]), metadata["name"]])


def at(obj: Any, path: str) -> Any:
    """Return what is at a path; None where there is nothing.

    ``spec.replicas``, ``metadata.annotations['a.b/c']``, and in lists ``ports[0]`` or ``containers[operator]`` by name.
    """
    for name, index, quoted in _STEP.findall(path):
        if isinstance(obj, list):
            step = name or index or quoted
            if step.isdigit():
                obj = obj[int(step)] if int(step) < len(obj) else None
            else:
                obj = next((item for item in obj if isinstance(item, dict) and item.get("name") == step), None)
        elif isinstance(obj, dict):
            obj = obj.get(name or index or quoted)
        else:
            return None
    return obj


@dataclass(frozen=True)
class Case:
    """Values, and what they make of the chart.

    Attributes
    ----------
    name
        What the case is about.
    values
        What differs from the defaults.
    expect
        By object and path what is there; null: nothing.
    contains, lacks
        By object and path an item that a list has, or has not.
    there, gone
        Objects that exist, or don't.
    crds
        Whether the CRDs are rendered too.
    restricted
        Whether the pods still meet the restricted Pod Security Standard.
    """

    name: str
    values: Object = field(default_factory=dict)
    expect: dict[str, Object] = field(default_factory=dict)
    contains: dict[str, Object] = field(default_factory=dict)
    lacks: dict[str, Object] = field(default_factory=dict)
    there: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    crds: bool = False
    restricted: bool = True


@cache
def cases() -> list[Case]:
    """Return all rendering cases."""
    return [
        Case(**{**case, "name": f"{path.stem}: {case['name']}"})
        for path in sorted((HERE / "cases").glob("*.yaml"))
        for case in yaml.safe_load(path.read_text())
    ]


@cache
def rendered(name: str) -> list[Object]:
    """Return what a case is rendered to."""
    case = next(case for case in cases() if case.name == name)
    return render(case.values, crds=case.crds)


@cache
def default_values() -> Object:
    """Return values.yaml."""
    values: Object = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """Walk the paths of everything that isn't a mapping with something in it."""
    if isinstance(values, dict) and values:
        for name, child in values.items():
            step = f"['{name}']" if "." in name else f".{name}"
            yield from leaves(child, f"{path}{step}".lstrip("."))
    else:
        yield path
