"""A small API server on a loopback port, so that tests break what breaks in real life: the other end of a connection.

It keeps objects with resource versions, uids and generations, and knows as much of server-side apply as the operator
relies on: merging, conflicts with other managers' fields, fields that go when their last manager leaves them out,
resource versions as preconditions, dry runs.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from disaggregatedset.cluster.client import Client

Object = dict[str, Any]
MANAGER = "disaggregatedset"


#: Who manages each field of an object.
_Managers = dict[tuple[str, ...], frozenset[str]]


class Request(NamedTuple):
    """A request that was answered."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class RefusedError(Exception):
    """Answer with an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.response = status_of(status, reason, message)


def status_of(status: int, reason: str, message: str, **headers: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return web.json_response(
        body | {"code": status}, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


class FakeApiServer:
    """See the module's docstring.

    Attributes
    ----------
    requests
        All requests, in order.
    answers
        What the next requests are answered with instead of what they ask for; None: as asked.
    mutate
        Changes objects before they are stored, as defaulting and admission do.
    stuck
        Requests wait while this is cleared.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[web.StreamResponse | Callable[[web.Request], Any] | None] = []
        self.mutate: Callable[[Object], None] = lambda _: None
        self.stuck = asyncio.Event()
        self.stuck.set()
        self.objects: dict[str, Object] = {}
        self._managers: dict[str, _Managers] = {}
        self._versions = itertools.count(1)
        self.version = 0
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._server = TestServer(app, host="127.0.0.1")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeApiServer]:
        await self._server.start_server()
        try:
            yield self
        finally:
            await self.stop()

    async def stop(self) -> None:
        self.stuck.set()
        await self._server.close()

    def client(self, **options: Any) -> Client:
        configuration = Configuration(host=str(self._server.make_url("")).rstrip("/"))
        return Client(configuration, manager=MANAGER, **options)

    # What tests do behind the operator's back.

    def put(self, path: str, obj: Object, manager: str = "kubectl") -> Object:
        """Create or replace an object, all of it owned by a manager."""
        return copy.deepcopy(self._save(path, copy.deepcopy(obj), manager, _managed(obj, manager)))

    def edit(self, path: str, change: Callable[[Object], None], manager: str = "kubectl") -> Object:
        """Change an object; what is changed is owned by the manager."""
        before = self.objects[path]
        after = copy.deepcopy(before)
        change(after)
        leaves = _leaves(before)
        own = frozenset({manager})
        managers = self._managers[path] | {leaf: own for leaf, v in _leaves(after).items() if leaves.get(leaf) != v}
        return copy.deepcopy(self._save(path, after, manager, managers))

    def remove(self, path: str) -> Object:
        """Delete an object, and return it as its last watch event would."""
        gone = self.objects.pop(path)
        gone["metadata"]["resourceVersion"] = self._next()
        return gone

    def writes(self) -> list[str]:
        """Return method and path of all requests that ask for a change."""
        return [f"{r.method} {r.path}" for r in self.requests if r.method != "GET" and "dryRun" not in r.query]

    # What it does with requests.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        self.requests.append(Request(request.method, request.path, dict(request.query), dict(request.headers), body))
        await self.stuck.wait()
        if self.answers and (answer := self.answers.pop(0)) is not None:
            if isinstance(answer, web.StreamResponse):
                return answer
            response: web.StreamResponse = await answer(request)
            return response
        try:
            match request.method:
                case "GET":
                    return web.json_response(self._read(request.path, request.query.get("labelSelector")))
                case "PATCH":
                    return web.json_response(self._apply(request.path, body, dict(request.query)))
                case "PUT":
                    return web.json_response(self._replace(request.path, body))
                case "POST":
                    return web.json_response(self._create(request.path, body, dict(request.query)))
                case _:
                    return web.json_response(self._delete(request.path, body["preconditions"]))
        except RefusedError as refusal:
            return refusal.response

    def _next(self) -> str:
        self.version = next(self._versions)
        return str(self.version)

    def _read(self, path: str, selector: str | None) -> Any:
        if path in self.objects:
            return self.objects[path]
        *start, last = path.split("/")
        if last[-1].isdigit() and len(start) <= 3:  # /apis/<group>/<version>, /api/v1
            plurals = {p.removeprefix(f"{path}/").split("/")[-2] for p in self.objects if p.startswith(f"{path}/")}
            if not plurals:
                raise RefusedError(404, "NotFound", f"no {path}")
            return {"resources": [{"name": plural} for plural in sorted(plurals)]}
        if not last.endswith("s") or last == "default":
            raise RefusedError(404, "NotFound", f"{last} not found")
        listed = [o for p, o in sorted(self.objects.items()) if self._collection(p, path) and _matches(o, selector)]
        items = [{k: v for k, v in obj.items() if k not in {"apiVersion", "kind"}} for obj in listed]
        return {"kind": "List", "metadata": {"resourceVersion": str(self.version)}, "items": items}

    @staticmethod
    def _collection(path: str, of: str) -> bool:
        parent, _, _ = path.rpartition("/")
        if parent == of:
            return True
        start, _, plural = of.rpartition("/")
        return parent.startswith(f"{start}/namespaces/") and parent.endswith(f"/{plural}")

    def _create(self, collection: str, body: Object, query: dict[str, str]) -> Object:
        path = f"{collection}/{body['metadata']['name']}"
        if path in self.objects:
            raise RefusedError(409, "AlreadyExists", f"{path} already exists")
        made = copy.deepcopy(body) | {"metadata": body["metadata"] | {"uid": f"uid-{self._next()}"}}
        self.mutate(made)
        return made if "dryRun" in query else self._save(path, made, MANAGER, {})

    def _replace(self, path: str, body: Object) -> Object:
        if path not in self.objects:
            raise RefusedError(404, "NotFound", f"{path} not found")
        version = body["metadata"].get("resourceVersion")
        if version is not None and version != self.objects[path]["metadata"]["resourceVersion"]:
            raise RefusedError(409, "Conflict", "the object has been modified; please try again")
        return self._save(path, copy.deepcopy(body), MANAGER, _managed(body, MANAGER))

    def _apply(self, path: str, manifest: Object, query: dict[str, str]) -> Object:
        subresource = path.endswith("/status")
        path = path.removesuffix("/status")
        if subresource and path not in self.objects:
            raise RefusedError(404, "NotFound", f"{path} not found")
        live = self.objects.get(path, {})
        version = manifest["metadata"].get("resourceVersion")
        if version is not None and not live:
            raise RefusedError(404, "NotFound", f"{path} not found")
        if version is not None and version != live["metadata"]["resourceVersion"]:
            raise RefusedError(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        wanted = {"status": manifest["status"]} if subresource else manifest
        owned, have = _leaves(wanted), _leaves(live)
        managers, manager = self._managers.get(path, {}), query["fieldManager"]
        theirs = [
            ".".join(leaf)
            for leaf, value in owned.items()
            if leaf in have and have[leaf] != value and managers.get(leaf, frozenset()) - {manager}
        ]
        if theirs and query["force"] == "false":
            raise RefusedError(409, "Conflict", f"conflict with kubectl: {theirs[0]}")
        # Nobody else writes a status here, so what is left out of it is given up.
        merged: Object = copy.deepcopy(live | wanted) if subresource else _merge(live, wanted)
        merged.setdefault("metadata", {}).setdefault("uid", f"uid-{path.rpartition('/')[2]}")
        owners = [o["uid"] for o in merged["metadata"].get("ownerReferences", []) if o.get("controller")]
        if len(owners) > 1:
            raise RefusedError(
                422, "Invalid", "metadata.ownerReferences: only one reference can have controller set to true"
            )
        managers = dict(managers)
        for leaf, by in list(managers.items()):
            if manager in by and leaf not in owned and not subresource:
                managers[leaf] = by - {manager}
                if not managers[leaf]:
                    del managers[leaf]
                    _remove(merged, leaf)
        for leaf, value in owned.items():
            managers[leaf] = frozenset({manager}) | (
                managers.get(leaf, frozenset()) if have.get(leaf) == value else frozenset()
            )
        self.mutate(merged)
        if "dryRun" in query:
            return merged
        return self._save(path, merged, manager, managers)

    def _save(self, path: str, obj: Object, manager: str, managers: _Managers) -> Object:
        before = self.objects.get(path)
        if before is not None and _versionless(before) == _versionless(obj) and self._managers[path] == managers:
            return before
        metadata = obj["metadata"]
        metadata.setdefault("uid", f"uid-{path.rpartition('/')[2]}")
        changed = before is None or before.get("spec") != obj.get("spec")
        metadata["generation"] = metadata.get("generation", 0) + changed
        metadata["resourceVersion"] = self._next()
        metadata["managedFields"] = [{"manager": manager}]
        self.objects[path], self._managers[path] = obj, managers
        return obj

    def _delete(self, path: str, preconditions: Object) -> Object:
        if path not in self.objects:
            raise RefusedError(404, "NotFound", f"{path} not found")
        metadata = self.objects[path]["metadata"]
        if any(metadata[field] != value for field, value in preconditions.items()):
            raise RefusedError(409, "Conflict", "the precondition does not hold")
        return {"kind": "Status", "status": "Success", "details": self.remove(path)["metadata"]}


def _versionless(obj: Object) -> Object:
    ignored = {"resourceVersion", "managedFields", "generation"}
    return obj | {"metadata": {k: v for k, v in obj["metadata"].items() if k not in ignored}}


def _matches(obj: Object, selector: str | None) -> bool:
    if selector is None:
        return True
    key, _, value = selector.partition("=")
    labels = obj["metadata"].get("labels") or {}
    return key in labels and (not value or labels[key] == value)


def _leaves(value: Any) -> dict[tuple[str, ...], Any]:
    def walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if isinstance(value, dict):
            for key, child in value.items():
                if path or key not in {"apiVersion", "kind"}:
                    yield from walk(child, (*path, key))
        else:
            yield path, json.dumps(value)

    ignored = {("metadata", field) for field in ("name", "namespace", "uid", "resourceVersion", "generation")}
    return {path: leaf for path, leaf in walk(value, ()) if path[:2] not in ignored}


def _managed(obj: Object, manager: str) -> _Managers:
    return dict.fromkeys(_leaves(obj), frozenset({manager}))


def _remove(obj: Object, leaf: tuple[str, ...]) -> None:
    *parents, last = leaf
    for step in parents:
        obj = obj.get(step) or {}
    obj.pop(last, None)


def _merge(live: Any, wanted: Any) -> Any:
    if isinstance(live, dict) and isinstance(wanted, dict):
        merged = copy.deepcopy(live)
        for key, value in wanted.items():
            if key != "resourceVersion":
                merged[key] = _merge(live.get(key), value)
        return merged
    for name in ("uid", "name"):
        if (
            isinstance(live, list)
            and isinstance(wanted, list)
            and all(isinstance(e, dict) and name in e for e in [*live, *wanted])
        ):
            have, want = ({entry[name]: entry for entry in entries} for entries in (live, wanted))
            return [
                _merge(have.get(key), want.get(key, have.get(key)))
                for key in [*have, *(k for k in want if k not in have)]
            ]
    return copy.deepcopy(wanted)
