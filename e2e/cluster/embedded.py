"""A control plane as processes on this machine, with nodes that kwok simulates."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import psutil

import e2e
from e2e.cluster import binaries, simulated, versions
from e2e.cluster.base import Cluster
from e2e.cluster.cache import clusters_lock, is_locked, remove_abandoned
from e2e.cluster.client import Object
from e2e.cluster.errors import ClusterError
from e2e.cluster.health import Prober
from e2e.cluster.model import API_SERVER, Layout, Options, Spec, State
from e2e.cluster.wait import wait_for

_STOP_TIMEOUT = 60


class EmbeddedCluster(Cluster):
    """A control plane as processes on this machine, with simulated nodes.

    It ends with the process that started it, however that ends, unless it is detached.

    Parameters
    ----------
    name
        Its name, unique on this machine; by default a random one.
    kubernetes
        Its version, such as ``1.35``; by default that of the environment's ``KUBERNETES_VERSION``.
    audit_log
        A file that shall get one line of JSON per API request.
    dra
        Whether it serves ``resource.k8s.io/v1``.
    stock_client_limits
        Whether controller manager and scheduler keep their default limits on requests per second.
    detached
        Whether it goes on when this process ends, until somebody calls `stop`.
    """

    def __init__(
        self, name: str | None = None, *, kubernetes: str | None = None, audit_log: Path | None = None,
        dra: bool = True, stock_client_limits: bool = False, detached: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(name or f"test-{os.getpid()}-{secrets.token_hex(3)}")
        self.options = Options(
            kubernetes=versions.kubernetes_version(kubernetes),
            audit_log=audit_log and audit_log.absolute(),
            dra=dra,
            stock_client_limits=stock_client_limits,
        )
        self._detached = detached
        self._layout = Layout(self.name)
        self._supervisor: subprocess.Popen[str] | None = None

    @classmethod
    def attach(cls, name: str) -> "EmbeddedCluster":
        """Return a cluster that another process has started.

        Raises
        ------
        ClusterError
            If there is none of this name, or it has failed.
        """
        cluster = cls(name, detached=True)
        cluster.options = cluster.state().options
        return cluster

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._layout.kubeconfig

    @property
    def directory(self) -> Path:
        """The cluster's files, with the components' logs in ``logs``."""
        return self._layout.root

    @property
    def audit_log(self) -> Path | None:
        """The file that gets a line of JSON per API request, or None if there is none."""
        return self.options.audit_log

    def start(self) -> None:
        """Start the cluster and return when it is usable; what it needs is built before, where missing."""
        spec = Spec(
            name=self.name,
            owned=not self._detached,
            options=self.options,
            binaries=dict(binaries.obtain(self.options.kubernetes)),
        )
        try:
            self._start_supervisor(spec)
            if self.options.dra:
                self.apply(simulated.device_classes())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the cluster and leave nothing behind. May be called at any time, and more than once."""
        if "client" in self.__dict__:
            self.client.close()
            del self.client
        if self._supervisor:
            self._supervisor.terminate()
            self._supervisor.communicate(timeout=_STOP_TIMEOUT)
            self._supervisor = None
        elif self._detached:
            if is_locked(self._layout.lock) and (state := self._layout.read_state()):
                process = psutil.Process(state.supervisor)
                process.terminate()
                process.wait(_STOP_TIMEOUT)
            with clusters_lock():
                remove_abandoned(self.name)

    def state(self) -> State:
        """Return what the cluster's supervisor last told.

        Raises
        ------
        ClusterError
            If the cluster doesn't run, with the reason.
        """
        state = self._layout.read_state()
        if state and state.phase == "failed":
            raise ClusterError(f"cluster {self.name} has failed: {state.error}")
        if not state:
            raise ClusterError(f"there is no cluster {self.name}")
        if not is_locked(self._layout.lock):
            raise ClusterError(f"cluster {self.name} was killed")
        return state

    def check(self) -> None:
        """Raise `ClusterError`, with the reason, if the cluster has failed."""
        self.state()

    def health(self) -> dict[str, bool]:
        """Return which components are healthy."""
        with Prober(self._layout.authority) as prober:
            return {name: prober.is_healthy(url) for name, url in self.state().health.items()}

    def stop_api_server(self) -> None:
        """Kill the API server and return when it is gone."""
        os.kill(self.state().supervisor, signal.SIGUSR1)
        wait_for(f"{API_SERVER} to stop", lambda: API_SERVER not in self.state().pids)

    def start_api_server(self) -> None:
        """Start the API server again, at the same URL, and return when it is ready."""
        os.kill(self.state().supervisor, signal.SIGUSR2)
        wait_for(f"{API_SERVER} to be ready", lambda: API_SERVER in self.state().pids and self.health()[API_SERVER])

    def add_nodes(
        self, count: int, *, devices: int = 0, labels: Mapping[str, str] | None = None, cpu: str = "64",
        memory: str = "512Gi", pods: int = 500, prefix: str = "node",
    ) -> list[str]:  # fmt: skip
        """Add nodes, wait until pods can be scheduled to them, and return their names."""
        names = []
        for name, address in islice(simulated.free_names(prefix, self.client.list("v1", "Node")), count):
            names.append(name)
            node = simulated.node(name, address, cpu=cpu, memory=memory, pods=pods, labels=dict(labels or {}))
            self.client.create(node)
            if devices:
                self.set_devices(name, devices)
        wait_for(f"nodes {', '.join(names)} to be ready", lambda: set(names) <= self._ready_nodes())
        return names

    def remove_node(self, name: str) -> None:
        """Remove a node with its devices and, at once, its pods."""
        self.client.delete("v1", "Node", name)
        # The garbage collectors would do the same, but pods are only collected after a minute.
        if self.options.dra:
            for driver in (simulated.GPU_DRIVER, simulated.NIC_DRIVER):
                self.client.delete("resource.k8s.io/v1", "ResourceSlice", f"{name}-{driver}")
        for pod in self.client.list("v1", "Pod"):
            if pod["spec"].get("nodeName") == name:
                metadata = pod["metadata"]
                self.client.delete("v1", "Pod", metadata["name"], metadata["namespace"], grace_seconds=0)

    def set_devices(self, node: str, count: int) -> None:
        """Have a node publish this many GPUs, and as many NICs."""
        uid = self.client.get("v1", "Node", node)["metadata"]["uid"]
        current = self._slice(node)
        generation = current["spec"]["pool"]["generation"] + 1 if current else 1
        self.apply(simulated.resource_slices(node, uid, count, generation))

    def add_devices(self, node: str, count: int) -> None:
        """Have a node publish more GPUs and NICs."""
        current = self._slice(node)
        self.set_devices(node, count + (len(current["spec"]["devices"]) if current else 0))

    def _slice(self, node: str) -> Object | None:
        if not self.options.dra:
            raise ClusterError(f"cluster {self.name} serves no resource.k8s.io/v1, so that it can't have devices")
        return self.client.find("resource.k8s.io/v1", "ResourceSlice", f"{node}-{simulated.GPU_DRIVER}")

    def _ready_nodes(self) -> set[str]:
        return {node["metadata"]["name"] for node in self.client.list("v1", "Node") if _is_ready(node)}

    def _start_supervisor(self, spec: Spec) -> None:
        root = Path(e2e.__file__).parents[1]
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "e2e.cluster.supervisor"],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C goes to all processes of a terminal's session; this one shall only follow its owner.
            start_new_session=True,
        )
        stdin, stdout = self._supervisor.stdin, self._supervisor.stdout
        if not stdin or not stdout:
            raise AssertionError
        stdin.write(f"{spec.model_dump_json()}\n")
        stdin.flush()
        with stdout:
            answer = stdout.readline()
        if not answer:
            raise ClusterError("the cluster's supervisor ended without an answer")
        state = State.model_validate_json(answer)
        if state.phase == "failed":
            raise ClusterError(f"cluster {self.name} could not be started: {state.error}")


def _is_ready(node: Object) -> bool:
    conditions = node["status"].get("conditions", [])
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready and not node["spec"].get("taints")
