"""Whatever the API server does, what watches goes on: a session for kopf that hands it only answers that it can take.

kopf ends the whole operator by an error in a watch's stream other than 410, by a 404 of a watch, by a line that is no
JSON, and by a second 401; and it asks again at once where a stream ends at once. Here, requests are made again until
they succeed, with growing pauses; and a stream with an error in it looks like one that has to be started anew.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import aiohttp
from kubernetes.aio.config import ConfigException

from disaggregatedset.runtime.logs import Troubles

log = logging.getLogger(__name__)

#: Called after each request with verb, kind, HTTP status (0: no answer) and seconds.
Observer = Callable[[str, str, int, float], None]

_LONGEST_PAUSE_SECONDS: Final = 15.0
#: A stream that ends earlier than this, and without any event, has not worked.
_SHORT_SECONDS: Final = 5.0
#: Refusals of a watch that say nothing about where it was to start; by any other, it may have to start elsewhere.
_PASSING: Final = frozenset({401, 403, 429})
#: What makes kopf list and watch anew.
_GONE: Final = b'{"type":"ERROR","object":{"code":410}}\n'


class Persistence:
    """A middleware of aiohttp: makes kopf's requests, to list, to watch and to discover, until they succeed.

    Parameters
    ----------
    authorize
        Returns the Authorization header as it is now; None: there is none.
    failed
        Told about each error of a connection, before the next try.
    timeout
        Of each try, in seconds; of a watch, until it begins.
    prefix
        Of the paths of all requests: an API server may be behind a proxy.
    observer
        Told about each try.
    relisted
        Called when a kind was listed again: since the last list, objects may have vanished unseen.
    rng
        Source of the jitter.
    """

    def __init__(
        self,
        authorize: Callable[[], Awaitable[str | None]],
        failed: Callable[[Exception], None],
        *,
        timeout: float,
        prefix: str = "",
        observer: Observer | None = None,
        relisted: Callable[[], None] = lambda: None,
        rng: random.Random | None = None,
    ) -> None:
        self._authorize = authorize
        self._failed = failed
        self._timeout = timeout
        self._prefix = prefix
        self._observer = observer
        self._relisted = relisted
        self._rng = rng or random.Random()  # noqa: S311 - jitter needs no secrecy
        self._listed: set[str] = set()
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._troubles = Troubles(log, "all watches work again")

    async def __call__(
        self,
        request: aiohttp.ClientRequest,
        handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        """Make a request until it succeeds."""
        path, watch = request.url.path.removeprefix(self._prefix), "watch" in request.url.query
        resource = path.rpartition("/")[2]
        discovery = path.count("/") <= (2 if path.startswith("/api/") else 3)
        verb = "watch" if watch else "get" if discovery else "list"
        while True:
            await asyncio.sleep(self._not_before.get(path, 0.0) - time.monotonic())
            status, started, retry_after = 0, time.monotonic(), 0.0
            try:
                async with asyncio.timeout(self._timeout):
                    if header := await self._authorize():
                        request.headers["Authorization"] = header
                    response = await handler(request)
                    status = response.status
                    if not watch or status != 200:
                        body = await response.read()
                if status == 404 and discovery:  # the group has gone, which kopf wants to know
                    return response
                if status != 200:
                    given = response.headers.get("Retry-After", "")
                    retry_after = float(given) if given.isdecimal() else 0.0
                    raise _UnusableError(f"{status} {_message(body)}")
                if not watch:
                    json.loads(body)
            except (aiohttp.ClientError, ConfigException, OSError, ValueError) as error:  # one is TimeoutError
                self._failed(error)
                reason = str(status) if status else type(error).__name__
                self.failed(path, reason, str(error) or "no answer in time", retry_after)
                if watch and status >= 400 and status not in _PASSING:
                    return _looking_like(response, _Gone(response.content))
                continue
            finally:
                self._observe(verb, resource, status, time.monotonic() - started)
            if watch:
                observe = functools.partial(self._observe, verb, resource)
                return _looking_like(response, _Events(response.content, self, path, observe))
            self._answered(verb, path)
            return response

    def _answered(self, verb: str, path: str) -> None:
        """Take note of an answer that is not a watch's."""
        if verb == "get":
            self.well(path)
            return
        # All is well only when the watch works that follows: else, errors in that would make this list all the time.
        if path in self._listed:
            self._relisted()
        self._listed.add(path)

    def failed(self, path: str, reason: str, message: str, at_least: float = 0.0) -> None:
        """Take note that a request failed, for the next one to wait."""
        failures = self._failures[path] = self._failures.get(path, 0) + 1
        pause = min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(failures - 1, 30)) * self._rng.uniform(0.5, 1.0)
        pause = max(at_least, pause)
        self._not_before[path] = time.monotonic() + pause
        if failures > 1:  # once is nothing: streams end, and API servers restart
            self._troubles.failed(path, reason, "can't watch %s: %s; next try in %.1f s", path, message, pause)

    def well(self, path: str) -> None:
        """Take note that a request succeeded, or a stream works."""
        if self._failures.pop(path, 0):
            self._not_before.pop(path, None)
            self._troubles.well(path)

    def _observe(self, verb: str, resource: str, status: int, seconds: float) -> None:
        if self._observer is not None:
            self._observer(verb, resource, status, seconds)


class _Content:
    """An answer's content, but for what is read of it."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


class _Gone(_Content):
    """Content that makes kopf start anew."""

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        """Give the one event."""
        yield _GONE


class _Events(_Content):
    """The content of a watch's answer, of which whole events are handed on only."""

    def __init__(
        self, content: aiohttp.StreamReader, persistence: Persistence, path: str, observe: Callable[[int, float], None]
    ) -> None:
        super().__init__(content)
        self._persistence = persistence
        self._path = path
        self._observe = observe

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Give lines, as aiohttp gives chunks."""
        began, rest = time.monotonic(), b""
        # Most kinds are quiet.
        working = asyncio.get_running_loop().call_later(_SHORT_SECONDS, self._persistence.well, self._path)
        try:
            async for chunk in self._content.iter_chunked(size):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if (problem := _problem(line)) is not None:
                        code, message = problem
                        self._observe(code, 0.0)
                        self._persistence.failed(self._path, str(code), message)
                        yield _GONE
                        return
                    self._persistence.well(self._path)
                    began = float("-inf")
                    yield line + b"\n"
        finally:
            working.cancel()
        if time.monotonic() - began < _SHORT_SECONDS:
            self._persistence.failed(self._path, "ended", "the watch ended at once")


def _looking_like(response: aiohttp.ClientResponse, content: _Content) -> aiohttp.ClientResponse:
    response.status = 200
    response.content = cast("aiohttp.StreamReader", content)
    return response


class _UnusableError(ValueError):
    """An answer that is none."""


def _problem(line: bytes) -> tuple[int, str] | None:
    """Return code (0: it has none) and message of what is wrong with an event of a watch."""
    try:
        event = json.loads(line)
        obj = event["object"]
        if event["type"] != "ERROR":
            obj["metadata"].get("uid")
            return None
        return int(obj.get("code") or 0), f"an ERROR event: {obj.get('message') or obj}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0, f"the watch's stream is broken: {line[:200]!r}"


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()[:200]
