"""A fresh cluster for each measurement, with everything but the operator."""

from __future__ import annotations

import datetime as dt
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import psutil

import e2e
from e2e.bench import audit
from e2e.bench.process import cpu_seconds
from e2e.bench.results import Usage
from e2e.bench.watching import has_condition
from e2e.bench.workload import NAMESPACE
from e2e.cluster import EmbeddedCluster, Object

_SYSTEM: Final = "disaggregatedset-system"
OPERATOR: Final = "disaggregatedset"
_HARNESS: Final = "bench"
_CRD: Final = "apiextensions.k8s.io/v1"
_CRDS: Final = Path(e2e.__file__).parents[1] / "crds"

#: The API server works on the CRD's OpenAPI document for a while, and the first nodes settle.
_SETTLE_SECONDS: Final = 5.0


class Room(Protocol):
    """What a workload needs of a cluster."""

    @property
    def nodes(self) -> int:
        """Nodes on which all pods fit."""

    @property
    def devices_per_node(self) -> int:
        """Devices that each node must have."""


class Bed:
    """A fresh cluster; as a context manager it starts and stops.

    Parameters
    ----------
    room
        What it must have room for.
    stock_qps
        Whether controller manager and scheduler keep their default limits on requests per second.
    kubernetes
        Its version; None: the default.
    """

    def __init__(self, room: Room, *, stock_qps: bool, kubernetes: str | None) -> None:
        self._room = room
        self._directory = tempfile.TemporaryDirectory(prefix="disaggregatedset-bench-")
        self.directory = Path(self._directory.name)
        self._audit_log = self.directory / "audit.log"
        self.cluster = EmbeddedCluster(kubernetes=kubernetes, audit_log=self._audit_log, stock_client_limits=stock_qps)

    def __enter__(self) -> Self:
        self.cluster.start()
        try:
            self._furnish()
        except BaseException:
            self.cluster.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cluster.stop()
        self._directory.cleanup()

    @property
    def operator_config(self) -> Path:
        """A kubeconfig for the operator, as a user whose requests the audit log tells from all others."""
        return self.cluster.service_account_kubeconfig(_SYSTEM, OPERATOR)

    @property
    def harness_config(self) -> Path:
        """A kubeconfig with a token for watching."""
        return self.cluster.service_account_kubeconfig(_SYSTEM, _HARNESS)

    def create(self, objects: Iterable[Object], connections: int) -> dict[str, float]:
        """Create objects over some connections at once.

        Returns
        -------
        dict
            When each was asked for, by its name, by the clock of `time.perf_counter`. (Objects of different kinds may
            share a name; then it is any of them.)
        """
        client = self.cluster.client
        return _all_at_once([(obj["metadata"]["name"], partial(client.create, obj)) for obj in objects], connections)

    def patch(self, api_version: str, kind: str, patches: Mapping[str, Object], connections: int) -> dict[str, float]:
        """Change objects, each by its name and a JSON merge patch; otherwise as `create`."""
        patch = self.cluster.client.patch
        work = [(name, partial(patch, api_version, kind, name, NAMESPACE, body)) for name, body in patches.items()]
        return _all_at_once(work, connections)

    def requests(self) -> list[audit.Request]:
        """Return all requests of the operator so far."""
        with self._audit_log.open() as lines:
            return audit.read(lines, f"system:serviceaccount:{_SYSTEM}:{OPERATOR}")

    def _furnish(self) -> None:
        cluster, room = self.cluster, self._room
        # The floor gets the CRD too: a cluster is slower for some seconds after it came.
        cluster.kubectl("apply", "--server-side", f"--filename={_CRDS}")
        for crd in cluster.client.list(_CRD, "CustomResourceDefinition"):
            cluster.client.wait(
                _CRD, "CustomResourceDefinition", crd["metadata"]["name"], None, has_condition("Established")
            )
        cluster.add_nodes(room.nodes, devices=room.devices_per_node)
        for namespace in (NAMESPACE, _SYSTEM):
            cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            cluster.client.wait("v1", "ServiceAccount", "default", namespace, bool)
        for name in (OPERATOR, _HARNESS):
            metadata = {"name": name, "namespace": _SYSTEM}
            cluster.client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
            cluster.client.create(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "ClusterRoleBinding",
                    "metadata": {"name": f"{_SYSTEM}-{name}"},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "ClusterRole",
                        "name": "cluster-admin",
                    },
                    "subjects": [{"kind": "ServiceAccount", **metadata}],
                }
            )
        time.sleep(_SETTLE_SECONDS)


def _all_at_once(work: Iterable[tuple[str, Callable[[], Any]]], connections: int) -> dict[str, float]:
    def do(one: tuple[str, Callable[[], Any]]) -> tuple[str, float]:
        name, request = one
        asked = time.perf_counter()
        request()
        return name, asked

    with ThreadPoolExecutor(connections) as pool:
        return dict(pool.map(do, work))


class Meter:
    """Measures what is used from its creation to a call of `usage`.

    Parameters
    ----------
    bed
        The cluster.
    others
        Processes beside the cluster's and this one, by name.
    """

    def __init__(self, bed: Bed, others: Mapping[str, psutil.Process] | None = None) -> None:
        self._bed = bed
        components = {name: psutil.Process(pid) for name, pid in bed.cluster.state().pids.items()}
        self._processes = {**components, **(others or {}), "bench": psutil.Process()}
        self._cpu = self._read()
        self._started = dt.datetime.now(dt.UTC)

    def usage(self) -> Usage:
        """Return what was used until now."""
        ended, cpu = dt.datetime.now(dt.UTC), self._read()
        requests = audit.between(self._bed.requests(), self._started, ended)
        return Usage(
            seconds=(ended - self._started).total_seconds(),
            cpu={name: cpu[name] - before for name, before in self._cpu.items()},
            requests=audit.count(requests),
            failed=audit.failures(requests),
            writes=sum(request.writes for request in requests),
        )

    def _read(self) -> dict[str, float]:
        return {name: cpu_seconds(process) for name, process in self._processes.items()}
