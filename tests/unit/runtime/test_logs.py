"""Log lines as they are written."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from disaggregatedset.runtime import logs
from disaggregatedset.runtime.logs import LogFormat, about

log = logging.getLogger("some.module")


class Terminal(io.StringIO):
    """A stream that people read."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, kopf = logging.getLogger(), logging.getLogger("kopf")
    before = root.level, root.handlers[:], kopf.level
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    kopf.setLevel(before[2])


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_lines_are_json_with_the_fields_that_are_documented() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    log.warning("%s is %d", "a", 1)
    (line,) = _lines(stream)
    assert abs(datetime.fromisoformat(line.pop("time")) - datetime.now().astimezone()) < timedelta(minutes=1)
    assert line == {"level": "WARNING", "logger": "some.module", "message": "a is 1"}


def test_what_is_worked_on_is_in_each_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    with about(set="ns/a", reconcile_id="1"):
        log.info("one")
        with about(tier="compute"):
            log.info("two", extra={"revision": "abc"})
        log.info("three", extra={"set": "ns/b"})
    log.info("four")
    lines = _lines(stream)
    assert [line["message"] for line in lines] == ["one", "two", "three", "four"]
    fields = [{k: v for k, v in line.items() if k in {"set", "reconcile_id", "tier", "revision"}} for line in lines]
    assert fields == [
        {"set": "ns/a", "reconcile_id": "1"},
        {"set": "ns/a", "reconcile_id": "1", "tier": "compute", "revision": "abc"},
        {"set": "ns/b", "reconcile_id": "1"},
        {},
    ]


async def test_tasks_know_what_they_work_on() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)

    async def work(name: str) -> None:
        with about(set=name):
            for _ in range(3):
                await asyncio.sleep(0)
                await asyncio.gather(say(name), say(name))

    async def say(name: str) -> None:
        log.info("%s", name)

    await asyncio.gather(work("a"), work("b"))
    lines = _lines(stream)
    assert len(lines) == 12
    assert all(line["set"] == line["message"] for line in lines)


def test_what_libraries_add_for_themselves_breaks_no_line() -> None:
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    # Not kopf.objects itself, to which kopf adds a handler where it is imported.
    logging.getLogger("kopf.others").debug("k", extra={"settings": object(), "k8s_ref": {}, "k8s_skip": True})
    log.info("o", extra={"odd": object()})
    kopf, odd = _lines(stream)
    assert kopf.keys() == {"time", "level", "logger", "message"}
    assert odd["odd"].startswith("<object object")


def test_exceptions_are_in_the_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    try:
        {}["x"]
    except KeyError:
        log.exception("failed")
    (line,) = _lines(stream)
    assert "KeyError: 'x'" in line["exception"]


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("text", io.StringIO, False),
        ("json", Terminal, True),
    ],
)
def test_people_get_text(log_format: LogFormat, stream: type[io.StringIO], is_json: bool) -> None:
    to = stream()
    logs.configure("info", log_format, to)
    with about(set="ns/a"):
        log.info("hello")
    assert to.getvalue().startswith("{") is is_json
    assert is_json or to.getvalue().endswith("INFO    some.module hello\n")


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", {"d", "i", "w", "kopf"}), ("info", {"i", "w"}), ("warning", {"w"}), ("error", set())],
)
def test_levels(level: str, expected: set[str]) -> None:
    stream = io.StringIO()
    logs.configure(level, "json", stream)
    log.debug("d")
    log.info("i")
    log.warning("w")
    logging.getLogger("kopf.objects").info("kopf")
    assert {line["message"] for line in _lines(stream)} == expected


def test_troubles_are_told_once_a_minute_and_their_end_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    now = 0.0
    troubles = logs.Troubles(log, "over", clock=lambda: now)
    for who in ("a", "b", "c"):
        troubles.failed(who, "500", "%s fails", who)
    troubles.failed("a", "429", "%s is told to wait", "a")
    now = 61.0
    troubles.failed("b", "500", "%s fails", "b")
    for who in ("a", "b", "c", "d"):
        troubles.well(who)
    troubles.well("a")
    assert caplog.messages == [
        "a fails",
        "a is told to wait",
        "b fails (and 2 more like this since the last such message)",
        "over",
    ]
