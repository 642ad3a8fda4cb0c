"""The command ``disaggregatedset``: runs the operator."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import kopf
from aiolimiter import AsyncLimiter
from prometheus_client import REGISTRY
from pydantic import ValidationError
from pydantic_settings import CliApp

from disaggregatedset import __version__, handlers
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.client import Client
from disaggregatedset.cluster.events import EventType, Recorder
from disaggregatedset.cluster.lease import Election, Elector, Fence
from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile.controller import WATCHED, Controller
from disaggregatedset.reconcile.measure import SetCollector
from disaggregatedset.reconcile.reconciler import Reconciler
from disaggregatedset.render import MANAGER, SET_LABEL
from disaggregatedset.runtime import health, logs, metrics
from disaggregatedset.runtime.queue import WorkQueue
from disaggregatedset.runtime.settings import ENV_PREFIX, OWN_ERRORS, Settings, unknown_variables

log = logging.getLogger(__name__)

_CONTROLLER: Final = "disaggregatedset.dev/operator"
#: A resync is stuck when a step of it takes so much longer than it may.
_SLACK_SECONDS: Final = 120.0
#: What is under way at the end gets this time to end.
_LAST_SECONDS: Final = 5.0


async def run(settings: Settings) -> None:
    """Run the operator until SIGTERM or SIGINT.

    Raises
    ------
    ConnectionError
        If there is no cluster to connect to.
    OSError
        If the port of health and metrics is taken.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop)
    election = _election(settings) if settings.leader_elect else None
    fence = Fence(election) if election is not None else None
    qps, burst = settings.client_qps, settings.client_burst
    client = await _connect(
        settings,
        timeout=settings.request_timeout,
        concurrency=settings.concurrent_requests,
        limiter=AsyncLimiter(burst, burst / qps) if qps else None,
        fence=fence,
    )
    cache = Cache(WATCHED, SET_LABEL)
    queue: WorkQueue[Key] = WorkQueue()
    recorder = Recorder(client, controller=_CONTROLLER, instance=settings.instance)
    vitals = health.Vitals(settings.resync_seconds + settings.request_timeout + _SLACK_SECONDS)
    controller = Controller(
        client,
        cache,
        queue,
        Reconciler(client, cache, recorder),
        namespaces=settings.namespaces,
        elected=election is not None,
        vitals=vitals,
    )
    gauges = SetCollector(cache)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        REGISTRY.register(gauges)
        stack.callback(REGISTRY.unregister, gauges)
        if settings.health_port:
            served = health.serve(
                settings.health_host,
                settings.health_port,
                healthy=vitals.problem,
                # So is a standby: it may have to take over at any time.
                ready=lambda: None if controller.synced.is_set() else "not everything has been listed yet",
            )
            await stack.enter_async_context(served)
        async with asyncio.TaskGroup() as tasks:
            # kopf ends, when it stops, every task that was born after it: ours come first.
            ours = [tasks.create_task(controller.keep_in_sync(settings.resync_seconds))]
            ours += [tasks.create_task(controller.work()) for _ in range(settings.workers)]
            ours.append(synced := tasks.create_task(_wait(controller.synced)))
            await _ended(synced, stop)
            if not stop.is_set():
                ours.append(watching := tasks.create_task(_watch(controller, client, settings, stop)))
                async with _campaigning(settings, election, fence, controller, recorder):
                    await _ended(watching, stop)
                await controller.rest(_LAST_SECONDS)
            for task in ours:
                task.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    try:
        settings = CliApp.run(Settings, cli_args=list(sys.argv[1:] if arguments is None else arguments))
        if settings.leader_elect:
            settings.lease_place()
    except ValidationError as error:
        for problem in error.errors():
            print(f"disaggregatedset: {_in_words(problem)}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"disaggregatedset: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    for name in unknown_variables(os.environ):
        log.warning("there is no setting %s: see disaggregatedset --help", name)
    try:
        asyncio.run(run(settings))
    except (ConnectionError, OSError) as error:
        print(f"disaggregatedset: {error}", file=sys.stderr)
        return 1
    return 0


def _in_words(problem: Mapping[str, Any]) -> str:
    """Say what is wrong with which setting."""
    if not problem["loc"]:  # it is about several, and names them
        return str(problem["msg"])
    field = str(problem["loc"][0])
    given = "" if problem["type"] in OWN_ERRORS else f", not {problem['input']!r}"
    return (
        f"--{field.replace('_', '-')}: {problem['msg']}{given} (set by the flag or by {ENV_PREFIX}{field.upper()}; "
        "see --help)"
    )


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _ended(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Wait until a task has ended, or the whole process is to stop."""
    stopping = asyncio.create_task(_wait(stop))
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()


async def _connect(settings: Settings, *, role: str = "", **options: Any) -> Client:
    return await Client.connect(
        kubeconfig=settings.kubeconfig,
        manager=MANAGER,
        user_agent=f"{MANAGER}/{__version__} ({settings.instance}){role}",
        observer=metrics.observe_request,
        **options,
    )


async def _watch(controller: Controller, client: Client, settings: Settings, stop: asyncio.Event) -> None:
    """Have kopf watch, until it is cancelled."""
    started = asyncio.Event()

    async def take_signals_back() -> None:
        await started.wait()
        # kopf has taken them to end itself at once; but first, writes end and the lease is released.
        _stop_on_signals(stop)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(take_signals_back())
        await kopf.operator(
            registry=handlers.registry(controller, lambda: client.watcher(controller.resync_soon)),
            settings=handlers.settings(settings.namespaces),
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            standalone=True,
            ready_flag=started,
        )


def _election(settings: Settings) -> Election:
    return Election(
        name=settings.lease_name,
        namespace=settings.lease_place(),
        identity=f"{settings.instance}_{uuid.uuid4()}",
        duration=settings.lease_duration,
        renew_deadline=settings.lease_renew_deadline,
        retry_period=settings.lease_retry_period,
    )


@contextlib.asynccontextmanager
async def _campaigning(
    settings: Settings, election: Election | None, fence: Fence | None, controller: Controller, recorder: Recorder
) -> AsyncIterator[None]:
    """Campaign during the block and lead whenever elected; release the lease at its end."""
    if election is None or fence is None:
        yield
        return
    # A client of its own: what waits for its turn or for a slow answer must not cost the lease.
    client = await _connect(
        settings,
        role=" leader-election",
        timeout=min(settings.request_timeout, settings.lease_renew_deadline / 2),
        concurrency=2,
    )

    async def lead() -> None:
        async with controller.leading(fence.open):
            note = f"{election.identity} became leader"
            await recorder.record(elector.lease, EventType.NORMAL, "LeaderElection", note, "LeaderElection")
            await asyncio.Event().wait()

    elector = Elector(client, election, fence, lead)
    metrics.LEADS.labels(election.name).set_function(lambda: float(elector.leads))
    async with contextlib.aclosing(client):
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(elector.run())
                try:
                    yield
                finally:
                    running.cancel()
        finally:
            await elector.resign()
