"""Watches for objects to become as wanted, and notes when."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import urllib3

from e2e.cluster import Object, kubeconfig

#: Longer than any benchmark: a watch that ends would have to be resumed.
_SECONDS = 24 * 3600


class Watcher:
    """A watch in a thread of its own; as a context manager it runs while the block does.

    Parameters
    ----------
    config
        A kubeconfig with a token.
    path
        Path of the collection to watch.
    wanted
        Whether an object is as wanted.
    label_selector
        Labels of the objects to watch.
    """

    def __init__(self, config: Path, path: str, wanted: Callable[[Object], bool], *, label_selector: str = "") -> None:
        access = kubeconfig.read(config)
        self._pool = urllib3.PoolManager(ssl_context=ssl.create_default_context(cadata=access.authority), retries=False)
        self._headers = {"Authorization": f"Bearer {access.token}", "Accept": "application/json"}
        self._url = f"{access.server}{path}"
        self._query = {"labelSelector": label_selector} if label_selector else {}
        self._wanted = wanted
        self._changed = threading.Condition()
        self._stopping = False
        self._error: Exception | None = None
        #: When each object was as wanted for the first time, by its name, by the clock of `time.perf_counter`.
        self.times: dict[str, float] = {}

    def __enter__(self) -> Self:
        listed = json.loads(self._get({}).data)
        query = {"watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": _SECONDS}
        self._response = self._get(query, stream=True)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._response.shutdown()
        self._thread.join()
        self._response.close()
        self._pool.clear()

    def wait(self, count: int, timeout: float) -> None:
        """Return as soon as so many objects have been as wanted.

        Raises
        ------
        TimeoutError
            With how many are.
        ConnectionError
            If the watch has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or len(self.times) >= count, timeout)
            if self._error:
                raise ConnectionError(f"the watch of {self._url} has ended") from self._error
            if len(self.times) < count:
                raise TimeoutError(f"after {timeout:g} s {len(self.times)} of {count} are as wanted: {self._url}")

    def _get(self, query: dict[str, Any], *, stream: bool = False) -> urllib3.BaseHTTPResponse:
        # Nothing needs to be said for hours on a quiet watch, so there is no timeout for reading.
        response = self._pool.request(
            "GET",
            f"{self._url}?{urlencode(self._query | query)}",
            headers=self._headers,
            preload_content=not stream,
            timeout=urllib3.Timeout(connect=5, read=None),
        )
        if response.status != 200:
            raise ConnectionError(f"{self._url}: HTTP status {response.status}")
        return response

    def _watch(self) -> None:
        try:
            for line in self._response:
                self._note(json.loads(line))
            raise EOFError  # noqa: TRY301 - handled like any other end
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits must know
            if not self._stopping:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()

    def _note(self, event: dict[str, Any]) -> None:
        obj = event["object"]
        if event["type"] == "ERROR":
            raise ConnectionError(obj.get("message"))
        name = obj["metadata"]["name"]
        if name not in self.times and event["type"] != "DELETED" and self._wanted(obj):
            with self._changed:
                self.times[name] = time.perf_counter()
                self._changed.notify_all()


def has_condition(kind: str) -> Callable[[Object], bool]:
    """Return a function that tells whether an object has a condition and it is true."""

    def wanted(obj: Object) -> bool:
        conditions = (obj.get("status") or {}).get("conditions") or []
        return any(c["type"] == kind and c["status"] == "True" for c in conditions)

    return wanted
