"""The client at the other end of a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from aiolimiter import AsyncLimiter

from disaggregatedset.cluster.client import ApiError, Client, NotLeaderError
from disaggregatedset.cluster.lease import Election, Fence
from disaggregatedset.cluster.objects import CLAIM_TEMPLATE, DEPLOYMENT, DEVICE_CLASS, POD, SERVICE
from tests.unit.fake_api_server import FakeApiServer, status_of

PATH = "/api/v1/namespaces/default/services/x"
SERVICE_X: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "x", "namespace": "default", "labels": {"set": "a"}},
    "spec": {"type": "ClusterIP"},
}


async def _error(client: Client) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await client.get(SERVICE, "x", "default")
    return caught.value


async def test_reading_one_object(server: FakeApiServer, client: Client) -> None:
    server.put(PATH, SERVICE_X)
    assert (await client.get(SERVICE, "x", "default"))["spec"] == {"type": "ClusterIP"}
    request = server.requests[0]
    assert (request.method, request.path, request.headers["User-Agent"]) == ("GET", PATH, "disaggregatedset")


async def test_listing(server: FakeApiServer, client: Client) -> None:
    server.put(PATH, SERVICE_X)
    server.put(
        PATH.replace("services/x", "services/y"), SERVICE_X | {"metadata": {"name": "y", "namespace": "default"}}
    )
    items, version = await client.list(SERVICE, label_selector="set=a")
    assert [(i["kind"], i["apiVersion"], i["metadata"]["name"]) for i in items] == [("Service", "v1", "x")]
    assert version == server.version
    assert server.requests[0].query == {"labelSelector": "set=a"}, "as it is now"
    assert (await client.list(POD, "default", stale=True))[0] == []
    assert server.requests[1].query == {"resourceVersion": "0"}, "as it was a moment ago"


async def test_applying(server: FakeApiServer, client: Client) -> None:
    answer = await client.apply(SERVICE, SERVICE_X, force=False)
    assert answer["metadata"]["resourceVersion"] == "1"
    request = server.requests[0]
    assert (request.method, request.path, request.body) == ("PATCH", PATH, SERVICE_X)
    assert request.query == {"fieldManager": "disaggregatedset", "force": "false"}
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"


async def test_dry_runs_and_subresources(server: FakeApiServer, client: Client) -> None:
    await client.apply(SERVICE, SERVICE_X, dry_run=True)
    assert server.objects == {}
    await client.apply(SERVICE, SERVICE_X)
    await client.apply(SERVICE, SERVICE_X | {"status": {"loadBalancer": {}}}, subresource="status")
    assert server.requests[-1].path == f"{PATH}/status"
    assert server.objects[PATH]["status"] == {"loadBalancer": {}}


async def test_deleting_what_was_read(server: FakeApiServer, client: Client) -> None:
    old = server.put(PATH, SERVICE_X)
    new = server.edit(PATH, lambda obj: obj["spec"].update(type="NodePort"))
    with pytest.raises(ApiError) as caught:
        await client.delete(SERVICE, old)
    assert caught.value.status == 409
    await client.delete(SERVICE, new)
    assert server.objects == {}
    assert server.requests[-1].body["propagationPolicy"] == "Background"


async def test_replacing_what_was_read(server: FakeApiServer, client: Client) -> None:
    old = server.put(PATH, SERVICE_X)
    new = await client.update(SERVICE, old | {"spec": {"type": "NodePort"}})
    assert new["spec"] == {"type": "NodePort"}
    with pytest.raises(ApiError) as caught:
        await client.update(SERVICE, old)
    assert caught.value.status == 409
    request = server.requests[0]
    assert (request.method, request.path, request.query) == ("PUT", PATH, {"fieldManager": "disaggregatedset"})


async def test_the_user_agent(server: FakeApiServer) -> None:
    client = server.client(user_agent="disaggregatedset/1 (a)")
    server.put(PATH, SERVICE_X)
    await client.get(SERVICE, "x", "default")
    await client.close()
    assert server.requests[0].headers["User-Agent"] == "disaggregatedset/1 (a)"


async def test_what_is_served(server: FakeApiServer, client: Client) -> None:
    assert not await client.serves(CLAIM_TEMPLATE)
    server.put("/apis/resource.k8s.io/v1/deviceclasses/gpu", {"metadata": {"name": "gpu"}})
    assert await client.serves(DEVICE_CLASS)
    assert not await client.serves(CLAIM_TEMPLATE)
    server.answers.append(status_of(503, "ServiceUnavailable", "etcd is down"))
    with pytest.raises(ApiError, match="etcd is down"):
        await client.serves(DEVICE_CLASS)


@pytest.mark.parametrize(
    ("status", "reason", "refused"),
    [
        (400, "BadRequest", True),
        (401, "Unauthorized", False),
        (403, "Forbidden", True),
        (404, "NotFound", False),
        (409, "Conflict", False),
        (422, "Invalid", True),
        (429, "TooManyRequests", False),
        (500, "InternalError", False),
        (503, "ServiceUnavailable", False),
    ],
)
async def test_refusals(server: FakeApiServer, client: Client, status: int, reason: str, refused: bool) -> None:
    server.answers.append(status_of(status, reason, "in its own words"))
    error = await _error(client)
    assert (error.status, error.reason, error.message, str(error)) == (
        status,
        reason,
        "in its own words",
        "in its own words",
    )
    assert error.refused is refused
    assert error.retry_after is None
    assert len(server.requests) == 1, "trying again is the queue's business"


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("", None), ("-1", None)]
)
async def test_being_asked_to_wait(server: FakeApiServer, client: Client, header: str, seconds: float | None) -> None:
    server.answers.append(status_of(429, "TooManyRequests", "slow down", Retry_After=header))
    assert (await _error(client)).retry_after == seconds


@pytest.mark.parametrize(
    "body", ["<html>bad gateway</html>", "", "[]", "null", '{"kind": "Status"}', '"text"', "\udcff"]
)
async def test_errors_that_are_no_status(server: FakeApiServer, client: Client, body: str) -> None:
    raw = body.encode(errors="surrogateescape")
    server.answers.append(web.Response(body=raw, status=502))
    error = await _error(client)
    assert (error.status, error.reason, error.message) == (502, "", raw.decode(errors="replace"))


@pytest.mark.parametrize("body", ["<html>log in</html>", "", '{"cut'])
async def test_answers_that_are_no_json(server: FakeApiServer, client: Client, body: str) -> None:
    """A proxy's page in place of the API server's answer is one more way of not answering, and tried again like one."""
    server.answers.append(web.Response(text=body, status=200))
    assert not (await _error(client)).refused


async def test_a_server_that_hangs_up(server: FakeApiServer, client: Client) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    server.answers += [hang_up] * 9  # aiohttp tries some requests again by itself
    error = await _error(client)
    assert (error.status, error.refused) == (0, False)
    assert "the API server did not answer" in error.message


async def test_a_server_that_hangs_up_in_the_middle_of_an_answer(server: FakeApiServer, client: Client) -> None:
    async def stop_halfway(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"items": [')
        assert request.transport is not None
        request.transport.close()
        return response

    server.answers.append(stop_halfway)
    assert (await _error(client)).status == 0


async def test_a_server_that_is_gone(server: FakeApiServer, client: Client) -> None:
    await server.stop()
    error = await _error(client)
    assert (error.status, error.reason) == (0, "ClientConnectorError")


async def test_a_server_that_hangs(server: FakeApiServer) -> None:
    client = server.client(timeout=0.05)
    server.stuck.clear()
    error = await _error(client)
    assert (error.status, error.reason) == (0, "TimeoutError")
    server.stuck.set()
    server.put(PATH, SERVICE_X)
    assert await client.get(SERVICE, "x", "default")
    await client.close()


async def test_no_more_requests_at_once_than_allowed(server: FakeApiServer) -> None:
    client = server.client(concurrency=2, timeout=5)
    server.put(PATH, SERVICE_X)
    server.stuck.clear()
    running = [asyncio.create_task(client.get(SERVICE, "x", "default")) for _ in range(5)]
    while len(server.requests) < 2:  # noqa: ASYNC110 - of the other end of the connection
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(server.requests) == 2
    server.stuck.set()
    await asyncio.gather(*running)
    await client.close()


async def test_the_observer_is_told_of_each_request(server: FakeApiServer) -> None:
    told: list[tuple[str, str, int]] = []
    client = server.client(observer=lambda verb, kind, status, seconds: told.append((verb, kind, status)), timeout=5)
    await client.apply(SERVICE, SERVICE_X)
    await client.list(SERVICE)
    server.answers.append(status_of(409, "AlreadyExists", "there is one"))
    with pytest.raises(ApiError):
        await client.create(DEPLOYMENT, {"metadata": {"name": "x", "namespace": "default"}})
    await server.stop()
    await _error(client)
    await client.close()
    assert told == [
        ("apply", "services", 200),
        ("list", "services", 200),
        ("create", "deployments", 409),
        ("get", "services", 0),
    ]


async def test_connecting_with_a_kubeconfig(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = str(server._server.make_url("")).rstrip("/")
    path = tmp_path / "config"
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [context]}
    config |= {
        "clusters": [{"name": "x", "cluster": {"server": url}}],
        "users": [{"name": "x", "user": {"token": "t"}}],
    }
    path.write_text(yaml.safe_dump(config))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    client = await Client.connect(manager="m")
    server.put(PATH, SERVICE_X)
    await client.get(SERVICE, "x", "default")
    await client.close()
    assert server.requests[0].headers["Authorization"] == "Bearer t"


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fence(clock: Clock) -> Fence:
    """A fence of a process that has led for a second."""
    made = Fence(Election("x", "x", "x", duration=15, renew_deadline=10), clock)
    made.renewed(0.0)
    made.open()
    clock.now = 1.0
    return made


@pytest.fixture
async def fenced(server: FakeApiServer, fence: Fence) -> AsyncIterator[Client]:
    made = server.client(timeout=60, concurrency=1, fence=fence)
    yield made
    await made.close()


WRITES: dict[str, Callable[[Client], Coroutine[Any, Any, Any]]] = {
    "apply": lambda client: client.apply(SERVICE, SERVICE_X),
    "dry run": lambda client: client.apply(SERVICE, SERVICE_X, dry_run=True),
    "status": lambda client: client.apply(SERVICE, SERVICE_X | {"status": {}}, subresource="status"),
    "create": lambda client: client.create(SERVICE, SERVICE_X),
    "update": lambda client: client.update(SERVICE, SERVICE_X),
    "delete": lambda client: client.delete(
        SERVICE, SERVICE_X | {"metadata": SERVICE_X["metadata"] | {"uid": "u", "resourceVersion": "1"}}
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_no_write_starts_without_the_lease(
    server: FakeApiServer, fenced: Client, fence: Fence, clock: Clock, write: Callable[[Client], Any]
) -> None:
    server.put(PATH, SERVICE_X)
    for close in (fence.close, lambda: setattr(clock, "now", 10.0)):
        fence.open()
        close()
        with pytest.raises(NotLeaderError) as caught:
            await write(fenced)
        assert (caught.value.status, caught.value.refused) == (0, False)
    assert server.requests == []
    assert await fenced.get(SERVICE, "x", "default"), "reads pass"
    assert await fenced.list(SERVICE)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_write_gets_the_time_that_is_left(
    server: FakeApiServer, fenced: Client, fence: Fence, clock: Clock, write: Callable[[Client], Any]
) -> None:
    """Half of what is after the renew deadline is for the way there, so the API server gets less."""
    clock.now = 9.0
    server.answers.append(web.json_response({}))
    await write(fenced)
    assert server.requests[0].query["timeout"] == "3500ms"
    assert fence.seconds_unknown == 0


async def test_a_write_does_not_outlive_the_lease(server: FakeApiServer, fenced: Client, fence: Fence) -> None:
    fence._duration = 1.2  # of which 1 s is over
    server.stuck.clear()
    started = asyncio.get_running_loop().time()
    with pytest.raises(ApiError, match="TimeoutError"):
        await fenced.apply(SERVICE, SERVICE_X)
    assert asyncio.get_running_loop().time() - started < 5
    assert fence.seconds_unknown == pytest.approx(0.2), "it may have been carried out"
    await fence.drained()


async def test_a_write_that_waited_for_a_connection_asks_again(
    server: FakeApiServer, fenced: Client, fence: Fence, clock: Clock
) -> None:
    server.put(PATH, SERVICE_X)
    server.stuck.clear()
    reading = asyncio.create_task(fenced.get(SERVICE, "x", "default"))
    while not server.requests:  # noqa: ASYNC110 - of the other end of the connection
        await asyncio.sleep(0.001)
    writing = asyncio.create_task(fenced.apply(SERVICE, SERVICE_X))
    await asyncio.sleep(0.01)
    clock.now = 10.0
    server.stuck.set()
    await reading
    with pytest.raises(NotLeaderError, match="not renewed for 10 s"):
        await writing
    assert server.writes() == []
    assert fence.seconds_unknown == 0


async def test_a_process_that_stands_still_between_headers_and_body(
    server: FakeApiServer, fence: Fence, clock: Clock
) -> None:
    moves = [10.0]

    async def stand_still(*_: Any) -> None:
        clock.now = moves.pop() if moves else clock.now

    client = server.client(timeout=5, fence=fence)
    traces: list[aiohttp.TraceConfig] = client._api.rest_client.configuration.trace_configs
    traces[0].on_request_headers_sent.append(stand_still)
    with pytest.raises(NotLeaderError):
        await client.apply(SERVICE, SERVICE_X)
    assert server.writes() == []
    assert fence.seconds_unknown == 0, "it was not sent"
    clock.now = 1.0
    await client.apply(SERVICE, SERVICE_X)
    await client.close()


@pytest.mark.parametrize(("status", "known"), [(200, True), (409, True), (422, True), (500, False), (504, False)])
async def test_answers_that_say_what_became_of_a_write(
    server: FakeApiServer, fenced: Client, fence: Fence, status: int, known: bool
) -> None:
    server.answers.append(web.json_response({"message": "x"}, status=status))
    with contextlib.suppress(ApiError):
        await fenced.apply(SERVICE, SERVICE_X)
    assert (fence.seconds_unknown == 0) is known


async def test_what_was_never_sent_is_no_unknown(server: FakeApiServer, fenced: Client, fence: Fence) -> None:
    await server.stop()
    with pytest.raises(ApiError, match="did not answer"):
        await fenced.apply(SERVICE, SERVICE_X)
    assert fence.seconds_unknown == 0


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
async def test_the_kernel_gives_up_too(server: FakeApiServer, fenced: Client) -> None:
    await fenced.apply(SERVICE, SERVICE_X)
    connections = [c for pool in fenced._api.rest_client.pool_manager.connector._conns.values() for c, _ in pool]
    sockets = [c.transport.get_extra_info("socket") for c in connections]
    assert [s.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for s in sockets] == [2500]


async def test_requests_start_no_faster_than_allowed(server: FakeApiServer) -> None:
    server.put(PATH, SERVICE_X)
    client = server.client(limiter=AsyncLimiter(2, 0.2))  # 10 a second, and 2 at once
    loop = asyncio.get_running_loop()
    started = loop.time()
    await asyncio.gather(*(client.get(SERVICE, "x", "default") for _ in range(5)))
    assert loop.time() - started >= 0.29
    await client.close()
