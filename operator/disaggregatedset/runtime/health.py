"""``/healthz``, ``/readyz`` and ``/metrics`` on one plain HTTP port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import prometheus_client
from aiohttp import web

#: Returns what is wrong, or None.
Check = Callable[[], str | None]


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
