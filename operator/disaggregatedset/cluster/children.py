"""Writing the children of an owner: only what differs, and never what belongs to somebody else."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.client import ApiError, Client
from disaggregatedset.cluster.compare import missing
from disaggregatedset.cluster.objects import SERVICE, Key, Kind, Object, controller_uid, is_terminating, key_of

log = logging.getLogger(__name__)

_CONFLICT: Final = 409

#: Field manager of what is handed over to others.
_HANDED_OVER: Final = "disaggregatedset-handed-over"


class NameConflictError(Exception):
    """An object of this name exists and belongs to somebody else."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a child.

    Attributes
    ----------
    created
        Whether it was not there before.
    drift
        The field that somebody else had changed; None: nobody had.
    """

    created: bool = False
    drift: str | None = None


_UNCHANGED: Final = Written()


class Children:
    """Applies and deletes children, and keeps the cache true with the answers.

    Parameters
    ----------
    client
        The API server.
    cache
        What is known of it.
    """

    def __init__(self, client: Client, cache: Cache) -> None:
        self._client = client
        self._cache = cache
        # A manifest that the API server stores in other words than ours would be applied for ever: remember what was
        # applied to which state of the object.
        self._applied: dict[tuple[Kind, Key], tuple[Any, Object]] = {}

    async def apply(self, kind: Kind, manifest: Object) -> Written:
        """Bring a child to what its manifest says.

        Parameters
        ----------
        kind
            The manifest's kind.
        manifest
            The whole manifest, with its controller in ``ownerReferences``.

        Raises
        ------
        NameConflictError
            If the object exists and its controller is not the manifest's.
        ApiError
            If the API server refuses the manifest, or does not answer. With status 409, the object has changed since it
            was cached: try again.
        """
        key = key_of(manifest)
        live = self._cache.get(kind, key)
        if live is None:
            await self._create(kind, key, manifest)
            return Written(created=True)
        self._check_controller(kind, key, manifest, live)
        path = self._difference(kind, key, manifest, live)
        if is_terminating(live) or path is None:
            return _UNCHANGED
        if kind == SERVICE and _is_headless(manifest) != _is_headless(live):
            await self.delete(kind, live)  # that can't be changed: it is made again when it is gone
            return _UNCHANGED
        based = {
            **manifest,
            "metadata": {**manifest["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]},
        }
        try:
            answer = await self._client.apply(kind, based)
        except ApiError as error:
            if error.status in {404, _CONFLICT}:
                await self._look_again(kind, key, controller_uid(manifest))
            raise
        self._remember(kind, key, manifest, answer)
        known = live["metadata"].get("annotations") or {}
        asked_before = all(known.get(name) == value for name, value in manifest["metadata"]["annotations"].items())
        return Written(drift=path if asked_before else None)

    async def apply_status(self, kind: Kind, obj: Object, status: Object) -> None:
        """Write the status of an object as it is known.

        Raises
        ------
        ApiError
            If the API server does not answer. With status 409, the object has changed since it was cached: try again.
        """
        manifest = _part(kind, obj, status=status)
        try:
            self._cache.store(kind, await self._client.apply(kind, manifest, subresource="status"))
        except ApiError as error:
            if error.status == 404:
                self._cache.evict(kind, key_of(obj))
            raise

    async def hand_over(self, kind: Kind, obj: Object, spec: Object) -> None:
        """Have fields of a spec owned by nobody who will apply them again, so that leaving them out keeps their values.

        Raises
        ------
        ApiError
            If the API server does not answer. With status 409, the object has changed since it was cached: try again.
        """
        self._cache.store(kind, await self._client.apply(kind, _part(kind, obj, spec=spec), manager=_HANDED_OVER))

    async def look_again(self, kind: Kind, manifest: Object) -> None:
        """Read a child of which no watch may tell.

        Raises
        ------
        ApiError
            If the API server does not answer.
        """
        await self._look_again(kind, key_of(manifest), controller_uid(manifest))

    def differs(self, kind: Kind, manifest: Object) -> bool:
        """Whether a manifest would change anything."""
        key = key_of(manifest)
        live = self._cache.get(kind, key)
        return live is None or self._difference(kind, key, manifest, live) is not None

    async def dry_run(self, kind: Kind, manifest: Object) -> Object:
        """Have the API server check and default a manifest without storing it.

        Raises
        ------
        NameConflictError
            If the object exists and its controller is not the manifest's.
        ApiError
            If the API server refuses the manifest, or does not answer.
        """
        key = key_of(manifest)
        live = self._cache.get(kind, key)
        if live is not None:
            self._check_controller(kind, key, manifest, live)
            return await self._client.apply(kind, manifest, dry_run=True)
        try:
            return await self._client.create(kind, manifest, dry_run=True)
        except ApiError as error:
            await self._explain(error, kind, key, manifest)
            raise

    async def delete(self, kind: Kind, obj: Object) -> None:
        """Delete a child as it is known, unless that is under way.

        Raises
        ------
        ApiError
            If the API server does not answer. With status 409, the object has changed since it was cached: try again.
        """
        key = key_of(obj)
        if is_terminating(obj):
            return
        try:
            if await self._client.delete(kind, obj):
                self._cache.delete(kind, obj)  # a watch that has yet to begin would never tell
        except ApiError as error:
            if error.status == _CONFLICT:
                await self._look_again(kind, key, controller_uid(obj))
            if error.status != 404:
                raise
            self._cache.evict(kind, key)
        self._applied.pop((kind, key), None)

    async def _create(self, kind: Kind, key: Key, manifest: Object) -> None:
        try:
            # Not forced: where an object of this name exists that the cache doesn't know, its owner's fields conflict.
            answer = await self._client.apply(kind, manifest, force=False)
        except ApiError as error:
            await self._explain(error, kind, key, manifest)
            raise
        self._check_controller(kind, key, manifest, answer)
        self._remember(kind, key, manifest, answer)

    async def _explain(self, error: ApiError, kind: Kind, key: Key, manifest: Object) -> None:
        if error.status in {_CONFLICT, 422}:
            live = await self._look_again(kind, key, controller_uid(manifest))
            if live is not None:
                self._check_controller(kind, key, manifest, live)

    def _remember(self, kind: Kind, key: Key, manifest: Object, answer: Object) -> None:
        self._cache.store(kind, answer)
        if path := next(missing(manifest, answer), None):
            log.debug("%s %s: the API server stores %s in other words", kind.name, key, path)
            self._applied[kind, key] = (_state(answer), manifest)
        else:
            self._applied.pop((kind, key), None)

    def _difference(self, kind: Kind, key: Key, manifest: Object, live: Object) -> str | None:
        if self._applied.get((kind, key)) == (_state(live), manifest):
            return None
        return next(missing(manifest, live), None)

    async def _look_again(self, kind: Kind, key: Key, uid: str | None) -> Object | None:
        try:
            live = await self._client.get(kind, key.name, key.namespace)
        except ApiError as error:
            if error.status != 404:
                raise
            self._cache.evict(kind, key)
            return None
        if controller_uid(live) is not None and controller_uid(live) == uid:
            self._cache.store(kind, live)
        else:  # no watch would tell when it goes
            self._cache.evict(kind, key)
        return live

    @staticmethod
    def _check_controller(kind: Kind, key: Key, manifest: Object, live: Object) -> None:
        if controller_uid(live) != controller_uid(manifest):
            raise NameConflictError(
                f"{kind.name} {key.name} exists in namespace {key.namespace} and does not belong to this set: "
                "delete or rename it, or rename the set"
            )


def _part(kind: Kind, obj: Object, **fields: Object) -> Object:
    metadata = {field: obj["metadata"][field] for field in ("name", "namespace", "resourceVersion")}
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, **fields}


def _state(obj: Object) -> Any:
    """Return what a change of anything but the status changes."""
    metadata = obj["metadata"]
    version = metadata.get("generation") or metadata["resourceVersion"]
    return metadata["uid"], version, metadata.get("labels"), metadata.get("annotations")


def _is_headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")
