"""What every test cluster can do, whatever it is made of."""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from e2e.cluster import binaries, kubeconfig
from e2e.cluster.client import Client, Object
from e2e.cluster.errors import ClusterError

_TOKEN_SECONDS = 24 * 3600


class Cluster(ABC):
    """A Kubernetes cluster for tests. As a context manager it starts and stops.

    Parameters
    ----------
    name
        Its name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""

    @property
    @abstractmethod
    def directory(self) -> Path:
        """A directory that goes with the cluster."""

    @property
    def audit_log(self) -> Path | None:
        """The file that gets a line of JSON per API request, or None if there is none."""
        return None

    @property
    def server(self) -> str:
        """URL of the API server."""
        return kubeconfig.read(self.kubeconfig).server

    @cached_property
    def client(self) -> Client:
        """A client with the administrator's rights."""
        return Client(self.kubeconfig, self.check)

    @abstractmethod
    def start(self) -> None:
        """Start the cluster and return when it is usable."""

    @abstractmethod
    def stop(self) -> None:
        """End the cluster and leave nothing behind. May be called at any time, and more than once."""

    def check(self) -> None:  # noqa: B027
        """Raise `ClusterError`, with the reason, if the cluster has failed. Some kinds of clusters can't tell."""

    @abstractmethod
    def stop_api_server(self) -> None:
        """Stop the API server and return when it is gone."""

    @abstractmethod
    def start_api_server(self) -> None:
        """Start the API server again, at the same URL, and return when it is ready."""

    @abstractmethod
    def add_nodes(
        self, count: int, *, devices: int = 0, labels: Mapping[str, str] | None = None, cpu: str = "64",
        memory: str = "512Gi", pods: int = 500, prefix: str = "node",
    ) -> list[str]:  # fmt: skip
        """Add nodes, wait until pods can be scheduled to them, and return their names.

        Parameters
        ----------
        count
            How many nodes.
        devices
            How many GPUs each has, and as many NICs.
        labels
            Labels of each node.
        cpu, memory, pods
            What each has room for.
        prefix
            What their names start with.
        """

    @abstractmethod
    def remove_node(self, name: str) -> None:
        """Remove a node with its devices and, at once, its pods."""

    @abstractmethod
    def set_devices(self, node: str, count: int) -> None:
        """Have a node publish this many GPUs, and as many NICs."""

    @abstractmethod
    def add_devices(self, node: str, count: int) -> None:
        """Have a node publish more GPUs and NICs."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl with the administrator's rights.

        Parameters
        ----------
        arguments
            Its arguments.
        stdin
            Its standard input.
        check
            Whether a failure raises `ClusterError` with what it said.
        """
        command = [str(binaries.kubectl()), f"--kubeconfig={self.kubeconfig}", *arguments]
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and result.returncode:
            self.check()
            raise ClusterError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result

    def apply(self, objects: str | Object | Iterable[Object]) -> list[Object]:
        """Apply objects, or YAML of objects, on the server's side, and return them as they are then.

        Parameters
        ----------
        objects
            Each needs ``metadata.namespace`` unless it is for ``default``.
        """
        if isinstance(objects, str):
            objects = [document for document in yaml.safe_load_all(objects) if document]
        elif isinstance(objects, dict):
            objects = [objects]
        return [self.client.apply(obj) for obj in objects]

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Return a kubeconfig with exactly the rights of an existing service account, by a token for a day."""
        path = self.client.path("v1", "ServiceAccount", name, namespace)
        request: dict[str, Any] = {"spec": {"expirationSeconds": _TOKEN_SECONDS}}
        token = self.client.request("POST", f"{path}/token", request)["status"]["token"]
        admin = kubeconfig.read(self.kubeconfig)
        access = kubeconfig.Access(admin.server, admin.authority, token=token)
        target = self.directory / "service-accounts" / f"{namespace}-{name}.yaml"
        return kubeconfig.write(target, access, name=self.name, namespace=namespace)
