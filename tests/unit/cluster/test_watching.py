"""Answers that would end kopf, and what kopf gets instead."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kopf._cogs.clients.api import iter_jsonlines

from disaggregatedset.cluster import watching
from disaggregatedset.cluster.watching import Persistence

LIST = "/apis/apps/v1/deployments"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
GONE = {"type": "ERROR", "object": {"code": 410}}


class Bed:
    """A server that answers as it is told, and a session as kopf gets it."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = []
        self.asked: list[web.Request] = []
        self.seen: list[tuple[str, str, int]] = []
        self.relisted = 0
        self.tokens = iter(f"Bearer {number}" for number in range(100))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        status, body = self.answers.pop(0)
        headers = {"Retry-After": "0"} if status == 429 else {}
        return web.Response(status=status, text=body, headers=headers, content_type="application/json")

    async def token(self) -> str | None:
        return next(self.tokens)

    def relist(self) -> None:
        self.relisted += 1

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(self.server.make_url(path)) as response:
            return response.status, await response.json()

    async def watch(self) -> list[Any]:
        async with self.session.get(self.server.make_url(LIST), params={"watch": "true"}) as response:
            assert response.status == 200
            return [json.loads(line) async for line in iter_jsonlines(response.content)]


@pytest.fixture
async def bed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bed]:
    monkeypatch.setattr(watching, "_LONGEST_PAUSE_SECONDS", 0.0)
    made = Bed()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    persistence = Persistence(
        made.token,
        lambda _: None,
        timeout=5,
        observer=lambda verb, resource, status, _: made.seen.append((verb, resource, status)),
        relisted=made.relist,
    )
    async with TestServer(app) as made.server, aiohttp.ClientSession(middlewares=[persistence]) as made.session:
        yield made


async def test_a_list_is_made_until_it_succeeds(bed: Bed) -> None:
    bed.answers = [
        (500, ""),
        (401, "{}"),
        (403, "{}"),
        (404, "{}"),
        (429, "{}"),
        (200, '{"items": ['),
        (200, '{"items": []}'),
    ]
    assert await bed.get(LIST) == (200, {"items": []})
    assert [status for _, _, status in bed.seen] == [500, 401, 403, 404, 429, 200, 200]
    assert {(verb, resource) for verb, resource, _ in bed.seen} == {("list", "deployments")}
    tokens = [request.headers["Authorization"] for request in bed.asked]
    assert tokens == [f"Bearer {number}" for number in range(7)], "asked anew each time"


async def test_a_group_that_is_not_served_is_kopfs_business(bed: Bed) -> None:
    bed.answers = [(404, "{}")]
    assert await bed.get("/apis/example.com/v1") == (404, {})


async def test_listing_again_is_told(bed: Bed) -> None:
    bed.answers = [(200, "{}"), (200, "{}")]
    await bed.get(LIST)
    assert bed.relisted == 0
    await bed.get(LIST)
    assert bed.relisted == 1


def _event(name: str) -> str:
    return json.dumps({"type": "ADDED", "object": {"metadata": {"name": name, "uid": name}}})


@pytest.mark.parametrize(
    ("rest", "ends_with"),
    [
        pytest.param("", [], id="cut between events"),
        pytest.param('{"type":"ADDED","obj', [], id="cut within an event"),
        pytest.param('{"type":"ERROR","object":{"code":410}}\n', [GONE], id="too old"),
        pytest.param('{"type":"ERROR","object":{"code":500,"message":"etcd"}}\n', [GONE], id="another error"),
        pytest.param('{"type":"ADDED","obj\n', [GONE], id="a broken line"),
        pytest.param("null\n", [GONE], id="something else"),
        pytest.param('{"type":"ADDED","object":{}}\n', [GONE], id="no object"),
    ],
)
async def test_a_watch_gives_whole_events_or_starts_anew(bed: Bed, rest: str, ends_with: list[Any]) -> None:
    bed.answers = [(200, f"{_event('a')}\n{_event('b')}\n{rest}")]
    got = await bed.watch()
    assert [event["object"]["metadata"]["name"] for event in got[:2]] == ["a", "b"]
    assert got[2:] == ends_with


@pytest.mark.parametrize("status", [400, 404, 410, 500, 504])
async def test_a_watch_that_is_refused_starts_anew(bed: Bed, status: int) -> None:
    bed.answers = [(status, "{}")]
    assert await bed.watch() == [GONE]


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_a_watch_that_has_to_wait_waits(bed: Bed, status: int) -> None:
    bed.answers = [(status, "{}"), (200, f"{_event('a')}\n")]
    assert len(await bed.watch()) == 1


async def test_it_complains_once(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    bed.answers = [*([(500, '{"message": "etcd is away"}')] * 20), (200, "{}")]
    await bed.get(LIST)
    (said,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert said.getMessage() == f"can't watch {LIST}: 500 etcd is away; next try in 0.0 s"
