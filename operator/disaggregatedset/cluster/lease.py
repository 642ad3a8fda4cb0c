"""Leader election by a Lease (``coordination.k8s.io/v1``), and the fence that keeps everybody else from writing.

The record in the Lease is client-go's. No two clocks are ever compared: a holder counts from the moment before it sent
its last renewal, and a standby from the moment at which it first saw that renewal, which is later. So, with clocks that
run equally fast but for a small margin, and for a lease of 15 s that is renewed within 10 s:

- a holder sends no write later than 10 s after it sent its last renewal, and gives up those that are under way (here,
  in the kernel and at the API server) 15 s after it;
- a standby takes the lease when it has seen no renewal for 15 s and the margin.

It follows that no write of a holder is under way when somebody else takes the lease.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from disaggregatedset.cluster.client import ApiError, NotLeaderError
from disaggregatedset.cluster.objects import LEASE, Kind, Object

log = logging.getLogger(__name__)

#: How much longer than the lease a standby waits, as a part of it: for clocks that don't run equally fast.
MARGIN: Final = 0.05
#: A lease that was released is taken within this time, and a bit.
_MOST_SECONDS_BETWEEN_LOOKS: Final = 1.0
_RELEASE_TRIES: Final = 3
_LEAST_WAIT_SECONDS: Final = 0.001
_CONFLICT: Final = 409

# Goes on while this process is stopped and, where there is such a clock, while its host is suspended.
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Return seconds that never go back and never stand still."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Election:
    """What is elected, and by which rules.

    Attributes
    ----------
    name, namespace
        Of the Lease.
    identity
        Names this process, and no other.
    duration
        For how many seconds nobody else takes the lease after a renewal.
    renew_deadline
        For how many seconds after a renewal writes may start; what is left of the duration is theirs to end in.
    retry_period
        Seconds between renewals.
    """

    name: str
    namespace: str
    identity: str
    duration: int = 15
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Fence:
    """Lets writes through while the lease is surely held. For one event loop.

    Parameters
    ----------
    election
        How long a renewal holds.
    now
        Seconds that never go back.
    """

    def __init__(self, election: Election, now: Callable[[], float] = clock) -> None:
        self._duration = election.duration
        self._renew_deadline = election.renew_deadline
        self._now = now
        self._renewed = float("-inf")
        self._term = 0
        self._open = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._unknown_until = float("-inf")

    @property
    def seconds_left(self) -> float:
        """For how long writes may still start unless the lease is renewed."""
        return max(0.0, self._renewed + self._renew_deadline - self._now())

    @property
    def is_open(self) -> bool:
        """Whether a write may start now."""
        return self._open and self.seconds_left > 0

    @property
    def seconds_to_send(self) -> float:
        """How long what has been sent may wait until the other end takes it; the rest is for carrying it out."""
        return (self._duration - self._renew_deadline) / 2

    @property
    def seconds_unknown(self) -> float:
        """For how long a write that was never answered may still be carried out."""
        return max(0.0, self._unknown_until - self._now())

    def renewed(self, sent: float) -> None:
        """Take note of a renewal that went through, by when it was *sent*: others may count from then on."""
        self._renewed = sent

    def open(self) -> None:
        """Let writes through, for as long as the lease is renewed."""
        self._open = True
        self._term += 1

    def close(self) -> None:
        """Let nothing through, however long the lease is still valid."""
        self._open = False

    @contextmanager
    def write(self) -> Iterator[_Write]:
        """Let one write through, from before it is sent until its fate is known.

        Raises
        ------
        NotLeaderError
            If this process may not write.
        """
        if (why := self.why_not(self._term)) is not None:
            raise NotLeaderError(f"not written: {why}")
        ends = self._renewed + self._duration
        write = _Write(self, self._term, ends)
        self._in_flight += 1
        self._idle.clear()
        try:
            yield write
        finally:
            if write.sent and not write.answered:
                self._unknown_until = max(self._unknown_until, ends)
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def drained(self) -> None:
        """Wait until no write is under way; each has little time."""
        await self._idle.wait()

    def why_not(self, term: int) -> str | None:
        """Say why a write of a term may not start now."""
        if not self._open:
            return "this process does not lead"
        if not self.seconds_left:
            return f"the lease was not renewed for {self._renew_deadline:g} s"
        return None if term == self._term else "this process leads anew since this write was decided on"

    def until(self, moment: float) -> float:
        """Return the seconds until a moment."""
        return moment - self._now()


class _Write:
    """See :class:`disaggregatedset.cluster.client.Write`."""

    def __init__(self, fence: Fence, term: int, ends: float) -> None:
        self._fence = fence
        self._term = term
        self._ends = ends
        self.sent = False
        self.answered = False
        self.refused: NotLeaderError | None = None

    @property
    def seconds(self) -> float:
        return self._fence.until(self._ends)

    def check(self) -> None:
        if (why := self._fence.why_not(self._term)) is not None:
            self.refused = NotLeaderError(f"not written: {why}")
            raise self.refused


class LeaseApi(Protocol):
    """What of a client the election needs."""

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object:
        """Read an object."""

    async def create(self, kind: Kind, manifest: Object) -> Object:
        """Create an object."""

    async def update(self, kind: Kind, obj: Object) -> Object:
        """Replace an object as it was when it was read."""


class Elector:
    """Takes the lease when it is free, renews it, and leads meanwhile.

    Parameters
    ----------
    client
        Reads and writes the Lease; not fenced, and nobody else's requests are in its way.
    election
        What it campaigns for.
    fence
        Told about renewals.
    lead
        Called when the lease is taken, and cancelled when it is lost; opens the fence when it is ready to write.
    now
        Seconds that never go back.
    """

    def __init__(
        self,
        client: LeaseApi,
        election: Election,
        fence: Fence,
        lead: Callable[[], Awaitable[None]],
        now: Callable[[], float] = clock,
    ) -> None:
        self._client = client
        self._election = election
        self._identity = election.identity
        self._fence = fence
        self._lead = lead
        self._now = now
        self._spec: Object = {}
        # The version that was seen last, and when it was first seen; None: there was no Lease.
        self._seen: tuple[str | None, float] | None = None
        self._sent = 0.0
        self._complained = False
        #: The Lease as it was seen last.
        self.lease: Object = {}
        #: Whether this process holds the lease, be it ready to write or not.
        self.leads = False

    async def run(self) -> None:
        """Campaign and lead in turn, for ever. Whatever the API server answers, this goes on."""
        while True:
            await self._campaign()
            self.leads = True
            log.info("became leader: %s holds the lease %s", self._identity, self._election)
            leading = asyncio.ensure_future(self._lead())
            try:
                why = await self._reign(leading)
                log.warning("lost the lease %s: %s", self._election, why)
            finally:
                self.leads = False
                self._fence.close()
                leading.cancel()
                await asyncio.wait([leading])

    async def resign(self) -> None:
        """Release the lease for others to take at once; :meth:`run` must have ended.

        It is kept, to run out by itself, where a write that was sent may still be carried out.
        """
        self._fence.close()
        await self._fence.drained()
        if _holder(self.lease) != self._identity:
            return
        if self._fence.seconds_unknown:
            log.warning("the lease is not released but runs out: a write was not answered")
            return
        for _ in range(_RELEASE_TRIES):
            try:
                lease = await self._client.get(LEASE, self._election.name, self._election.namespace)
                if _holder(lease) != self._identity:
                    return
                moment = _timestamp()
                released = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": moment, "acquireTime": moment}
                await self._client.update(LEASE, {**lease, "spec": {**lease["spec"], **released}})
            except ApiError as error:
                if error.status != _CONFLICT:
                    log.warning("can't release the lease: %s", error)
                    return
            else:
                log.info("released the lease %s", self._election)
                return

    async def _campaign(self) -> None:
        """Return when the lease is this process's."""
        while True:
            try:
                if await self._take_if_free():
                    return
                self._complained = False
            except ApiError as error:
                level = logging.DEBUG if self._complained else logging.WARNING
                log.log(level, "can't look at the lease %s: %s", self._election, error)
                self._complained = True
            except Exception:
                log.exception("can't look at the lease %s", self._election)
            await asyncio.sleep(min(_MOST_SECONDS_BETWEEN_LOOKS, self._election.retry_period / 2))

    async def _take_if_free(self) -> bool:
        lease = await self._look()
        if not self._is_free():
            return False
        self._sent = self._now()
        try:
            await self._write(lease)
        except ApiError as error:
            if error.status == _CONFLICT:  # somebody else was faster
                return False
            raise
        self._fence.renewed(self._sent)
        return True

    async def _look(self) -> Object | None:
        try:
            lease = await self._client.get(LEASE, self._election.name, self._election.namespace)
        except ApiError as error:
            if error.status != 404:
                raise
            lease = None
        version = lease["metadata"]["resourceVersion"] if lease is not None else None
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._now())
        if lease is not None:
            self.lease = lease
            before, self._spec = self._spec, lease.get("spec") or {}
            if (holder := _holder(lease)) != before.get("holderIdentity") and holder not in {"", self._identity}:
                log.info("on standby: %s holds the lease %s", holder, self._election)
        return lease

    def _is_free(self) -> bool:
        """Whether nobody may hold the lease as it was seen last.

        A Lease that somebody has deleted says nothing about its holder: what was seen before it went still counts.
        """
        holder = self._spec.get("holderIdentity") or ""
        if holder in {"", self._identity}:
            return True
        duration = self._spec.get("leaseDurationSeconds") or self._election.duration
        seen = self._seen[1] if self._seen is not None else self._now()
        return self._now() - seen >= duration * (1 + MARGIN)

    async def _reign(self, leading: asyncio.Future[None]) -> str:
        """Renew the lease in time; return why it is lost."""
        trouble = ""
        while left := self._fence.seconds_left:
            due = self._sent + self._election.retry_period - self._now()
            # What leads ends only by an error of its own, which ends this too.
            await asyncio.wait([leading], timeout=max(_LEAST_WAIT_SECONDS, min(due, left)))
            if leading.done():
                leading.result()
                return "this process has stopped leading"
            if due > left or not (left := self._fence.seconds_left):
                continue
            self._sent = self._now()
            try:
                async with asyncio.timeout(left):
                    taken = await self._renew()
            except (ApiError, TimeoutError) as error:
                trouble = str(error) or "no answer"
                log.debug("can't renew the lease: %s", trouble)
            except Exception as error:
                trouble = repr(error)
                log.exception("can't renew the lease")
            else:
                if taken:
                    return taken
                trouble = ""
                self._fence.renewed(self._sent)
        return f"it could not be renewed in time: {trouble or 'this process stood still'}"

    async def _renew(self) -> str | None:
        """Renew the lease; return why that can't be."""
        try:
            await self._write(self.lease)
        except ApiError as error:
            if error.status not in {404, _CONFLICT}:
                raise
            lease = await self._look()  # an answer may have been lost, or somebody has written a label
            if lease is None:
                return "it was deleted"
            if _holder(lease) != self._identity:
                return f"{_holder(lease) or 'nobody'} holds it"
            self._sent = self._now()
            await self._write(lease)
        return None

    async def _write(self, lease: Object | None) -> None:
        """Write the Lease as held by this process, and only as it was when it was read."""
        moment = _timestamp()
        before = (lease or {}).get("spec") or {}
        ours = before.get("holderIdentity") == self._identity
        spec = {
            **before,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._election.duration,
            "acquireTime": before.get("acquireTime", moment) if ours else moment,
            "renewTime": moment,
            "leaseTransitions": (before.get("leaseTransitions") or 0) + (not ours) if lease is not None else 0,
        }
        if lease is None:
            metadata = {"name": self._election.name, "namespace": self._election.namespace}
            made = {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata, "spec": spec}
            self.lease = await self._client.create(LEASE, made)
        else:
            self.lease = await self._client.update(LEASE, {**lease, "spec": spec})
        self._spec = self.lease["spec"]
        self._seen = (self.lease["metadata"]["resourceVersion"], self._now())


def _holder(lease: Object) -> str:
    return (lease.get("spec") or {}).get("holderIdentity") or ""


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
