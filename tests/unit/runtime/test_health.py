"""Health and metrics, asked for as the kubelet and Prometheus do."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from disaggregatedset.runtime import health, metrics


class State:
    """What the checks say."""

    unhealthy: str | None = None
    unready: str | None = "not everything has been listed yet"


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
async def state(port: int) -> AsyncIterator[State]:
    now = State()
    async with health.serve("127.0.0.1", port, healthy=lambda: now.unhealthy, ready=lambda: now.unready):
        yield now


async def _get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_health_and_readiness_are_asked_each_time(state: State, port: int) -> None:
    assert await _get(port, "/healthz") == (200, "ok")
    assert await _get(port, "/readyz") == (500, "not everything has been listed yet")
    state.unhealthy, state.unready = "the loop hangs", None
    assert await _get(port, "/healthz") == (500, "the loop hangs")
    assert await _get(port, "/readyz") == (200, "ok")


async def test_metrics_have_the_names_that_people_know(state: State, port: int) -> None:
    metrics.observe_request("apply", "deployments", 200, 0.01)
    metrics.RECONCILES.labels("disaggregatedset", "success").inc()
    status, text = await _get(port, "/metrics")
    assert status == 200
    assert 'rest_client_requests_total{code="200",resource="deployments",verb="apply"}' in text
    assert 'rest_client_request_duration_seconds_count{verb="apply"}' in text
    assert 'controller_runtime_reconcile_total{controller="disaggregatedset",result="success"}' in text
    assert "workqueue_depth" in text


def test_a_resync_that_makes_no_step_is_stuck() -> None:
    now = [100.0]
    vitals = health.Vitals(30.0, clock=lambda: now[0])
    assert vitals.problem() is None
    for _ in range(5):
        now[0] += 29
        vitals.progress()
        assert vitals.problem() is None
    now[0] += 31
    assert vitals.problem() == "the resync is stuck: nothing was listed for 31 s"
    vitals.progress()
    assert vitals.problem() is None


def test_a_watch_that_is_silent_while_things_change_is_dead() -> None:
    vitals = health.Vitals(30.0)
    for _ in range(2):
        vitals.missed("deployments", "a")
    assert vitals.problem() is None, "it may be a bit late"
    vitals.seen("deployments", "b")
    vitals.seen("services", "a")
    vitals.missed("deployments", "a")
    assert vitals.problem() == (
        "the watch of deployments in namespace a is silent, but the last 3 resyncs found changes"
    )
    vitals.seen("deployments", "a")
    assert vitals.problem() is None


def test_a_watch_that_is_late_again_and_again_lives() -> None:
    vitals = health.Vitals(30.0)
    for _ in range(10):
        vitals.missed("deployments")
        vitals.seen("deployments")
        assert vitals.problem() is None


async def test_nothing_else_is_served(state: State, port: int) -> None:
    assert (await _get(port, "/"))[0] == 404


async def test_a_port_that_is_taken_is_an_error(state: State, port: int) -> None:
    with pytest.raises(OSError, match="address already in use"):
        async with health.serve("127.0.0.1", port, healthy=lambda: None, ready=lambda: None):
            pass


async def test_the_port_is_free_again_afterwards(port: int) -> None:
    for _ in range(2):
        async with health.serve("127.0.0.1", port, healthy=lambda: None, ready=lambda: None):
            assert await _get(port, "/healthz") == (200, "ok")
