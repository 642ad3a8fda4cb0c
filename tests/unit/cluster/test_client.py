"""The client at the other end of a real connection."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from disaggregatedset.cluster.client import ApiError, Client
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
