"""What a release left behind, as files: read off a cluster, and put on another as that release would have left it."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from e2e.cluster.base import Cluster
from e2e.cluster.client import ApiError, Object, has_condition
from tests.integration.sets import API, KIND, LABEL

HERE: Final = Path(__file__).parent
#: The namespace is a part of what pods are told, so it can't be another one.
NAMESPACE: Final = "inference"
#: Who applies sets, and who applies children and status.
USER: Final = "e2e"
OPERATOR: Final = "disaggregatedset"
CHILD_KINDS: Final = (
    ("apps/v1", "ControllerRevision"),
    ("resource.k8s.io/v1", "ResourceClaimTemplate"),
    ("v1", "Service"),
    ("policy/v1", "PodDisruptionBudget"),
    ("apps/v1", "Deployment"),
    (API, "RoleScaler"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
)
_CRD: Final = "CustomResourceDefinition"
#: Kept compressed: it is as long as all else together, and nobody reads it here.
_CRDS: Final = "crds.yaml.gz"
_TIME: Final = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
# libyaml reads the CRDs in a second, not in ten.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def recorded() -> list[Path]:
    """Return the directories of all releases that were recorded."""
    return sorted(path.parent for path in HERE.glob(f"*/{_CRDS}"))


def prepare(cluster: Cluster, crds: str) -> None:
    """Install CRDs as a user does, and make the namespace of the sets."""
    objects = list(yaml.load_all(crds, Loader=_LOADER))
    for crd in objects:
        cluster.client.apply(crd, field_manager="kubectl")
    for crd in objects:
        cluster.client.wait(crd["apiVersion"], _CRD, crd["metadata"]["name"], None, has_condition("Established"))
    cluster.client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.client.wait("v1", "ServiceAccount", "default", NAMESPACE, bool)


def save(cluster: Cluster, crds: str, directory: Path) -> None:
    """Write what belongs to the sets of a cluster: what their users and the operator have applied, and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    (directory / _CRDS).write_bytes(gzip.compress(crds.encode(), mtime=0))
    for dset in cluster.client.list(API, KIND, NAMESPACE):
        dset |= {"apiVersion": API, "kind": KIND}
        name = dset["metadata"]["name"]
        applied = _applied(dset, USER)
        applied["metadata"]["generation"] = dset["metadata"]["generation"]
        applied["status"] = _applied(dset, OPERATOR, "status")["status"]
        documents = [applied, *(_applied(child, OPERATOR) for child in children(cluster, name))]
        (directory / f"{name}.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False, width=120))


def children(cluster: Cluster, name: str) -> Iterator[Object]:
    """Walk the children of a set, of all kinds that there are."""
    for api_version, kind in CHILD_KINDS:
        try:
            for child in cluster.client.list(api_version, kind, NAMESPACE, labels=f"{LABEL}/set={name}"):
                yield {"apiVersion": api_version, "kind": kind, **child}
        except ApiError as error:
            if error.status != 404:
                raise


def restore(cluster: Cluster, directory: Path) -> list[Object]:
    """Bring a cluster to where a release left one; return the sets.

    The CRDs are that release's, objects belong to the field managers that applied them, sets have their generation,
    children their owner, and the latest thing that a status tells of has happened just now.
    """
    prepare(cluster, gzip.decompress((directory / _CRDS).read_bytes()).decode())
    return [_restore_set(cluster, path) for path in sorted(directory.glob("*.yaml"))]


def _restore_set(cluster: Cluster, path: Path) -> Object:
    dset, *owned = yaml.load_all(path.read_text(), Loader=_LOADER)
    status = dset.pop("status")
    for before in range(dset["metadata"].pop("generation") - 1):
        rollout = {**dset["spec"].get("rollout", {}), "revisionHistoryLimit": 2 + before % 2}
        cluster.client.apply({**dset, "spec": {**dset["spec"], "rollout": rollout}}, field_manager=USER)
    made = cluster.client.apply(dset, field_manager=USER)
    for child in owned:
        for owner in child["metadata"]["ownerReferences"]:
            owner["uid"] = made["metadata"]["uid"]
        cluster.client.apply(child, field_manager=OPERATOR)
    metadata = {field: made["metadata"][field] for field in ("name", "namespace")}
    return cluster.client.request(
        "PATCH",
        cluster.client.path(API, KIND, made["metadata"]["name"], NAMESPACE) + "/status",
        {"apiVersion": API, "kind": KIND, "metadata": metadata, "status": _just_now(status)},
        query={"fieldManager": OPERATOR, "force": "true"},
        content_type="application/apply-patch+yaml",
    )


def _applied(obj: Object, manager: str, subresource: str = "") -> Object:
    """Return what a field manager has applied of an object, without the owner's uid."""
    fields = next(
        entry["fieldsV1"]
        for entry in obj["metadata"]["managedFields"]
        if (entry["manager"], entry["operation"], entry.get("subresource", "")) == (manager, "Apply", subresource)
    )
    part = _part(obj, fields)
    metadata = {field: obj["metadata"][field] for field in ("name", "namespace")} | part.pop("metadata", {})
    for owner in metadata.get("ownerReferences", ()):
        del owner["uid"]
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, **part}


def _part(value: Any, fields: Mapping[str, Any]) -> Any:
    """Return the part of a value that ``fieldsV1`` names: ``f:`` a field, ``k:`` an item by its keys, ``v:`` one."""
    inner = {name.partition(":")[2]: (name[0], below) for name, below in fields.items() if name != "."}
    if not fields:
        return value
    if isinstance(value, dict):
        return {name: _part(value[name], below) for name, (_, below) in inner.items()}
    part = {}
    for text, (how, below) in inner.items():
        wanted = json.loads(text)
        number = value.index(wanted) if how == "v" else next(
            number for number, item in enumerate(value) if wanted.items() <= item.items()
        )  # fmt: skip
        part[number] = value[number] if how == "v" else _part(value[number], below)
    return [part[number] for number in sorted(part)]


def _just_now(status: Object) -> Object:
    """Move all times of a status such that the latest is now."""
    times = [datetime.fromisoformat(value) for value in _values(status) if _TIME.match(value)]
    later = datetime.now(UTC) - max(times)

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(below) for name, below in value.items()}
        if isinstance(value, list):
            return [moved(below) for below in value]
        if isinstance(value, str) and _TIME.match(value):
            return (datetime.fromisoformat(value) + later).strftime("%Y-%m-%dT%H:%M:%SZ")
        return value

    made: Object = moved(status)
    return made


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for below in value.values() if isinstance(value, dict) else value:
            yield from _values(below)
