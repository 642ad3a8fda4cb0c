"""Requests to the API server, over the transport and the authentication of ``kubernetes.aio``."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiolimiter import AsyncLimiter
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException

from disaggregatedset.cluster.objects import Kind, Object
from disaggregatedset.cluster.watching import Observer, Persistence

_METHODS: Final = {"apply": "PATCH", "create": "POST", "update": "PUT", "delete": "DELETE"}


class ApiError(Exception):
    """The API server refused a request, or did not answer.

    Attributes
    ----------
    status
        The HTTP status; 0 where there was no answer.
    reason
        The reason in the answer's ``Status``, for example ``AlreadyExists``.
    message
        The API server's own words.
    retry_after
        Seconds that the API server asks to wait, if it does.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def refused(self) -> bool:
        """Whether the same request will be refused again until something else changes."""
        # A 403 without the permission is about the operator, one by an admission plugin is about the object.
        lacks_permission = self.status == 403 and " cannot " in self.message and " in API group " in self.message
        return self.status in {400, 403, 422} and not lacks_permission

    @property
    def trouble(self) -> bool:
        """Whether it is about the API server or the way to it, and not about what was asked."""
        return self.status in {0, 401, 429} or self.status >= 500 or (self.status == 403 and not self.refused)


class NotLeaderError(ApiError):
    """A write was not sent, because this process does not lead."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "NotLeader", message)


class Write(Protocol):
    """A write that may be sent.

    Attributes
    ----------
    sent
        Whether its bytes have begun to leave.
    answered
        Whether the API server has said what became of it.
    refused
        Why it was held back at the last moment; None: it was not.
    """

    sent: bool
    answered: bool
    refused: NotLeaderError | None

    @property
    def seconds(self) -> float:
        """How long it may take."""

    def check(self) -> None:
        """Raise `NotLeaderError` unless it may still be sent; called at the last moment before its bytes leave."""


class Fence(Protocol):
    """Says who may write."""

    @property
    def seconds_to_send(self) -> float:
        """How long what has been sent may wait until the other end takes it; the rest is for carrying it out."""

    def write(self) -> AbstractContextManager[Write]:
        """Let one write through, from before it is sent until its fate is known.

        Raises
        ------
        NotLeaderError
            If this process may not write.
        """


#: The write that is being sent, for what aiohttp calls at the last moment before bytes leave.
_sending: ContextVar[Write | None] = ContextVar("sending", default=None)


class Client:
    """A client of one API server.

    Parameters
    ----------
    configuration
        Address and credentials.
    manager
        The field manager of everything that is written.
    user_agent
        How it presents itself; None: as the manager.
    timeout
        Of each request, in seconds.
    concurrency
        How many requests may be under way at once.
    limiter
        Says when each request may start; None: at once.
    observer
        Told about each request.
    fence
        Asked before each write; None: all may be sent.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        manager: str,
        user_agent: str | None = None,
        timeout: float = 30.0,
        concurrency: int = 64,
        limiter: AsyncLimiter | None = None,
        observer: Observer | None = None,
        fence: Fence | None = None,
    ) -> None:
        configuration.connection_pool_maxsize = concurrency
        # aiohttp would look for proxies in the environment at each request, in a thread.
        configuration.proxy = configuration.proxy or _proxy(configuration.host)
        configuration.client_session_kwargs = {"trust_env": False}
        if fence is not None:
            configuration.trace_configs = [_last_check()]
        self._api = ApiClient(configuration)
        if fence is not None:
            self._api.rest_client = _Transport(configuration, fence.seconds_to_send)
        self._api.user_agent = user_agent or manager
        self._manager = manager
        self._timeout = timeout
        self._limiter = limiter
        self._observer = observer
        self._fence = fence

    @classmethod
    async def connect(cls, *, kubeconfig: Path | None = None, **options: Any) -> Self:
        """Connect as the service account of the pod, or else as the current user of a kubeconfig.

        Parameters
        ----------
        kubeconfig
            Path of the kubeconfig; None: ``KUBECONFIG``, then ``~/.kube/config``.
        options
            Parameters of the client.

        Raises
        ------
        ConnectionError
            If there is neither, with what to do about it.
        """
        configuration = Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except ConfigException:
            try:
                await config.load_kube_config(
                    config_file=str(kubeconfig) if kubeconfig else None, client_configuration=configuration
                )
            except Exception as error:  # the loader raises all sorts of them on a file that is no kubeconfig
                raise ConnectionError(
                    f"no cluster to connect to: not in a pod, and no usable kubeconfig ({error}): set KUBECONFIG"
                ) from error
        return cls(configuration, **options)

    def watcher(self, relisted: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Return a session for watching as this client, by the names that ``kopf.AiohttpSession`` has for it.

        Parameters
        ----------
        relisted
            Called when something was listed again.
        """
        configuration = self._api.configuration
        # Not the certificates that there are now: those that are there when they are needed.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._api.rest_client.ssl_context)
        persistence = Persistence(
            self._authorization,
            self._trust_anew,
            timeout=self._timeout,
            prefix=urlsplit(configuration.host).path.rstrip("/"),
            observer=self._observer,
            relisted=relisted,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._api.user_agent},
            proxy=configuration.proxy,
            middlewares=[persistence],
        )
        return {"server": configuration.host, "aiohttp_session": session}

    async def _authorization(self) -> str | None:
        key: str | None = await self._api.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return key

    def _trust_anew(self, error: Exception) -> None:
        """Where the API server's certificate is not trusted, read again whom to trust: that may have been replaced.

        What was trusted before still is, until this process ends.
        """
        if isinstance(error, aiohttp.ClientConnectorCertificateError) and (path := self._api.configuration.ssl_ca_cert):
            with contextlib.suppress(OSError):  # also what is wrong with the file's content
                self._api.rest_client.ssl_context.load_verify_locations(path)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    aclose = close  # the name that contextlib.aclosing knows

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object:
        """Read one object."""
        return await self._request("get", kind, kind.path(namespace, name))

    async def list(
        self, kind: Kind, namespace: str | None = None, *, label_selector: str | None = None, stale: bool = False
    ) -> tuple[list[Object], int]:
        """List objects.

        Parameters
        ----------
        kind
            Their kind.
        namespace
            None: of all namespaces.
        label_selector
            Those that it matches; None: all.
        stale
            Whether the API server may answer with a state of a moment ago, which costs it less.

        Returns
        -------
        tuple
            The objects, and the resource version that the list is of.
        """
        query = {"labelSelector": label_selector} if label_selector else {}
        if stale:
            query["resourceVersion"] = "0"
        answer = await self._request("list", kind, kind.path(namespace), query=query)
        for item in answer["items"]:  # a list leaves out what is the same for all of them
            item |= {"apiVersion": kind.api_version, "kind": kind.name}
        return answer["items"], int(answer["metadata"]["resourceVersion"])

    async def apply(
        self,
        kind: Kind,
        manifest: Object,
        *,
        force: bool = True,
        dry_run: bool = False,
        subresource: str | None = None,
        manager: str | None = None,
    ) -> Object:
        """Apply a manifest on the server's side.

        Parameters
        ----------
        kind
            The manifest's kind.
        manifest
            All fields that this manager wants to own.
        force
            Whether to take over fields that others own with other values; else such an apply is refused with 409.
        dry_run
            Whether to have it checked and defaulted only.
        subresource
            For example ``status``.
        manager
            The field manager; None: that of the client.
        """
        metadata = manifest["metadata"]
        query = {"fieldManager": manager or self._manager, "force": str(force).lower()}
        if dry_run:
            query["dryRun"] = "All"
        return await self._request(
            "apply",
            kind,
            kind.path(metadata.get("namespace"), metadata["name"], subresource),
            query=query,
            body=manifest,
            content_type="application/apply-patch+yaml",
        )

    async def create(self, kind: Kind, manifest: Object, *, dry_run: bool = False) -> Object:
        """Create an object, or have it checked and defaulted only."""
        path = kind.path(manifest["metadata"].get("namespace"))
        query = {"fieldManager": self._manager} | ({"dryRun": "All"} if dry_run else {})
        return await self._request("create", kind, path, query=query, body=manifest)

    async def update(self, kind: Kind, obj: Object) -> Object:
        """Replace an object; with its resource version, only as it was when it was read."""
        metadata = obj["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"])
        return await self._request("update", kind, path, query={"fieldManager": self._manager}, body=obj)

    async def delete(self, kind: Kind, obj: Object) -> bool:
        """Delete an object as it was when it was read, its dependents in the background.

        Returns
        -------
        bool
            Whether it is gone; else finalizers hold it.
        """
        metadata = obj["metadata"]
        body = {
            "propagationPolicy": "Background",
            "preconditions": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        }
        answer = await self._request("delete", kind, kind.path(metadata.get("namespace"), metadata["name"]), body=body)
        return not (answer.get("metadata") or {}).get("finalizers")

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server serves a kind."""
        path = kind.path().rpartition("/")[0]
        try:
            answer = await self._request("get", kind, path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(resource["name"] == kind.plural for resource in answer["resources"])

    async def _request(
        self,
        verb: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        if self._limiter is not None:
            await self._limiter.acquire()
        asked = dict(query or {})
        headers = {"Accept": "application/json", "Content-Type": content_type}
        status, started = 0, time.monotonic()
        # Whoever waited for its turn asks only now whether it may still write.
        with self._fenced(verb) as write:
            timeout = self._timeout
            if write is not None and self._fence is not None:
                # The API server has to give up in time too: what it does later, nobody here knows of.
                seconds = min(timeout, write.seconds - self._fence.seconds_to_send)
                asked["timeout"] = f"{max(1, int(seconds * 1000))}ms"
                timeout = min(timeout, write.seconds)
            sending = _sending.set(write)
            try:
                request = await self._api.param_serialize(
                    _METHODS.get(verb, "GET"),
                    path,
                    query_params=list(asked.items()),
                    header_params=headers,
                    auth_settings=["BearerToken"],
                )
                # The body stays as it is: serialising it there would copy it for nothing.
                response = await self._api.call_api(*request[:3], body=body, _request_timeout=timeout)
                status = response.status
                if write is not None and status < 500:
                    write.answered = True
                data = await response.read()
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                self._trust_anew(error)
                if write is not None and write.refused is not None:
                    raise write.refused from error
                raise ApiError(0, type(error).__name__, f"the API server did not answer: {error!r}") from error
            except ConfigException as error:  # a token that can't be read just now
                raise ApiError(0, type(error).__name__, f"no credentials: {error}") from error
            finally:
                _sending.reset(sending)
                if self._observer is not None and (write is None or write.refused is None):
                    self._observer(verb, kind.plural, status, time.monotonic() - started)
        if status >= 400:
            raise _error(status, data, response.headers.get("Retry-After"))
        try:
            answer: Object = json.loads(data)
        except ValueError as error:
            raise ApiError(0, "NoJSON", f"the API server's answer is no JSON: {data[:200]!r}") from error
        return answer

    def _fenced(self, verb: str) -> AbstractContextManager[Write | None]:
        return contextlib.nullcontext() if self._fence is None or verb not in _METHODS else self._fence.write()


class _Transport(RESTClientObject):
    """The transport of ``kubernetes.aio``, over connections that give up what nobody takes.

    Where the network is cut, the kernel would go on trying to deliver a write for minutes, also after its connection
    was closed, and then somebody else may lead.
    """

    def __init__(self, configuration: Configuration, seconds_to_send: float) -> None:
        super().__init__(configuration)
        self._milliseconds = int(seconds_to_send * 1000)

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=self._socket)

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._milliseconds)
        return made


def _last_check() -> aiohttp.TraceConfig:
    """Ask again right before bytes leave.

    A write may have waited for a connection, and this process may have stood still. Between this question and the bytes
    is nothing to wait for, and some microseconds of work.
    """

    async def check(*_: Any) -> None:
        if (write := _sending.get()) is not None:
            write.check()
            write.sent = True

    # aiohttp calls this before it writes the body, and with that the headers: they leave in one piece.
    config = aiohttp.TraceConfig()
    config.on_request_chunk_sent.append(check)
    return config


def _proxy(host: str) -> str | None:
    url = urlsplit(host)
    return None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)


def _error(status: int, data: bytes, retry_after: str | None) -> ApiError:
    try:
        answer = json.loads(data)
        reason, message = answer.get("reason", ""), answer["message"]
    except (ValueError, KeyError, AttributeError, TypeError):
        reason, message = "", data.decode(errors="replace").strip()[:1000]
    return ApiError(status, reason, message, float(retry_after) if retry_after and retry_after.isdecimal() else None)
