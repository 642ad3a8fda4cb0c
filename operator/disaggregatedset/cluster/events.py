"""Events (``events.k8s.io/v1``) about objects, for ``kubectl describe`` and ``kubectl events``."""

from __future__ import annotations

import logging
import time
import uuid
from collections import OrderedDict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from disaggregatedset.cluster.client import ApiError, Client
from disaggregatedset.cluster.objects import EVENT, Object
from disaggregatedset.runtime.logs import Troubles

log = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 600.0
_REMEMBERED: Final = 10_000
_MAX_NOTE: Final = 1024  # bytes


class EventType(StrEnum):
    """Whether an event is good to know or bad."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Recorder:
    """Writes events; the same event about the same object at most once in ten minutes.

    Parameters
    ----------
    client
        The API server.
    controller
        The name that reports, for example ``disaggregatedset.dev/operator``.
    instance
        The process that reports, for example the pod's name.
    """

    def __init__(self, client: Client, *, controller: str, instance: str) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance
        self._said: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._troubles = Troubles(log, "Events can be written again")

    async def record(self, about: Object, kind: EventType, reason: str, note: str, action: str) -> None:
        """Write an event. One that can't be written is logged and lost: events are best effort.

        Parameters
        ----------
        about
            The object that the event is about.
        kind
            Normal or Warning.
        reason
            Why, in one word for machines.
        note
            Why, in words for people.
        action
            What was done, in one word.
        """
        metadata, note = about["metadata"], _cut(note)
        said = (metadata["uid"], reason, note)
        now = time.monotonic()
        if now - self._said.get(said, -_QUIET_SECONDS) < _QUIET_SECONDS:
            return
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}", "namespace": metadata["namespace"]},
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "type": kind.value,
            "reason": reason,
            "note": note,
            "action": action,
            "regarding": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "reportingController": self._controller,
            "reportingInstance": self._instance,
        }
        try:
            await self._client.create(EVENT, event)
        except ApiError as error:
            what = "Event %s about %s/%s is lost: %s", reason, metadata["namespace"], metadata["name"], error
            self._troubles.failed("", f"{error.status} {error.reason}", *what)
            return
        self._troubles.well("")
        self._said[said] = now
        self._said.move_to_end(said)
        while len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)


def _cut(note: str) -> str:
    whole = note.encode()
    return note if len(whole) <= _MAX_NOTE else whole[: _MAX_NOTE - len("…".encode())].decode(errors="ignore") + "…"
