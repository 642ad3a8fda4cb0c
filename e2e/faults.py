"""A proxy between a client and the API server of a cluster that makes all the trouble that an API server can make."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import aiohttp
from aiohttp import web
from yarl import URL

from e2e.cluster import kubeconfig, pki
from e2e.cluster.base import Cluster
from e2e.cluster.ports import LOOPBACK, free_ports

T = TypeVar("T")

#: What happens to a request: an error in place of its answer; an answer that comes late; a connection that ends before
#: the request reached the API server, or only after it was carried out; an answer of which half is missing.
Kind = Literal["status", "delay", "reset", "lost", "truncated"]
#: What happens to a watch: its connection ends, its answer ends, an ERROR event, a broken line.
Strike = Literal["reset", "end", "gone", "error", "truncated"]

STRIKES: Final[tuple[Strike, ...]] = ("reset", "end", "gone", "error", "truncated")
_ACCOUNT: Final = ("kube-system", "faults")
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade"})
_READS: Final = frozenset({"GET", "HEAD"})
_EXPIRED: Final = {"code": 410, "reason": "Expired", "message": "too old resource version: 1 (2)"}
_STORAGE: Final = {"code": 500, "reason": "InternalError", "message": "etcdserver: mvcc: required revision is unclear"}


@dataclass(frozen=True)
class Fault:
    """What happens to a part of all requests, or of some of them.

    Attributes
    ----------
    kind
        What happens.
    part
        To which part of the requests, between 0 and 1.
    status, retry_after
        Of an answer of kind ``status``.
    seconds
        The longest delay of kind ``delay``; the shortest is half of it.
    of
        Which requests: ``read`` (get and list), ``watch`` (their beginning), ``write`` or all.
    path
        Only those whose path ends with this.
    token
        Only those with this bearer token.
    """

    kind: Kind
    part: float = 1.0
    status: int = 500
    retry_after: int | None = None
    seconds: float = 1.0
    of: Literal["read", "watch", "write", "all"] = "all"
    path: str = ""
    token: str = ""

    def hits(self, request: web.BaseRequest) -> bool:
        """Whether a request is one of those."""
        what = "write" if request.method not in _READS else "watch" if "watch" in request.query else "read"
        return (
            self.of in {"all", what}
            and request.path.endswith(self.path)
            and request.headers.get("Authorization", "").endswith(self.token)
        )


class Faults:
    """The proxy. As a context manager it runs, in a thread of its own, and passes everything through until told else.

    Clients authenticate by a token of a service account with all rights: of their certificates, the API server behind
    would learn nothing.

    Parameters
    ----------
    cluster
        The cluster whose API server is behind it.
    seed
        Of all that is left to chance.
    """

    def __init__(self, cluster: Cluster, seed: int = 0) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._plan: Sequence[Fault] = ()
        self._watches: set[asyncio.Queue[Strike]] = set()
        self._connections: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._site: web.TCPSite | None = None
        (self._port,) = free_ports(1)
        #: How often each fault was done, by name.
        self.done: Counter[str] = Counter()

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig that leads here."""
        return self._directory / "kubeconfig"

    @property
    def authority(self) -> Path:
        """The certificate authority that has signed the proxy's certificate."""
        return self._authority.pair.certificate

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return LOOPBACK, self._port

    def plan(self, *faults: Fault) -> None:
        """Have these faults happen from now on, in place of others; of several that hit a request, the first does."""
        self._plan = faults

    def strike(self, kind: Strike, part: float = 1.0) -> int:
        """Do something to open watches, and return to how many."""
        return self._call(self._strike(kind, part))

    def watches(self) -> int:
        """Return how many watches are open."""
        return len(self._watches)

    def vanish(self) -> None:
        """Refuse connections, and cut those that there are, until `appear`."""
        self._call(self._unbind())

    def appear(self) -> None:
        """Be there again, if it is not."""
        self._call(self._bind())

    def new_certificate(self, *, new_authority: bool = False) -> None:
        """Restart with another certificate, be it from the same authority or from a new one."""
        if new_authority:
            self._authority = pki.Authority(self._directory, "faults-ca")
        self.vanish()
        self.appear()

    def token(self) -> str:
        """Return a fresh token of the service account."""
        access = kubeconfig.read(self._cluster.service_account_kubeconfig(*_ACCOUNT))
        return access.token or ""

    async def _unbind(self) -> None:
        if self._site is not None:
            await self._site.stop()
            self._site = None
        for transport in self._connections:
            transport.abort()
        self._connections.clear()

    async def _bind(self) -> None:
        if self._site is not None:
            return
        pair = self._authority.issue("faults", "kube-apiserver")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
        self._site = web.TCPSite(self._runner, *self.address, ssl_context=context, reuse_address=True)
        await self._site.start()

    async def _strike(self, kind: Strike, part: float) -> int:
        hit = [watch for watch in self._watches if self._random.random() < part]
        for watch in hit:
            watch.put_nowait(kind)
        self.done[f"watch {kind}"] += len(hit)
        return len(hit)

    async def _start(self) -> None:
        context = ssl.create_default_context(cadata=kubeconfig.read(self._cluster.kubeconfig).authority)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type"),
        )
        # Whoever hangs up shall not seem to watch any more.
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=1)
        await self._runner.setup()
        await self._bind()

    async def _stop(self) -> None:
        await self._unbind()
        await self._runner.cleanup()
        await self._session.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._connections = {t for t in self._connections if not t.is_closing()}
        if isinstance(request.transport, asyncio.Transport):
            self._connections.add(request.transport)
        fault = next((f for f in self._plan if f.hits(request) and self._random.random() < f.part), None)
        if fault is not None:
            self.done[f"{fault.kind} {fault.status}" if fault.kind == "status" else fault.kind] += 1
        match fault:
            case Fault(kind="status"):
                return _refusal(fault)
            case Fault(kind="reset"):
                return _cut(request)
            case Fault(kind="delay"):
                await asyncio.sleep(fault.seconds * self._random.uniform(0.5, 1))
        try:
            return await self._forward(request, fault)
        except aiohttp.ClientError:  # the API server is not there
            return _cut(request)

    async def _forward(self, request: web.BaseRequest, fault: Fault | None) -> web.StreamResponse:
        async with self._session.request(
            request.method,
            URL(f"{self._cluster.server}{request.raw_path}", encoded=True),
            headers={name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP},
            data=await request.read() or None,
            allow_redirects=False,
        ) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            if "watch" in request.query and answer.status == 200:
                return await self._stream(request, answer, headers)
            body = await answer.read()
            match fault:
                case Fault(kind="lost"):
                    return _cut(request)
                case Fault(kind="truncated"):
                    body = body[: len(body) // 2]
            return web.Response(body=body, status=answer.status, headers=headers)

    async def _stream(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        strikes: asyncio.Queue[Strike] = asyncio.Queue()
        self._watches.add(strikes)
        reading = asyncio.ensure_future(anext(chunks := answer.content.iter_any(), b""))
        striking = asyncio.ensure_future(strikes.get())
        try:
            while not striking.done():
                await asyncio.wait([reading, striking], return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    if not (chunk := reading.result()):
                        break
                    await response.write(chunk)
                    reading = asyncio.ensure_future(anext(chunks, b""))
            else:
                match striking.result():
                    case "reset":
                        _cut(request)
                    case "gone":
                        await response.write(_event(_EXPIRED))
                    case "error":
                        await response.write(_event(_STORAGE))
                    case "truncated":
                        await response.write(_event(_STORAGE)[:-40])
            await response.write_eof()
        except ConnectionError:  # the client has gone
            pass
        except aiohttp.ClientError:  # the API server has
            _cut(request)
        finally:
            self._watches.discard(strikes)
            for task in (reading, striking):
                task.cancel()
        return response

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def _write_kubeconfig(self) -> None:
        access = kubeconfig.Access(f"https://{LOOPBACK}:{self._port}", self.authority.read_text(), token=self.token())
        kubeconfig.write(self.kubeconfig, access, name="faults")

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        self._authority = pki.Authority(self._directory, "faults-ca")
        namespace, name = _ACCOUNT
        self._cluster.apply(
            [
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}},
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "ClusterRoleBinding",
                    "metadata": {"name": name},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
                    },
                    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
                },
            ]
        )  # fmt: skip
        self._write_kubeconfig()
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._stack.close()


def _cut(request: web.BaseRequest) -> web.StreamResponse:
    """End a request's connection as if it had never been, without an answer."""
    if isinstance(request.transport, asyncio.Transport):
        request.transport.abort()
    return web.Response()


def _refusal(fault: Fault) -> web.StreamResponse:
    message = f"the e2e proxy answers {fault.status}"
    if fault.status == 403:  # as the authorizer says it
        message = 'things is forbidden: User "x" cannot get resource "things" in API group "" at the cluster scope'
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": fault.status}
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return web.json_response(status, status=fault.status, headers=headers)


def _event(status: dict[str, Any]) -> bytes:
    whole = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", **status}
    return f"{json.dumps({'type': 'ERROR', 'object': whole}, separators=(',', ':'))}\n".encode()
