"""The controller: workers that reconcile sets from the queue, and a resync that finds what watches have missed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache, Projection
from disaggregatedset.cluster.client import ApiError, Client
from disaggregatedset.cluster.objects import Key, Kind, Object, key_of
from disaggregatedset.reconcile.reconciler import Reconciler
from disaggregatedset.reconcile.view import SET
from disaggregatedset.render import SET_LABEL
from disaggregatedset.runtime import metrics
from disaggregatedset.runtime.queue import WorkQueue

log = logging.getLogger(__name__)

_NAME: Final = "disaggregatedset"
_NAMED: Final = 5


def _metadata(obj: Object) -> Any:
    metadata = obj["metadata"]
    fields = ("uid", "labels", "annotations", "ownerReferences", "deletionTimestamp")
    return [metadata.get(field) for field in fields]


def _whole(obj: Object) -> Any:
    return _metadata(obj), {field: value for field, value in obj.items() if field not in {"metadata", "status"}}


def _generation(obj: Object) -> Any:
    return _metadata(obj), obj["metadata"]["generation"]


def _deployment(obj: Object) -> Any:
    status = obj.get("status") or {}
    failures = [c for c in status.get("conditions") or [] if c["type"] == "ReplicaFailure"]
    fields = ("observedGeneration", "replicas", "readyReplicas", "terminatingReplicas")
    counts = [status.get(field) for field in fields]
    return _generation(obj), counts, failures


def _claim(obj: Object) -> Any:
    return _metadata(obj), bool((obj.get("status") or {}).get("allocation"))


#: The kinds that are watched, and what of their objects matters to a set.
WATCHED: Final[dict[Kind, Projection]] = {
    SET: _generation,
    objects.DEPLOYMENT: _deployment,
    objects.CONTROLLER_REVISION: _whole,
    objects.SERVICE: _whole,
    objects.DISRUPTION_BUDGET: _generation,
    objects.CLAIM_TEMPLATE: _whole,
    objects.CLAIM: _claim,
    objects.DEVICE_CLASS: _metadata,
}


class Controller:
    """Keeps all sets as their specs say.

    Parameters
    ----------
    client
        The API server.
    cache
        What is known of it.
    queue
        The sets that are to be looked at.
    reconciler
        Reconciles one of them.
    """

    def __init__(self, client: Client, cache: Cache, queue: WorkQueue[Key], reconciler: Reconciler) -> None:
        self._client = client
        self._cache = cache
        self._queue = queue
        self._reconciler = reconciler
        #: Set when everything has been listed once.
        self.synced = asyncio.Event()

    def observe(self, kind: Kind, event_type: str | None, obj: Object) -> None:
        """Take in a watch event, and queue the sets that it concerns."""
        before = self._cache.get(kind, key_of(obj))
        deleted = event_type == "DELETED"
        if self._cache.delete(kind, obj) if deleted else self._cache.store(kind, obj):
            self._enqueue(kind, obj)
            if before is not None:  # its label may have named another set
                self._enqueue(kind, before)

    def serves(self, kind: Kind) -> bool:
        """Whether the API server serves a kind; those of DRA are not there on every cluster."""
        return self._reconciler.dra_served or kind.group != objects.CLAIM.group

    async def resync(self) -> None:
        """List everything, and queue all sets.

        Raises
        ------
        ApiError
            If the API server does not answer.
        """
        self._reconciler.dra_served = await self._client.serves(objects.CLAIM_TEMPLATE)
        for kind in WATCHED:
            if not self.serves(kind):
                continue
            selector = None if kind in {SET, objects.DEVICE_CLASS} else SET_LABEL
            listed, version = await self._client.list(kind, label_selector=selector)
            missed = self._cache.replace(kind, listed, version)
            if missed and self.synced.is_set():
                metrics.MISSED.labels(kind.plural).inc(len(missed))
                log.warning("watches have missed changes of %s: %s", kind.plural, _names(missed))
        self.synced.set()
        for obj in self._cache.all(SET):
            self._queue.add(key_of(obj))

    async def keep_in_sync(self, seconds: float) -> None:
        """Resync now and then for ever; when the API server does not answer, try again soon."""
        backoff = 1.0
        while True:
            try:
                await self.resync()
            except ApiError as error:
                hint = "; is the CRD installed?" if error.status == 404 else ""
                log.warning("can't list everything: %s%s; next try in %.0f s", error, hint, backoff)
                await asyncio.sleep(backoff)
                backoff = min(60.0, backoff * 2)
            except Exception:
                log.exception("can't list everything; next try in %.0f s", backoff)
                await asyncio.sleep(backoff)
                backoff = min(60.0, backoff * 2)
            else:
                backoff = 1.0
                await asyncio.sleep(seconds)

    async def work(self) -> None:
        """Reconcile sets from the queue for ever."""
        while True:
            key = await self._queue.get()
            try:
                await self._work_on(key)
            finally:
                self._queue.done(key)

    async def _work_on(self, key: Key) -> None:
        started = time.monotonic()
        metrics.ACTIVE_WORKERS.labels(_NAME).inc()
        try:
            result = await self._reconciler.reconcile(key)
        except ApiError as error:
            delay = self._queue.retry(key, at_least=error.retry_after or 0.0)
            outcome, level = "error", logging.DEBUG if error.status == 409 else logging.WARNING
            log.log(level, "%s: %s; next try in %.1f s", key, error, delay)
        except Exception:
            delay = self._queue.retry(key)
            outcome = "error"
            log.exception("%s: reconcile failed; next try in %.1f s", key, delay)
        else:
            outcome = "success"
            if result.failed:
                self._queue.retry(key)
            else:
                self._queue.forget(key)
                if result.again_after is not None:
                    self._queue.add_after(key, result.again_after)
                    outcome = "requeue_after"
        finally:
            metrics.ACTIVE_WORKERS.labels(_NAME).dec()
            metrics.RECONCILE_SECONDS.labels(_NAME).observe(time.monotonic() - started)
        metrics.RECONCILES.labels(_NAME, outcome).inc()

    def _enqueue(self, kind: Kind, obj: Object) -> None:
        if kind is SET:
            self._queue.add(key_of(obj))
        elif kind is objects.DEVICE_CLASS:  # a set may wait for it
            for dset in self._cache.all(SET):
                self._queue.add(key_of(dset))
        elif (owner := self._cache.owner(obj)) is not None:
            self._queue.add(owner)


def _names(found: list[Object]) -> str:
    named = ", ".join(str(key_of(obj)) for obj in found[:_NAMED])
    return named if len(found) <= _NAMED else f"{named} and {len(found) - _NAMED} more"
