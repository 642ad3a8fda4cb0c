"""The operator as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

from e2e.cluster import ClusterError, wait_for
from e2e.cluster.ports import LOOPBACK, free_ports

_START_TIMEOUT = 60
_STOP_TIMEOUT = 30
_RECONCILES = "controller_runtime_reconcile_total"


class Operator:
    """Runs ``python -m disaggregatedset``; as a context manager, until the end of the block.

    Parameters
    ----------
    config
        Its kubeconfig.
    log
        Where its output goes.
    profile
        Where a profile of it goes; None: it is not profiled.
    """

    def __init__(self, config: Path, log: Path, *, profile: Path | None = None) -> None:
        self._config = config
        self._log = log
        self._profile = profile

    def __enter__(self) -> Self:
        port = self._port = free_ports(1)[0]
        module = ["e2e.bench.profiled", str(self._profile)] if self._profile else ["disaggregatedset"]
        flags = [f"--health-port={port}", f"--health-host={LOOPBACK}", "--leader-elect=false"]
        environment = {**os.environ, "KUBECONFIG": str(self._config)}
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", *module, *flags]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.process = psutil.Process(self._process.pid)
        try:
            wait_for("the operator to be ready", self._is_ready, _START_TIMEOUT)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise `ClusterError` if it has ended."""
        if self._process.poll() is not None:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise ClusterError(f"the operator has ended with code {self._process.returncode}:\n{tail}")

    def start_profile(self) -> None:
        """Start to sample, if it is profiled."""
        if self._profile:
            os.kill(self._process.pid, signal.SIGUSR1)

    def end_profile(self) -> None:
        """Stop to sample and write the profile, if it is profiled."""
        if profile := self._profile:
            os.kill(self._process.pid, signal.SIGUSR2)
            wait_for("the profile to be written", profile.exists)

    def peak_memory(self) -> int:
        """Return the most memory that it has had resident, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status")
        if status.exists():
            kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            return int(kilobytes) * 1024
        return int(self.process.memory_info().rss)  # other systems don't tell: this is what it has now

    def reconciles(self) -> dict[str, int]:
        """Return how often it has reconciled a set until now, by result."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self._port}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = (sample for family in families for sample in family.samples)
        return {s.labels["result"]: int(s.value) for s in samples if s.name == _RECONCILES}

    def _is_ready(self) -> bool:
        self.check()
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self._port}/readyz", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used, in user and kernel mode."""
    times = process.cpu_times()
    return float(times.user + times.system)


def sleep_until_idle(process: psutil.Process, *, quiet: float = 3.0, longest: float = 60.0) -> None:
    """Return when a process has used next to no CPU for some seconds, or after the longest time."""
    deadline = time.monotonic() + longest
    while time.monotonic() < deadline:
        before = cpu_seconds(process)
        time.sleep(quiet)
        if cpu_seconds(process) - before < 0.02 * quiet:
            return
