"""Finds or builds the programs of a cluster."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.cluster import gobuild, versions
from e2e.cluster.cache import appearing_whole, binaries_directory, locked
from e2e.cluster.progress import BuildProgress
from e2e.cluster.versions import Component, minor_of


def obtain(kubernetes: str | None = None) -> Mapping[str, Path]:
    """Return the executables of a cluster by name; those that are nowhere to be found are built.

    Each is taken from ``KUBEBUILDER_ASSETS``, ``PATH`` or the cache, in this order, where its version fits.

    Parameters
    ----------
    kubernetes
        The Kubernetes version; by default that of ``KUBERNETES_VERSION``.

    Raises
    ------
    ClusterError
        If something can't be built; the message says why.
    """
    return _obtain(versions.components(versions.kubernetes_version(kubernetes)))


def obtain_tools() -> Mapping[str, Path]:
    """Return the executables that are needed beside a cluster, found or built as those of a cluster are."""
    return _obtain(versions.tools())


def kubectl(kubernetes: str | None = None) -> Path:
    """Return kubectl, which is built only if it is nowhere to be found."""
    component = versions.kubectl(versions.kubernetes_version(kubernetes))
    return find(component) or _build(component, BuildProgress(1))


def helm() -> Path:
    """Return Helm, which is built only if it is nowhere to be found."""
    return _obtain([versions.helm()])["helm"]


def helm_docs() -> Path:
    """Return helm-docs, which is built only if it is nowhere to be found."""
    return _obtain([versions.helm_docs()])["helm-docs"]


def find(component: Component) -> Path | None:
    """Return a component's executable if one of the right version exists."""
    for candidate in _installed(component.name):
        # Every kubectl works for what is done with it here, and people expect theirs to be used.
        if component.name == "kubectl" or version_of(candidate) == component.minor:
            return candidate
    built = _target(component) / component.name
    return built if built.exists() else None


def version_of(executable: Path) -> str | None:
    """Return major and minor version as the program's ``--version`` tells, or None if it doesn't."""
    try:
        result = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"v?(\d+\.\d+\.\d+)", result.stdout)
    return minor_of(match.group(1)) if match else None


def _obtain(components: Sequence[Component]) -> Mapping[str, Path]:
    found = {component: find(component) for component in components}
    progress = BuildProgress(sum(path is None for path in found.values()))
    return {component.name: path or _build(component, progress) for component, path in found.items()}


def _installed(name: str) -> list[Path]:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    places = [shutil.which(name, path=assets) if assets else None, shutil.which(name)]
    return [Path(place) for place in places if place]


def _target(component: Component) -> Path:
    return binaries_directory() / f"{component.name}-v{component.version}"


def _build(component: Component, progress: BuildProgress) -> Path:
    target = _target(component)
    with progress.building(str(component)), locked(target.with_name(f".{target.name}.lock")):
        # Whoever held the lock before may have built it meanwhile.
        if not target.exists():
            with appearing_whole(target) as directory:
                gobuild.build(component, directory, binaries_directory() / "logs" / f"{target.name}.log")
    return target / component.name
