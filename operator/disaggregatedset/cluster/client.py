"""Requests to the API server, over the transport and the authentication of ``kubernetes.aio``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException

from disaggregatedset.cluster.objects import Kind, Object

#: Called after each request with verb, kind, HTTP status (0: no answer) and seconds.
Observer = Callable[[str, str, int, float], None]


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


class Client:
    """A client of one API server.

    Parameters
    ----------
    configuration
        Address and credentials.
    manager
        The field manager of everything that is written.
    timeout
        Of each request, in seconds.
    concurrency
        How many requests may be under way at once.
    observer
        Told about each request.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        manager: str,
        timeout: float = 30.0,
        concurrency: int = 64,
        observer: Observer | None = None,
    ) -> None:
        configuration.connection_pool_maxsize = concurrency
        # aiohttp would look for proxies in the environment at each request, in a thread.
        configuration.proxy = configuration.proxy or _proxy(configuration.host)
        configuration.client_session_kwargs = {"trust_env": False}
        self._api = ApiClient(configuration)
        self._api.user_agent = manager
        self._manager = manager
        self._timeout = timeout
        self._observer = observer

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

    async def credentials(self) -> dict[str, Any]:
        """Return address and credentials as they are now, by the names that ``kopf.ConnectionInfo`` has for them."""
        configuration = self._api.configuration
        authorization = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        scheme, _, token = (authorization or "").partition(" ")
        return {
            "server": configuration.host,
            "ca_path": configuration.ssl_ca_cert,
            "ca_data": configuration.ca_cert_data,
            "insecure": not configuration.verify_ssl,
            "scheme": scheme or None,
            "token": token or None,
            "certificate_path": configuration.cert_file,
            "private_key_path": configuration.key_file,
            "proxy_url": configuration.proxy,
        }

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

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
        self, kind: Kind, manifest: Object, *, force: bool = True, dry_run: bool = False, subresource: str | None = None
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
        """
        metadata = manifest["metadata"]
        query = {"fieldManager": self._manager, "force": str(force).lower()}
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
        method = {"apply": "PATCH", "create": "POST", "delete": "DELETE"}.get(verb, "GET")
        status, started = 0, time.monotonic()
        try:
            request = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                auth_settings=["BearerToken"],
            )
            # The body stays as it is: serialising it there would copy it for nothing.
            response = await self._api.call_api(*request[:3], body=body, _request_timeout=self._timeout)
            data = await response.read()
            status = response.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ApiError(0, type(error).__name__, f"the API server did not answer: {error!r}") from error
        except ConfigException as error:  # a token that can't be read just now
            raise ApiError(0, type(error).__name__, f"no credentials: {error}") from error
        finally:
            if self._observer is not None:
                self._observer(verb, kind.plural, status, time.monotonic() - started)
        if status >= 400:
            raise _error(status, data, response.headers.get("Retry-After"))
        try:
            answer: Object = json.loads(data)
        except ValueError as error:
            raise ApiError(0, "NoJSON", f"the API server's answer is no JSON: {data[:200]!r}") from error
        return answer


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
