"""The command ``disaggregatedset``: runs the operator."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence

import kopf
from pydantic import ValidationError
from pydantic_settings import CliApp

from disaggregatedset import handlers
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.client import Client
from disaggregatedset.cluster.events import Recorder
from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile.controller import WATCHED, Controller
from disaggregatedset.reconcile.reconciler import Reconciler
from disaggregatedset.render import MANAGER, SET_LABEL
from disaggregatedset.runtime import health, metrics
from disaggregatedset.runtime.queue import WorkQueue
from disaggregatedset.runtime.settings import Settings


async def run(settings: Settings) -> None:
    """Run the operator until SIGTERM or SIGINT.

    Raises
    ------
    ConnectionError
        If there is no cluster to connect to.
    OSError
        If the port of health and metrics is taken.
    """
    client = await Client.connect(
        kubeconfig=settings.kubeconfig,
        manager=MANAGER,
        timeout=settings.request_timeout,
        concurrency=settings.concurrent_requests,
        observer=metrics.observe_request,
    )
    cache = Cache(WATCHED, SET_LABEL)
    queue: WorkQueue[Key] = WorkQueue()
    recorder = Recorder(client, controller="disaggregatedset.dev/operator", instance=socket.gethostname())
    controller = Controller(client, cache, queue, Reconciler(client, cache, recorder))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        if settings.health_port:
            served = health.serve(
                settings.health_host,
                settings.health_port,
                healthy=lambda: None,
                ready=lambda: None if controller.synced.is_set() else "not everything has been listed yet",
            )
            await stack.enter_async_context(served)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        # kopf ends, when it stops, every task that was born after it: the workers come first.
        ours = [tasks.create_task(controller.keep_in_sync(settings.resync_seconds))]
        await controller.synced.wait()
        ours += [tasks.create_task(controller.work()) for _ in range(settings.workers)]
        await kopf.operator(
            registry=handlers.registry(controller, client.credentials),
            settings=handlers.settings(),
            clusterwide=True,
            standalone=True,
        )
        for task in ours:
            task.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    try:
        settings = CliApp.run(Settings, cli_args=list(sys.argv[1:] if arguments is None else arguments))
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"disaggregatedset: --{name}: {problem['msg']}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("kopf").setLevel(logging.WARNING if settings.log_level != "debug" else logging.DEBUG)
    try:
        asyncio.run(run(settings))
    except (ConnectionError, OSError) as error:
        print(f"disaggregatedset: {error}", file=sys.stderr)
        return 1
    return 0
