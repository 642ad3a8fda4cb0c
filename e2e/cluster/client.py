"""A small synchronous client: plain JSON objects over HTTPS."""

import json
import ssl
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from e2e.cluster import kubeconfig
from e2e.cluster.wait import wait_for

Object = dict[str, Any]
"""A Kubernetes object, or any other JSON object of the API."""

_TIMEOUT = urllib3.Timeout(connect=5, read=60)
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


def has_condition(kind: str) -> Callable[[Object], bool]:
    """Return a function that tells whether an object has a condition and it is true."""

    def wanted(obj: Object) -> bool:
        conditions = (obj.get("status") or {}).get("conditions") or []
        return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)

    return wanted


class ApiError(Exception):
    """The API server refused a request.

    Attributes
    ----------
    status
        The HTTP status.
    reason
        Its machine-readable reason, such as ``NotFound``.
    message
        What it says, for people.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Client:
    """Talks to the API server of a kubeconfig. Can be used by several threads.

    Parameters
    ----------
    config
        Path of the kubeconfig.
    when_unreachable
        Called when the API server can't be reached; may raise an error that explains it.
    """

    def __init__(self, config: Path, when_unreachable: Callable[[], None] | None = None) -> None:
        access = kubeconfig.read(config)
        self.server = access.server
        self._when_unreachable = when_unreachable
        self._headers = {"Accept": "application/json", "User-Agent": "disaggregatedset-e2e"}
        if access.token:
            self._headers["Authorization"] = f"Bearer {access.token}"
        self._pool = urllib3.PoolManager(ssl_context=_ssl_context(access), maxsize=16, retries=False, timeout=_TIMEOUT)
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def request(
        self, method: str, path: str, body: Object | None = None, *, query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:  # fmt: skip
        """Make a request and return the JSON object of its answer, or ``{"text": ...}`` where it isn't one.

        Raises
        ------
        ApiError
            For any status of 400 and above.
        urllib3.exceptions.HTTPError
            If the API server can't be reached.
        """
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body)
        headers = {**self._headers, "Content-Type": content_type}
        try:
            response = self._pool.request(method, url, body=data, headers=headers)
        except urllib3.exceptions.HTTPError:
            if self._when_unreachable:
                self._when_unreachable()
            raise
        text = response.data.decode()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {"text": text}
        if response.status >= 400:
            raise ApiError(response.status, answer.get("reason", "Unknown"), answer.get("message", text))
        return answer if isinstance(answer, dict) else {"text": text}

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object:
        """Return an object."""
        return self.request("GET", self.path(api_version, kind, name, namespace))

    def find(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """Return an object, or None if it doesn't exist."""
        try:
            return self.get(api_version, kind, name, namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, api_version: str, kind: str, namespace: str | None = None, *, labels: str = "") -> list[Object]:
        """Return all objects of a kind, in one namespace or all, that match a label selector."""
        query = {"labelSelector": labels} if labels else None
        items: list[Object] = self.request("GET", self.path(api_version, kind, None, namespace), query=query)["items"]
        return items

    def create(self, obj: Object) -> Object:
        """Create an object."""
        metadata = obj["metadata"]
        return self.request("POST", self.path(obj["apiVersion"], obj["kind"], None, metadata.get("namespace")), obj)

    def apply(self, obj: Object, *, field_manager: str = "e2e", dry_run: bool = False) -> Object:
        """Apply an object on the server's side, overruling other managers."""
        query = {"fieldManager": field_manager, "force": "true"} | ({"dryRun": "All"} if dry_run else {})
        metadata = obj["metadata"]
        path = self.path(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))
        return self.request("PATCH", path, obj, query=query, content_type=_APPLY)

    def patch(self, api_version: str, kind: str, name: str, namespace: str | None, patch: Object) -> Object:
        """Change an object by a JSON merge patch."""
        return self.request("PATCH", self.path(api_version, kind, name, namespace), patch, content_type=_MERGE)

    def delete(
        self, api_version: str, kind: str, name: str, namespace: str | None = None, *, grace_seconds: int | None = None
    ) -> None:
        """Delete an object in the background; one that doesn't exist is fine."""
        options: Object = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self.request("DELETE", self.path(api_version, kind, name, namespace), options)
        except ApiError as error:
            if error.status != 404:
                raise

    def wait(
        self, api_version: str, kind: str, name: str, namespace: str | None, until: Callable[[Object], Any],
        *, timeout: float = 60,
    ) -> Object:  # fmt: skip
        """Return an object as soon as it exists and `until` returns something true for it."""
        seen: list[Object | None] = [None]

        def probe() -> Object | None:
            seen[0] = self.find(api_version, kind, name, namespace)
            return seen[0] if seen[0] and until(seen[0]) else None

        try:
            return wait_for(f"{kind} {name}", probe, timeout)
        except TimeoutError as error:
            status = seen[0] and seen[0].get("status")
            raise TimeoutError(f"{error}; its status: {json.dumps(status)}") from None

    def wait_gone(
        self, api_version: str, kind: str, name: str, namespace: str | None = None, *, timeout: float = 60
    ) -> None:
        """Return as soon as an object doesn't exist any more."""
        wait_for(f"{kind} {name} to go", lambda: not self.find(api_version, kind, name, namespace), timeout)

    def path(self, api_version: str, kind: str, name: str | None = None, namespace: str | None = None) -> str:
        """Return the URL path of an object, or where `name` is None of its collection."""
        plural, namespaced = self._resource(api_version, kind)
        path = _group_path(api_version)
        if namespaced and (namespace or name):
            path += f"/namespaces/{quote(namespace or 'default')}"
        return f"{path}/{plural}" + (f"/{quote(name)}" if name else "")

    def _resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        key = (api_version, kind)
        if key not in self._resources:
            for resource in self.request("GET", _group_path(api_version))["resources"]:
                if "/" not in resource["name"]:
                    self._resources[api_version, resource["kind"]] = (resource["name"], resource["namespaced"])
        if key not in self._resources:
            raise ApiError(404, "NotFound", f"the server has no {kind} in {api_version}")
        return self._resources[key]


def _group_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _ssl_context(access: kubeconfig.Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=access.authority)
    if access.certificate and access.key:
        # The ssl module takes a client's certificate only from a file.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(access.certificate + access.key)
            file.flush()
            context.load_cert_chain(file.name)
    return context
