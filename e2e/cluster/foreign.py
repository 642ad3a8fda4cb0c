"""CRDs of other projects, for tests of what works together with them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import yaml

from e2e.cluster import gobuild, versions
from e2e.cluster.base import Cluster
from e2e.cluster.cache import appearing_whole, crds_directory, locked
from e2e.cluster.client import ApiError, Client, Object, has_condition
from e2e.cluster.wait import wait_for

Project = Literal["gateway-api", "inference-pool", "keda", "prometheus-operator"]

_EXTENSIONS = "apiextensions.k8s.io/v1"
_OWN = Path(str(resources.files("e2e.cluster"))) / "crds"


@dataclass(frozen=True)
class _Module:
    """The files of a Go module that have CRDs.

    Attributes
    ----------
    path, version
        The module, and its version without the leading ``v``.
    directory
        The directory in it that has the files.
    files
        Their names.
    """

    path: str
    version: str
    directory: str
    files: tuple[str, ...]


_MODULES: Mapping[str, _Module] = {
    "gateway-api": _Module(
        "sigs.k8s.io/gateway-api",
        versions.GATEWAY_API,
        "config/crd/standard",
        tuple(f"gateway.networking.k8s.io_{plural}.yaml" for plural in ("gatewayclasses", "gateways", "httproutes")),
    ),
    "keda": _Module("github.com/kedacore/keda/v2", versions.KEDA, "config/crd/bases", ("keda.sh_scaledobjects.yaml",)),
    "prometheus-operator": _Module(
        "github.com/prometheus-operator/prometheus-operator",
        versions.PROMETHEUS_OPERATOR,
        "example/prometheus-operator-crd",
        tuple(f"monitoring.coreos.com_{plural}.yaml" for plural in ("prometheusrules", "servicemonitors")),
    ),
}


def obtain_crds() -> Mapping[str, tuple[Path, ...]]:
    """Return the files with CRDs by project; those that aren't in the cache are downloaded.

    Raises
    ------
    ClusterError
        If something can't be downloaded; the message says why.
    """
    return {project: _files(project) for project in get_args(Project)}


def foreign_crds(project: Project) -> list[Object]:
    """Return a project's CRDs.

    ``gateway-api`` has GatewayClass, Gateway and HTTPRoute, ``keda`` ScaledObject, ``prometheus-operator``
    PrometheusRule and ServiceMonitor.
    """
    return [yaml.safe_load(path.read_text()) for path in _files(project)]


def install_foreign_crds(cluster: Cluster, *projects: Project) -> None:
    """Install CRDs of other projects, and return when they are served."""
    crds = [crd for project in projects for crd in foreign_crds(project)]
    cluster.apply(crds)
    for crd in crds:
        name = crd["metadata"]["name"]
        cluster.client.wait(_EXTENSIONS, "CustomResourceDefinition", name, None, has_condition("Established"))
        # Established, it may not be discovered yet (404), or its storage not be ready (429).
        wait_for(f"{name} to be served", partial(_is_served, cluster.client, crd))


def _is_served(client: Client, crd: Object) -> bool:
    kind, group = crd["spec"]["names"]["kind"], crd["spec"]["group"]
    try:
        for version in crd["spec"]["versions"]:
            if version["served"]:
                client.list(f"{group}/{version['name']}", kind)
    except ApiError as error:
        if error.status in {404, 429}:
            return False
        raise
    return True


def _files(project: str) -> tuple[Path, ...]:
    if project not in _MODULES:
        return (_OWN / f"{project}.yaml",)
    module = _MODULES[project]
    target = crds_directory() / f"{project}-v{module.version}"
    with locked(target.with_name(f".{target.name}.lock")):
        if not target.exists():
            with appearing_whole(target) as directory:
                downloaded = gobuild.download(module.path, module.version, directory) / module.directory
                for file in module.files:
                    # Without the mode of Go's cache, which is read-only.
                    shutil.copyfile(downloaded / file, directory / file)
    return tuple(target / file for file in module.files)
