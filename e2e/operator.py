"""The operator as a process of its own, against any cluster, for tests, the demo and the benchmark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3
import yaml

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.ports import free_ports
from e2e.cluster.wait import wait_for

ROOT = Path(__file__).resolve().parents[1]
CRDS = ROOT / "crds"


def install_crds(cluster: Cluster) -> None:
    """Install the CRDs of this checkout, and return when they are served."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    for path in CRDS.glob("*.yaml"):
        name = yaml.safe_load(path.read_text())["metadata"]["name"]
        cluster.client.wait("apiextensions.k8s.io/v1", "CustomResourceDefinition", name, None, _is_established)


def _is_established(crd: Object) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


class Operator:
    """Runs the operator of this checkout. As a context manager it starts, turns ready and stops.

    Parameters
    ----------
    kubeconfig
        The cluster and the credentials that it runs with.
    log
        Where its log goes; appended to at each start.
    arguments
        More flags of ``disaggregatedset``.
    command
        What to run instead of this interpreter, for example a profiler.
    leader_elect
        Whether it is one of several of which one writes.
    """

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        arguments: Sequence[str] = (),
        command: Sequence[str] = (sys.executable,),
        *,
        leader_elect: bool = False,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._arguments = arguments
        self._command = command
        self._leader_elect = leader_elect
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._pool = urllib3.PoolManager(retries=False, timeout=5)
        self.log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running().pid

    def start(self) -> None:
        """Start it, and return when it is ready.

        Raises
        ------
        RuntimeError
            If it ends instead, with the end of its log.
        TimeoutError
            If it does not turn ready.
        """
        (self._port,) = free_ports(1)
        path = os.pathsep.join(filter(None, (str(ROOT / "operator"), os.environ.get("PYTHONPATH"))))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._command,
                    *("-m", "disaggregatedset", "--health-host=127.0.0.1", f"--health-port={self._port}"),
                    *(f"--leader-elect={self._leader_elect}".lower(), "--log-format=text"),
                    *self._arguments,
                ],
                env=os.environ | {"KUBECONFIG": str(self._kubeconfig), "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(f"the operator to turn ready (log: {self.log})", self._is_ready)

    def stop(self) -> None:
        """End it by SIGTERM, and return when it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL, as a lost node would."""
        self._end(signal.SIGKILL)

    def metrics(self) -> str:
        """Return what ``/metrics`` says."""
        return self._get("/metrics").data.decode()

    def healthy(self) -> bool:
        """Whether ``/healthz`` says that it need not be restarted."""
        return self._get("/healthz").status == 200

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._pool.clear()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the operator is not running")
        return self._process

    def _is_ready(self) -> bool:
        if (code := self._running().poll()) is not None:
            end = "\n".join(self.log.read_text().splitlines()[-20:])
            raise RuntimeError(f"the operator ended with exit code {code}; its log ends with\n{end}")
        try:
            return self._get("/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _get(self, path: str) -> urllib3.BaseHTTPResponse:
        return self._pool.request("GET", f"http://127.0.0.1:{self._port}{path}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
