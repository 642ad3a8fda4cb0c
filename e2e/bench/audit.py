"""Counts requests in an API server's audit log. Pure."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})

#: Marks a write that stores nothing.
DRY_RUN: Final = "(dry run)"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the audit log has it.

    Attributes
    ----------
    at
        When the API server received it.
    user
        Who made it.
    verb
        Such as ``patch``, or ``patch (dry run)``.
    resource
        Such as ``deployments`` or ``disaggregatedsets/status``; for what is no resource, its path.
    code
        The HTTP status of the answer.
    """

    at: dt.datetime
    user: str
    verb: str
    resource: str
    code: int

    @property
    def writes(self) -> bool:
        """Whether it asks to store something."""
        return self.verb in WRITES


def read(lines: Iterable[str], user: str) -> list[Request]:
    """Read a user's requests. A watch has two lines, when it starts and when it ends, and counts once."""
    found: dict[str, Request] = {}
    for line in lines:
        # Most lines are other users' in a log of many megabytes: don't parse those.
        if user in line and (event := json.loads(line))["user"]["username"] == user:
            found.setdefault(event["auditID"], _request(event))
    return list(found.values())


def between(requests: Iterable[Request], start: dt.datetime, end: dt.datetime) -> list[Request]:
    """Return the requests of a time."""
    return [request for request in requests if start <= request.at < end]


def count(requests: Iterable[Request]) -> dict[str, int]:
    """Count requests by verb and resource, the most frequent first."""
    return dict(Counter(f"{r.verb} {r.resource}" for r in requests).most_common())


def failures(requests: Iterable[Request]) -> dict[str, int]:
    """Count the requests that were refused, by verb, resource and status."""
    return dict(Counter(f"{r.verb} {r.resource} {r.code}" for r in requests if r.code >= 400).most_common())


def _request(event: dict[str, Any]) -> Request:
    url = urlsplit(event["requestURI"])
    reference = event.get("objectRef") or {}
    parts = [reference[field] for field in ("resource", "subresource") if reference.get(field)]
    verb = event["verb"] + (f" {DRY_RUN}" if "dryRun" in parse_qs(url.query) else "")
    return Request(
        at=dt.datetime.fromisoformat(event["requestReceivedTimestamp"]),
        user=event["user"]["username"],
        verb=verb,
        resource="/".join(parts) or url.path,
        code=(event.get("responseStatus") or {}).get("code", 0),
    )
