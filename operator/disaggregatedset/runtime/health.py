"""``/healthz``, ``/readyz`` and ``/metrics`` on one plain HTTP port."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import prometheus_client
from aiohttp import web

#: Returns what is wrong, or None.
Check = Callable[[], str | None]

#: So many resyncs in a row that find what a watch has missed, without a word from that watch, are no coincidence.
_STRIKES: Final = 3


class Vitals:
    """Whether what goes on in the background does go on.

    That the event loop runs shows by itself: who asks gets an answer. An API server that is down or refuses everything
    is no reason to restart: only what never ends, and watches that are silent while things change.

    Parameters
    ----------
    patience
        Seconds in which the resync gets a step further, or is answered by an error, unless it is stuck.
    clock
        Seconds that never go back.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._progress = clock()
        self._strikes: Counter[tuple[str, str]] = Counter()

    def progress(self) -> None:
        """Take note that the resync got a step further, or failed."""
        self._progress = self._clock()

    def seen(self, resource: str, namespace: str = "") -> None:
        """Take note of an event: this watch lives."""
        if self._strikes:
            self._strikes.pop((resource, namespace), None)

    def missed(self, resource: str, namespace: str = "") -> None:
        """Take note that a resync found what this watch has not told, or not yet."""
        self._strikes[resource, namespace] += 1

    def problem(self) -> str | None:
        """Say what is wrong."""
        if (silent := self._clock() - self._progress) > self._patience:
            return f"the resync is stuck: nothing was listed for {silent:.0f} s"
        for (resource, namespace), strikes in self._strikes.items():
            if strikes >= _STRIKES:
                where = f" in namespace {namespace}" if namespace else ""
                return f"the watch of {resource}{where} is silent, but the last {strikes} resyncs found changes"
        return None


@contextlib.asynccontextmanager
async def serve(host: str, port: int, *, healthy: Check, ready: Check) -> AsyncIterator[None]:
    """Serve health and metrics while the context is open.

    Parameters
    ----------
    host, port
        Where to listen.
    healthy
        Whether the process is alive; if not, the kubelet restarts it.
    ready
        Whether it can do its work.

    Raises
    ------
    OSError
        If the port is taken.
    """
    app = web.Application()
    app.router.add_get("/healthz", _handler(healthy))
    app.router.add_get("/readyz", _handler(ready))
    app.router.add_get("/metrics", _metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


def _handler(check: Check) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(_: web.Request) -> web.StreamResponse:
        problem = check()
        return web.Response(text=problem or "ok", status=500 if problem else 200)

    return handle


async def _metrics(_: web.Request) -> web.StreamResponse:
    return web.Response(
        body=prometheus_client.generate_latest(), headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
    )
