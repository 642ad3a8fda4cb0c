"""Replicas of the operator that elect a leader, on a cluster that writes down who asked for what."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from e2e.cluster.base import Cluster
from e2e.cluster.wait import wait_for
from e2e.operator import Operator

LEASE: Final = ("coordination.k8s.io/v1", "Lease", "disaggregatedset", "default")
#: A lease that is over soon.
SHORT: Final = ("--lease-duration=4", "--lease-renew-deadline=2.5", "--lease-retry-period=0.5")
_READS: Final = frozenset({"get", "list", "watch"})


class Request(NamedTuple):
    """A write of a replica, or a renewal, as the API server has seen it."""

    replica: str
    received: datetime
    done: datetime
    verb: str
    what: str
    code: int

    @property
    def is_lease(self) -> bool:
        return self.what.startswith("leases/")


class Replicas:
    """Replicas by their names. As a context manager they end with the block.

    Parameters
    ----------
    cluster
        Where; with an audit log.
    logs
        Where their logs go.
    flags
        Of each.
    """

    def __init__(self, cluster: Cluster, logs: Path, *flags: str) -> None:
        self._cluster = cluster
        self._logs = logs
        self._flags = flags
        self._stack = ExitStack()
        self.running: dict[str, Operator] = {}

    def start(self, *names: str, command: Sequence[str] = (sys.executable,)) -> None:
        """Start replicas, and return when they are ready."""
        for name in names:
            flags = [f"--instance={name}", "--lease-namespace=default", *self._flags]
            operator = Operator(self._cluster.kubeconfig, self.log(name), flags, command, leader_elect=True)
            self.running[name] = operator
            self._stack.callback(operator.kill)
            operator.start()

    def log(self, name: str) -> Path:
        """Return where a replica's log is."""
        return self._logs / f"{name}.log"

    def signal(self, name: str, how: signal.Signals) -> None:
        """Send a signal, and return at once."""
        os.kill(self.running[name].pid, how)

    def kill(self, name: str) -> None:
        """End a replica as a lost node would."""
        self.running.pop(name).kill()

    def holder(self) -> str:
        """Return which replica the Lease names; empty: none."""
        lease = self._cluster.client.find(*LEASE)
        return (lease["spec"].get("holderIdentity") or "").partition("_")[0] if lease else ""

    def wait_holder(self, *names: str, timeout: float = 60) -> str:
        """Return as soon as the Lease names one of these replicas; any, if none is given."""

        def found() -> str:
            holder = self.holder()
            return holder if holder in (names or self.running) else ""

        return wait_for(f"{' or '.join(names) or 'a replica'} to lead", found, timeout)

    def wait_logged(self, name: str, text: str, *, timeout: float = 60) -> None:
        """Return as soon as a replica has said something."""
        wait_for(f"{name} to say {text!r}", lambda: text in self.log(name).read_text(), timeout)

    def writes(self) -> list[Request]:
        """Return what replicas have written until now, and their renewals, in the order in which that was done."""
        assert self._cluster.audit_log is not None
        with self._cluster.audit_log.open() as lines:
            return sorted(_writes(lines), key=lambda request: request.done)

    def check_fenced(self) -> None:
        """Check that each write was done while its replica was the last that had written the Lease."""
        last = ""
        for request in self.writes():
            if request.is_lease:
                if request.code < 300:
                    last = request.replica
            else:
                assert request.replica == last, f"{last} holds the lease, but {request}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        for operator in self.running.values():
            operator.stop()
        self._stack.close()


def _writes(lines: Iterable[str]) -> Iterable[Request]:
    for line in lines:
        # The last line may be one that is being written.
        if '"userAgent":"disaggregatedset/' not in line or not line.endswith("\n"):
            continue
        event = json.loads(line)
        if event["verb"] in _READS:
            continue
        reference = event["objectRef"]
        yield Request(
            replica=event["userAgent"].partition("(")[2].partition(")")[0],
            received=datetime.fromisoformat(event["requestReceivedTimestamp"]),
            done=datetime.fromisoformat(event["stageTimestamp"]),
            verb=event["verb"],
            what="/".join(reference.get(part, "") for part in ("resource", "namespace", "name", "subresource")),
            code=event["responseStatus"]["code"],
        )
