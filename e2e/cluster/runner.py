"""Starts and ends a cluster's components as child processes."""

import asyncio
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import urllib3

from e2e.cluster.client import ApiError, Client
from e2e.cluster.components import PORTS, Files, Process, processes
from e2e.cluster.errors import ClusterError
from e2e.cluster.health import Prober
from e2e.cluster.model import API_SERVER, Layout, Spec
from e2e.cluster.ports import free_ports

_START_TIMEOUT = 90
_PROBE_INTERVAL = 0.05
_ATTEMPTS = 5
_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1
_PORT_TAKEN = "address already in use"
_LIBC = ctypes.CDLL(None)
_PARENT = os.getpid()

T = TypeVar("T")


class PortTakenError(ClusterError):
    """Somebody else took a port between its choice and its use."""


class Runner:
    """The components of one cluster.

    Parameters
    ----------
    spec
        The cluster.
    layout
        Its files.

    Attributes
    ----------
    died
        Becomes the name and the end of a component that ended by itself.
    health
        The components' health URLs by name.
    server
        URL of the API server.
    """

    def __init__(self, spec: Spec, layout: Layout) -> None:
        self._spec = spec
        self._layout = layout
        self._processes: dict[str, Process] = {}
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self.died: asyncio.Future[ClusterError] = asyncio.get_running_loop().create_future()
        self.health: dict[str, str] = {}
        self.server = ""

    @property
    def pids(self) -> dict[str, int]:
        """The process IDs of the components that run, by name."""
        return {name: process.pid for name, process in self._running.items()}

    async def start(self) -> None:
        """Start everything, and return when the cluster is usable.

        Raises
        ------
        ClusterError
            If a component ends, or isn't healthy in time.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with asyncio.timeout(_START_TIMEOUT):
                    await self._start_once()
            except TimeoutError:
                raise ClusterError(f"the cluster isn't healthy after {_START_TIMEOUT} s:\n{self._tails()}") from None
            except PortTakenError:
                if attempt == _ATTEMPTS:
                    raise
                await self._forget_attempt()
            else:
                return

    async def start_api_server(self) -> None:
        """Start the API server on the port that it had."""
        if API_SERVER not in self._running:
            await self._spawn(API_SERVER)

    async def stop_api_server(self) -> None:
        """Kill the API server."""
        await self._kill(API_SERVER)

    async def kill_all(self) -> None:
        """Kill everything that runs. All data will be removed, so that there is nothing to end gracefully."""
        await self._kill(*self._running)

    async def _forget_attempt(self) -> None:
        await self.kill_all()
        self.died = asyncio.get_running_loop().create_future()
        for name in self._processes:
            self._layout.log(name).unlink(missing_ok=True)
        # It knows the ports of its first start.
        shutil.rmtree(self._layout.etcd, ignore_errors=True)

    async def _start_once(self) -> None:
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        files = Files(self._layout, ports, self._spec.options)
        self.server = files.server
        self._processes = {process.name: process for process in processes(files, ports, self._spec.options)}
        self.health = {process.name: process.health for process in self._processes.values()}
        names = list(self._processes)
        first = names.index(API_SERVER) + 1
        with Prober(files.ca.certificate) as prober:
            # The others would only fail and back off without an API server.
            for group in (names[:first], names[first:]):
                for name in group:
                    await self._spawn(name)
                for name in group:
                    await self._until(prober.is_healthy, self.health[name])
        client = Client(self._layout.kubeconfig)
        try:
            # The first sign that the controllers work, and without it no pod can be created.
            await self._until(_has_default_account, client)
        finally:
            client.close()

    async def _until(self, probe: Callable[[T], bool], subject: T) -> None:
        while not await asyncio.to_thread(probe, subject):
            if self.died.done():
                raise self.died.result()
            await asyncio.sleep(_PROBE_INTERVAL)

    async def _spawn(self, name: str) -> None:
        # The environment is not passed on: etcd, for one, would take any ETCD_* variable for a flag.
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self._layout.root)}
        with self._layout.log(name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                self._spec.binaries[name],
                *self._processes[name].arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._layout.root,
                env=environment,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self._running[name] = process
        watch = asyncio.create_task(self._watch(name, process))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

    async def _watch(self, name: str, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if self._running.get(name) is process and not self.died.done():
            tail = self._tail(name)
            error = PortTakenError if _PORT_TAKEN in tail else ClusterError
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            self.died.set_result(error(f"{name} ended unexpectedly ({how}); the end of its log:\n{tail}"))

    async def _kill(self, *names: str) -> None:
        ended = [self._running.pop(name) for name in names if name in self._running]
        for process in ended:
            if process.returncode is None:
                process.kill()
        for process in ended:
            await process.wait()

    def _tails(self) -> str:
        return "\n".join(f"--- {name}\n{self._tail(name)}" for name in self._running)

    def _tail(self, name: str) -> str:
        return "\n".join(self._layout.log(name).read_text(errors="replace").splitlines()[-_TAIL_LINES:])


def _has_default_account(client: Client) -> bool:
    try:
        return client.find("v1", "ServiceAccount", "default", "default") is not None
    except (ApiError, urllib3.exceptions.HTTPError):
        return False


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies. Runs between fork and exec."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _PARENT:
        # It died before it could be watched.
        os._exit(1)
