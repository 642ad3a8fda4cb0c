"""Logs: lines for people, or JSON for machines, with what is being worked on."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

_TEXT: Final = "%(asctime)s %(levelname)-7s %(name)s %(message)s"

_context: ContextVar[Mapping[str, str]] = ContextVar("context", default=MappingProxyType({}))


#: How log lines look.
LogFormat = Literal["auto", "text", "json"]


_SECONDS_BETWEEN_COMPLAINTS: Final = 60.0


class Troubles:
    """Says once a minute what goes wrong all the time and for everybody, and once that it is over.

    Parameters
    ----------
    log
        Gets a warning for the first failure of a reason; for others only as debug messages.
    over
        What to say when nothing fails any more.
    clock
        Seconds that never go back.
    """

    def __init__(self, log: logging.Logger, over: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._over = over
        self._clock = clock
        self._failing: set[str] = set()
        self._silent_until: dict[str, float] = {}
        self._untold: dict[str, int] = {}
        self._complained = False

    def failed(self, who: str, reason: str, message: str, *arguments: object) -> None:
        """Take note that somebody failed; of each reason, there should be few."""
        self._failing.add(who)
        if (now := self._clock()) < self._silent_until.get(reason, now):
            self._untold[reason] = self._untold.get(reason, 0) + 1
            self._log.debug(message, *arguments)
            return
        self._silent_until[reason] = now + _SECONDS_BETWEEN_COMPLAINTS
        untold = self._untold.pop(reason, 0)
        since = f" (and {untold} more like this since the last such message)" if untold else ""
        self._log.warning(message + since, *arguments)
        self._complained = True

    def well(self, who: str) -> None:
        """Take note that somebody did not fail."""
        self._failing.discard(who)
        if self._complained and not self._failing:
            self._complained = False
            self._log.info(self._over)


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Add fields to all log lines that are written meanwhile, also by tasks that are started meanwhile."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def configure(level: str, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Write logs.

    Parameters
    ----------
    level
        What is at least as bad as this is written; kopf's messages only from warnings on, unless this is ``debug``.
    log_format
        How lines look; ``auto``: text on a terminal, else JSON.
    stream
        Where to; None: the standard error.
    """
    stream = stream or sys.stderr
    text = log_format == "text" or (log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.addFilter(_add_context)
    handler.setFormatter(logging.Formatter(_TEXT) if text else _json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


def _add_context(record: logging.LogRecord) -> bool:
    for field, value in _context.get().items():
        record.__dict__.setdefault(field, value)
    return True


def _json() -> logging.Formatter:
    return JsonFormatter(
        ["levelname", "name", "message"],
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
        # Nor what asyncio and kopf add for themselves.
        reserved_attrs=[*logging.makeLogRecord({}).__dict__, "taskName", "settings", "k8s_skip", "k8s_ref"],
        json_default=str,
    )
