"""The versions of everything that the embedded cluster runs, in one table."""

import os
from dataclasses import dataclass

from e2e.cluster.errors import ClusterError

KUBERNETES = ("1.34.4", "1.35.4", "1.36.3", "1.37.2")
DEFAULT_KUBERNETES = "1.35.4"
ETCD = "3.6.16"
KWOK = "0.7.0"
# Of these three, only the CRDs. Gateway API 1.7 needs Go 1.27.
GATEWAY_API = "1.6.3"
KEDA = "2.21.0"
PROMETHEUS_OPERATOR = "0.85.0"
HELM = "3.22.0"
# What a rendering without a cluster takes for the cluster's version: that of the Kubernetes modules that Helm is built
# on.
HELM_KUBERNETES = "1.37"
HELM_DOCS = "1.14.2"

_KUBERNETES_MODULE = "k8s.io/kubernetes"
_HELM_MODULE = "helm.sh/helm/v3"
_HELM_DOCS_MODULE = "github.com/norwoodj/helm-docs"


@dataclass(frozen=True)
class Component:
    """A program and the Go package that it is built from.

    Attributes
    ----------
    name
        Name of the executable.
    version
        Version without the leading ``v``.
    module, package
        The Go module, and the package in it that has ``main``.
    variables
        String variables that the linker sets, as pairs of qualified name and value.
    """

    name: str
    version: str
    module: str
    package: str
    variables: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"

    @property
    def minor(self) -> str:
        """Major and minor version, such as ``1.35``."""
        return minor_of(self.version)

    @property
    def is_kubernetes(self) -> bool:
        """Whether it comes from the main Kubernetes repository, whose modules need replacing."""
        return self.module == _KUBERNETES_MODULE


def minor_of(version: str) -> str:
    """Return ``1.35`` for ``1.35.4``."""
    return ".".join(version.split(".")[:2])


def kubernetes_version(wanted: str | None = None) -> str:
    """Resolve a Kubernetes version to one that is pinned here.

    Parameters
    ----------
    wanted
        Such as ``1.35``, ``1.35.4`` or ``v1.35.4``; by default the environment's ``KUBERNETES_VERSION``.

    Raises
    ------
    ClusterError
        If no pinned version matches.
    """
    asked = (wanted or os.environ.get("KUBERNETES_VERSION") or DEFAULT_KUBERNETES).removeprefix("v")
    for version in KUBERNETES:
        if asked in {version, minor_of(version)}:
            return version
    raise ClusterError(
        f"Kubernetes {asked} is not supported: choose one of {', '.join(KUBERNETES)} (KUBERNETES_VERSION)"
    )


def components(kubernetes: str) -> tuple[Component, ...]:
    """Return what a cluster of the given Kubernetes version consists of, in the order in which it is built."""
    return (
        Component("etcd", ETCD, "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        *(
            Component(name, kubernetes, _KUBERNETES_MODULE, f"{_KUBERNETES_MODULE}/cmd/{name}")
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
        ),
        Component("kwok", KWOK, "sigs.k8s.io/kwok", "sigs.k8s.io/kwok/cmd/kwok"),
        kubectl(kubernetes),
    )


def kubectl(kubernetes: str) -> Component:
    """Return the kubectl of a Kubernetes version."""
    return Component("kubectl", kubernetes, _KUBERNETES_MODULE, f"{_KUBERNETES_MODULE}/cmd/kubectl")


def helm() -> Component:
    """Return Helm, which installs the chart."""
    major, minor = HELM_KUBERNETES.split(".")
    kubernetes = [
        (f"{_HELM_MODULE}/pkg/{package}.k8sVersion{part}", value)
        for package in ("chartutil", "lint/rules")
        for part, value in (("Major", major), ("Minor", minor))
    ]
    variables = ((f"{_HELM_MODULE}/internal/version.version", f"v{HELM}"), *kubernetes)
    return Component("helm", HELM, _HELM_MODULE, f"{_HELM_MODULE}/cmd/helm", variables)


def helm_docs() -> Component:
    """Return helm-docs, which writes the chart's README."""
    return Component("helm-docs", HELM_DOCS, _HELM_DOCS_MODULE, f"{_HELM_DOCS_MODULE}/cmd/helm-docs")


def tools() -> tuple[Component, ...]:
    """Return what is needed beside a cluster, in the order in which it is built."""
    return (helm(), helm_docs())
