"""Events as they arrive at the API server."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

import pytest

from disaggregatedset.cluster import events
from disaggregatedset.cluster.client import Client
from disaggregatedset.cluster.events import EventType, Recorder
from tests.unit.fake_api_server import FakeApiServer, status_of

ABOUT: dict[str, Any] = {
    "apiVersion": "disaggregatedset.dev/v1alpha1",
    "kind": "DisaggregatedSet",
    "metadata": {"name": "llama", "namespace": "inference", "uid": "1", "resourceVersion": "5"},
}


@pytest.fixture
def recorder(client: Client) -> Recorder:
    return Recorder(client, controller="disaggregatedset.dev/operator", instance="pod-1")


async def _say(recorder: Recorder, note: str = "because", reason: str = "Available", uid: str = "1") -> None:
    about = ABOUT | {"metadata": ABOUT["metadata"] | {"uid": uid}}
    await recorder.record(about, EventType.NORMAL, reason, note, "Report")


async def test_an_event(server: FakeApiServer, recorder: Recorder) -> None:
    await _say(recorder)
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/apis/events.k8s.io/v1/namespaces/inference/events")
    event = request.body
    assert event["metadata"].pop("name").startswith("llama.")
    assert datetime.fromisoformat(event.pop("eventTime")).utcoffset() is not None
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "inference"},
        "type": "Normal",
        "reason": "Available",
        "note": "because",
        "action": "Report",
        "regarding": {
            "apiVersion": "disaggregatedset.dev/v1alpha1",
            "kind": "DisaggregatedSet",
            "name": "llama",
            "namespace": "inference",
            "uid": "1",
            "resourceVersion": "5",
        },
        "reportingController": "disaggregatedset.dev/operator",
        "reportingInstance": "pod-1",
    }


async def test_the_same_event_is_said_once(server: FakeApiServer, recorder: Recorder) -> None:
    for _ in range(3):
        await _say(recorder)
    assert len(server.requests) == 1
    await _say(recorder, note="another")
    await _say(recorder, reason="Another")
    await _say(recorder, uid="2")
    assert len(server.requests) == 4


async def test_the_same_event_is_said_again_after_ten_minutes(
    server: FakeApiServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(events.time, "monotonic", lambda: now)
    await _say(recorder)
    assert len(server.requests) == 1, "right after the machine's start too"
    now = 599.0
    await _say(recorder)
    assert len(server.requests) == 1
    now = 601.0
    await _say(recorder)
    assert len(server.requests) == 2


async def test_what_was_said_is_not_remembered_without_bound(
    server: FakeApiServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_REMEMBERED", 2)
    for note in ("a", "b", "c", "a"):
        await _say(recorder, note)
    assert len(server.requests) == 4
    assert len(recorder._said) == 2


@pytest.mark.parametrize("note", ["x" * 1024, "x" * 5000, "é" * 1000, "x" + "€" * 600])
async def test_long_notes_are_cut_to_what_the_api_server_takes(
    server: FakeApiServer, recorder: Recorder, note: str
) -> None:
    await _say(recorder, note)
    said = server.requests[0].body["note"]
    assert len(said.encode()) <= 1024, "the API server counts bytes"
    assert len(said.encode()) > 1000
    assert said == note or (said.endswith("…") and note.startswith(said[:-1]))


async def test_an_event_that_cannot_be_written_is_lost_and_tried_the_next_time(
    server: FakeApiServer, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers.append(status_of(403, "Forbidden", "the namespace is being terminated"))
    with caplog.at_level(logging.WARNING):
        await _say(recorder)
    assert "Event Available about inference/llama is lost: the namespace is being terminated" in caplog.text
    await _say(recorder)
    assert len(server.requests) == 2


async def test_a_server_that_is_gone_is_no_reason_to_fail(server: FakeApiServer, recorder: Recorder) -> None:
    await server.stop()
    await _say(recorder)
