"""Runs a cluster in a process of its own, and ends it whatever happens.

``python -m e2e.cluster.supervisor`` reads a `Spec` from standard input and answers on standard output with one line, a
`State`, as soon as the cluster runs or has failed. From then on:

- An owned cluster ends when standard input is closed. The kernel does that when its owner dies, even by SIGKILL.
- SIGTERM ends any cluster. SIGUSR1 stops the API server, SIGUSR2 starts it again.
- The components can't outlive this process: the kernel kills them with it. What is left then is a directory whose
  lock nobody holds, which `claim` removes the next time that a cluster starts.
"""

import asyncio
import datetime as dt
import os
import shutil
import signal
import sys
import traceback
from contextlib import ExitStack

from e2e.cluster.cache import clusters_lock, locked, remove_abandoned
from e2e.cluster.errors import ClusterError
from e2e.cluster.model import Layout, Spec, State
from e2e.cluster.runner import Runner


def claim(layout: Layout) -> ExitStack:
    """Create a cluster's directory and hold its lock; remove the directories of clusters that are gone.

    Raises
    ------
    ClusterError
        If there is a cluster of this name.
    """
    held = ExitStack()
    # Under this lock nobody sees a directory that exists but isn't locked yet.
    with clusters_lock():
        remove_abandoned("*")
        if layout.root.exists():
            raise ClusterError(f"there is a cluster {layout.root.name} already")
        layout.root.mkdir(mode=0o700)
        held.enter_context(locked(layout.lock))
    layout.logs.mkdir()
    return held


class Supervisor:
    """Runs one cluster.

    Parameters
    ----------
    spec
        The cluster.
    """

    def __init__(self, spec: Spec) -> None:
        self._layout = Layout(spec.name)
        self._runner = Runner(spec, self._layout)
        self._stop_wanted = asyncio.Event()
        self._api_server_wanted: asyncio.Queue[bool] = asyncio.Queue()
        self._answered = False
        self._state = State(
            phase="starting",
            name=spec.name,
            supervisor=os.getpid(),
            owned=spec.owned,
            started=dt.datetime.now(dt.UTC),
            options=spec.options,
        )

    async def run(self) -> None:
        """Run the cluster until it shall end or fails."""
        try:
            claimed = claim(self._layout)
        except ClusterError as error:
            self._answer(self._state.model_copy(update={"phase": "failed", "error": str(error)}))
            return
        with claimed:
            self._listen()
            stop = asyncio.create_task(self._stop_wanted.wait())
            work = asyncio.create_task(self._work())
            await asyncio.wait((stop, work), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                # Before the others are killed, so that whoever misses them finds out why.
                self._tell(phase="failed", error=_describe(work), pids={})
            work.cancel()
            await asyncio.wait((work,))
            await self._runner.kill_all()
            if self._state.owned:
                # The logs are the owner's as long as it lives.
                await stop
            if stop.done():
                shutil.rmtree(self._layout.root)

    async def _work(self) -> None:
        self._tell()
        await self._runner.start()
        self._tell(phase="running", server=self._runner.server, health=self._runner.health, pids=self._runner.pids)
        obey = asyncio.create_task(self._obey())
        await asyncio.wait((self._runner.died, obey), return_when=asyncio.FIRST_COMPLETED)
        raise self._runner.died.result() if self._runner.died.done() else obey.exception() or AssertionError

    async def _obey(self) -> None:
        while True:
            if await self._api_server_wanted.get():
                await self._runner.start_api_server()
            else:
                await self._runner.stop_api_server()
            self._tell(pids=self._runner.pids)

    def _tell(self, **changes: object) -> None:
        self._state = self._state.model_copy(update=changes)
        self._layout.write_state(self._state)
        if self._state.phase != "starting" and not self._answered:
            self._answer(self._state)
            # Whoever waits for the end of our output, such as a shell's pipe, shall not wait for the cluster's.
            with self._layout.log("supervisor").open("ab") as log:
                os.dup2(log.fileno(), sys.stdout.fileno())
                os.dup2(log.fileno(), sys.stderr.fileno())

    def _answer(self, state: State) -> None:
        self._answered = True
        print(state.model_dump_json(), flush=True)

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_wanted.set)
        loop.add_signal_handler(signal.SIGUSR1, self._api_server_wanted.put_nowait, False)
        loop.add_signal_handler(signal.SIGUSR2, self._api_server_wanted.put_nowait, True)
        if self._state.owned:
            loop.add_reader(sys.stdin.fileno(), self._on_input)

    def _on_input(self) -> None:
        if not os.read(sys.stdin.fileno(), 1):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._stop_wanted.set()


def _describe(failed: asyncio.Task[None]) -> str:
    error = failed.exception()
    if isinstance(error, ClusterError):
        return str(error)
    return "".join(traceback.format_exception(error))


async def _main() -> None:
    await Supervisor(Spec.model_validate_json(sys.stdin.readline())).run()


if __name__ == "__main__":
    asyncio.run(_main())
