"""A gate between the operator and the API server, at which the operator dies after an exact number of writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3

from e2e.cluster import kubeconfig
from e2e.cluster.base import Cluster
from tests.integration.recorder import trusting

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "host", "authorization"}


class Gate:
    """Passes requests on, with the administrator's rights. Plain HTTP: nobody else reaches it.

    After the last write that it was told to let through, it ends the operator before that learns of it, and lets
    nothing through that the dead one has sent. As a context manager it runs while the block does.

    Parameters
    ----------
    cluster
        The cluster that it leads to.
    namespace
        Where writes count.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._counted = f"/namespaces/{namespace}/"
        self._access = kubeconfig.read(cluster.kubeconfig)
        self.pool = urllib3.PoolManager(ssl_context=trusting(self._access), retries=False, maxsize=64)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.gate = self
        self._writing = threading.Lock()
        self._left: int | None = None
        self._kill: Callable[[], None] = lambda: None
        self.life = 0
        self.killed = threading.Event()
        self.last = ""

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads here."""
        port = self._server.server_address[1]
        access = kubeconfig.Access(f"http://127.0.0.1:{port}", self._access.authority, token="none")
        return kubeconfig.write(path, access, name="gate")

    def die_after(self, writes: int, kill: Callable[[], None]) -> None:
        """Kill the operator after so many writes from now on."""
        with self._writing:
            self._left, self._kill = writes, kill
            self.killed.clear()

    def spare(self) -> bool:
        """Let the operator live on; return whether it has died already."""
        with self._writing:
            self._left = None
            return self.killed.is_set()

    def pass_on(self, request: _Handler, life: int, body: bytes | None) -> urllib3.BaseHTTPResponse | None:
        """Pass a request on; None where the one who sent it is dead."""
        writes = request.command != "GET" and "dryRun" not in request.path and "/events" not in request.path
        if not writes:
            return self._send(request, body, stream=True) if life == self.life else None
        with self._writing:
            if life != self.life:
                return None
            answer = self._send(request, body, stream=False)
            if self._left is not None and self._counted in request.path and answer.status < 400:
                self._left -= 1
                self.last = f"{request.command} {request.path}"
                if self._left == 0:
                    self._left = None
                    self.life += 1
                    self._kill()
                    self.killed.set()
                    return None
            return answer

    def _send(self, request: _Handler, body: bytes | None, *, stream: bool) -> urllib3.BaseHTTPResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        return self.pool.request(
            request.command,
            f"{self._access.server}{request.path}",
            body=body,
            headers=headers,
            preload_content=not stream,
            timeout=urllib3.Timeout(connect=5, read=None),
        )

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.life += 1
        self._server.shutdown()
        self._server.server_close()
        self.pool.clear()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    gate: Gate

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # whoever has died didn't say good-bye


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self._gate: Gate = self.server.gate
        self._life = self._gate.life

    def _pass(self) -> None:
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else None
        answer = self._gate.pass_on(self, self._life, body)
        if answer is None:
            self.close_connection = True
            return
        try:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            # As it comes: a watch never ends.
            for chunk in [answer.data] if answer.isclosed() else answer.stream(2**16, decode_content=False):
                if chunk:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")
        except (OSError, urllib3.exceptions.HTTPError):
            self.close_connection = True
            answer.close()
        finally:
            answer.release_conn()

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass  # noqa: N815 - their names there

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass
