"""The controller: workers that reconcile sets from the queue, and a resync that finds what watches have missed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache, Projection
from disaggregatedset.cluster.client import ApiError, Client, NotLeaderError
from disaggregatedset.cluster.objects import Key, Kind, Object, key_of
from disaggregatedset.reconcile.reconciler import Reconciler
from disaggregatedset.reconcile.view import ROLE_SCALER, SET
from disaggregatedset.render import SET_LABEL
from disaggregatedset.runtime import logs, metrics
from disaggregatedset.runtime.health import Vitals
from disaggregatedset.runtime.queue import WorkQueue

log = logging.getLogger(__name__)

_NAME: Final = "disaggregatedset"
_NAMED: Final = 5
#: When the API server is back, sets shall not wait for long; some requests of each may have been carried out meanwhile.
_LONGEST_SECONDS_OF_TROUBLE: Final = 15.0
_LONGEST_SECONDS_BETWEEN_LISTS: Final = 30.0
#: When one watch starts anew, others do so too: the resync waits for them.
_SECONDS_TO_SETTLE: Final = 5.0


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
    ROLE_SCALER: _generation,
    objects.AUTOSCALER: _whole,
    objects.INFERENCE_POOL: _generation,
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
    namespaces
        Those whose sets are looked after; none: all.
    elected
        Whether sets are reconciled only while this is `leading`; else they always are.
    vitals
        Told how resyncs and watches are doing.
    """

    def __init__(
        self,
        client: Client,
        cache: Cache,
        queue: WorkQueue[Key],
        reconciler: Reconciler,
        *,
        namespaces: Sequence[str] = (),
        elected: bool = False,
        vitals: Vitals | None = None,
    ) -> None:
        self._client = client
        self._cache = cache
        self._queue = queue
        self._reconciler = reconciler
        self._namespaces = tuple(namespaces)
        self._vitals = vitals or Vitals(float("inf"))
        self._listing = asyncio.Lock()
        self._leads = asyncio.Event()
        if not elected:
            self._leads.set()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._dropped: set[Key] = set()
        self._troubles = logs.Troubles(log, "the API server answers again")
        self._resync_wanted = asyncio.Event()
        #: Set when everything has been listed once.
        self.synced = asyncio.Event()

    def observe(self, kind: Kind, event_type: str | None, obj: Object) -> None:
        """Take in a watch event, and queue the sets that it concerns."""
        self._vitals.seen(*self._watch_of(kind, obj))
        if kind is objects.INFERENCE_POOL:
            self._reconciler.router.watched = True
        before = self._cache.get(kind, key_of(obj))
        deleted = event_type == "DELETED"
        if self._cache.delete(kind, obj) if deleted else self._cache.store(kind, obj):
            self._enqueue(kind, obj)
            if before is not None:  # its label may have named another set
                self._enqueue(kind, before)

    def serves(self, kind: Kind) -> bool:
        """Whether the API server serves a kind; those of DRA and of InferencePools are not there on every cluster."""
        if kind is objects.INFERENCE_POOL:
            return self._reconciler.router.served
        return self._reconciler.dra_served or kind.group != objects.CLAIM.group

    async def resync(self) -> None:
        """List everything, and queue all sets.

        Raises
        ------
        ApiError
            If the API server does not answer.
        """
        async with self._listing:
            await self._resync()

    async def _resync(self) -> None:
        self._reconciler.dra_served = await self._client.serves(objects.CLAIM_TEMPLATE)
        self._reconciler.router.served = await self._client.serves(objects.INFERENCE_POOL)
        for kind in WATCHED:
            if not self.serves(kind):
                continue
            listed, version = await self._list(kind)
            missed = self._cache.replace(kind, listed, version)
            self._vitals.progress()
            if missed and self.synced.is_set():
                metrics.MISSED.labels(kind.plural).inc(len(missed))
                log.warning("watches have missed changes of %s: %s", kind.plural, _names(missed))
                # What has vanished is not held against a watch: after it had to start anew, it does not tell of that.
                there = [obj for obj in missed if self._cache.get(kind, key_of(obj)) is not None]
                for watch in {self._watch_of(kind, obj) for obj in there}:
                    self._vitals.missed(*watch)
        self.synced.set()
        if self._leads.is_set():
            for obj in self._cache.all(SET):
                self._queue.add(key_of(obj))

    async def _list(self, kind: Kind) -> tuple[list[Object], int]:
        """List all objects of a kind that are looked after, and return of which version the list is at least."""
        selector = None if kind in {SET, objects.DEVICE_CLASS} else SET_LABEL
        places = self._namespaces if kind.namespaced and self._namespaces else (None,)
        answers = [await self._client.list(kind, place, label_selector=selector) for place in places]
        return [obj for listed, _ in answers for obj in listed], min(version for _, version in answers)

    def _watch_of(self, kind: Kind, obj: Object) -> tuple[str, str]:
        """Return what names the watch that tells of an object."""
        return kind.plural, obj["metadata"].get("namespace", "") if self._namespaces else ""

    async def keep_in_sync(self, seconds: float) -> None:
        """Resync now and then for ever; when the API server does not answer, try again soon."""
        while True:
            await self._resync_in_the_end()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._resync_wanted.wait(), seconds)
                await asyncio.sleep(min(seconds, _SECONDS_TO_SETTLE))
            self._resync_wanted.clear()

    def resync_soon(self) -> None:
        """Have the next resync soon: a watch had to start anew, and doesn't tell of what has vanished meanwhile."""
        self._resync_wanted.set()

    async def _resync_in_the_end(self) -> None:
        backoff = 1.0
        while True:
            try:
                return await self.resync()
            except ApiError as error:
                hint = "; is the CRD installed?" if error.status == 404 else ""
                backoff = max(backoff, error.retry_after or 0.0)
                log.warning("can't list everything: %s%s; next try in %.0f s", error, hint, backoff)
            except Exception:
                log.exception("can't list everything; next try in %.0f s", backoff)
            self._vitals.progress()
            await asyncio.sleep(backoff)
            backoff = min(_LONGEST_SECONDS_BETWEEN_LISTS, backoff * 2)

    @asynccontextmanager
    async def leading(self, begin: Callable[[], None]) -> AsyncIterator[None]:
        """Reconcile sets during the block, from when everything is known that others have written.

        What this process remembers from when it led before does no harm: Looks and Pace keep moments that are over by
        then, diagnoses are as old as a look at most, and Children remember what was applied to which state of an
        object, which is true whoever leads. Delays and backoffs of sets are dropped.

        Parameters
        ----------
        begin
            Called right before the first set is reconciled.
        """
        await self._idle.wait()  # what a reconcile has decided as long ago as that must not be written now
        await self._resync_in_the_end()
        self._dropped |= self._queue.clear()
        begin()
        self._leads.set()
        # Those that have gone too, for the reconciler to forget.
        for key in {*self._dropped, *map(key_of, self._cache.all(SET))}:
            self._queue.add(key)
        self._dropped = set()
        try:
            yield
        finally:
            self._leads.clear()
            self._dropped = {*self._queue.clear(), *map(key_of, self._cache.all(SET))}

    async def rest(self, seconds: float) -> None:
        """Begin no more reconciles, and give those that are under way some time to end."""
        self._leads.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    async def work(self) -> None:
        """Reconcile sets from the queue for ever, while this process leads."""
        while True:
            await self._leads.wait()
            key = await self._queue.get()
            self._busy += 1
            self._idle.clear()
            try:
                with logs.about(set=str(key), reconcile_id=uuid.uuid4().hex[:8]):
                    await self._work_on(key)
            finally:
                self._busy -= 1
                if not self._busy:
                    self._idle.set()
                self._queue.done(key)
                if not self._leads.is_set():
                    self._dropped |= self._queue.clear()

    async def _work_on(self, key: Key) -> None:
        started = time.monotonic()
        metrics.ACTIVE_WORKERS.labels(_NAME).inc()
        try:
            result = await self._reconciler.reconcile(key)
        except NotLeaderError as error:
            self._queue.retry(key)
            outcome = "error"
            log.info("%s: %s", key, error)
        except ApiError as error:
            at_most = _LONGEST_SECONDS_OF_TROUBLE if error.trouble else float("inf")
            delay = self._queue.retry(key, at_least=error.retry_after or 0.0, at_most=at_most)
            outcome = "error"
            what = "%s: %s; next try in %.1f s", key, error, delay
            if error.trouble:
                self._troubles.failed(str(key), str(error.status), *what)
            else:
                log.log(logging.DEBUG if error.status == 409 else logging.WARNING, *what)
        except Exception:
            delay = self._queue.retry(key)
            outcome = "error"
            log.exception("%s: reconcile failed; next try in %.1f s", key, delay)
        else:
            outcome = "success"
            self._troubles.well(str(key))
            if result.failed:
                self._queue.retry(key)
                if result.again_after:  # what was accepted before goes on meanwhile
                    self._queue.add_after(key, result.again_after)
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
        if not self._leads.is_set():  # all sets are queued when it does
            return
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
