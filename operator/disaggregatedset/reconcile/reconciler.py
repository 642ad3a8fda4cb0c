"""Reconcile one set: observe, plan, apply, report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from disaggregatedset.api import ConditionType, DisaggregatedSet
from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.children import Children, NameConflictError, Written
from disaggregatedset.cluster.client import ApiError, Client
from disaggregatedset.cluster.compare import missing
from disaggregatedset.cluster.events import Recorder
from disaggregatedset.cluster.objects import Key, Object
from disaggregatedset.reconcile import announce
from disaggregatedset.reconcile.acceptance import check_devices, check_revision
from disaggregatedset.reconcile.desired import Desired, Stages, desired_pods, optional_roles, stages, wanted_groups
from disaggregatedset.reconcile.diagnose import Diagnosis, diagnose_roles
from disaggregatedset.reconcile.looks import Looks
from disaggregatedset.reconcile.pace import Pace
from disaggregatedset.reconcile.status import ACCEPTED, Acceptance, Findings, status, turning_points
from disaggregatedset.reconcile.view import SET, View, view
from disaggregatedset.render import COMPUTE, SET_LABEL, TierRevision, rendered_tiers
from disaggregatedset.rollout import GroupPlan, Remove, plan_set

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What a reconcile asks for.

    Attributes
    ----------
    again_after
        Seconds after which the set should be looked at again; None: when something changes.
    failed
        Whether something could not be done that may go through when tried again.
    """

    again_after: float | None = None
    failed: bool = False


class Reconciler:
    """Brings sets to what their specs say, one at a time each.

    Parameters
    ----------
    client
        The API server.
    cache
        What is known of it.
    recorder
        Where events go.
    """

    def __init__(self, client: Client, cache: Cache, recorder: Recorder) -> None:
        self._client = client
        self._cache = cache
        self._children = Children(client, cache)
        self._recorder = recorder
        self._looks = Looks()
        self._diagnoses: dict[Key, dict[str, Diagnosis]] = {}
        self._pace = Pace()
        #: Whether the API server serves ``resource.k8s.io/v1``.
        self.dra_served = True
        #: Whether device classes may be read.
        self.device_classes_known = True

    async def reconcile(self, key: Key) -> Result:
        """Reconcile a set.

        Raises
        ------
        ApiError
            If the API server does not answer, or something has changed meanwhile: try again.
        """
        obj = self._cache.get(SET, key)
        if obj is None or objects.is_terminating(obj):  # its children go with it: they have an owner reference
            self._looks.forget(key)
            self._diagnoses.pop(key, None)
            self._pace.forget(key)
            return Result()
        try:
            dset = DisaggregatedSet.model_validate(obj)
        except ValidationError:
            log.exception("%s does not match the API of this operator: install the CRD of the same release", key)
            return Result(failed=True)
        desired = desired_pods(dset)
        seen = view(self._cache, key, dset.metadata.uid)
        rendered = rendered_tiers(dset)
        # What was rendered when the revision was first seen is applied from then on, verbatim.
        tiers = {group: _as_stored(tier, seen) for group, tier in rendered.items()}
        acceptance = await self._accept(dset, tiers, desired, seen)
        plans: Mapping[str, GroupPlan] = {}
        said: list[announce.Announcement] = []
        if acceptance.accepted:
            plans = plan_set(wanted_groups(dset, tiers), seen.running, last=COMPUTE)
            writes = [write for plan in plans.values() for write in plan.writes]
            try:
                repaired = await self._write(stages(dset, tiers, seen, writes), established=_established(dset))
            except NameConflictError as error:
                acceptance = Acceptance("NameConflict", str(error))
            except ApiError as error:
                if not error.refused:
                    raise
                acceptance = Acceptance("Rejected", error.message)
            else:
                said = announce.of_writes(seen, writes, repaired)
                seen = view(self._cache, key, dset.metadata.uid)
        look_after = await self._look(key, dset, desired, seen)
        findings = Findings(acceptance, tiers, desired, optional_roles(dset), seen, plans, self._diagnoses.get(key, {}))
        report_after = await self._report(obj, status(dset, findings, _now()), said)
        return Result(min(filter(None, (look_after, report_after)), default=None), failed=not acceptance.accepted)

    async def _accept(
        self, dset: DisaggregatedSet, tiers: Mapping[str, TierRevision], desired: Desired, seen: View
    ) -> Acceptance:
        new = [tier for tier in tiers.values() if (tier.group, tier.revision) not in seen.history]
        if not new:
            return ACCEPTED
        classes = [c["metadata"]["name"] for c in self._cache.all(objects.DEVICE_CLASS)]
        acceptance = check_devices(dset.spec, served=self.dra_served, classes=classes)
        for tier in new:
            if acceptance.accepted:
                acceptance = await check_revision(self._children, dset, tier, desired[tier.group])
        return acceptance

    async def _write(self, to_write: Stages, *, established: bool) -> list[str]:
        """Write the children stage by stage; return what others had changed.

        Where the spec has been written before (``established``), a child that has to be created was deleted by others.
        """
        repaired: list[str] = []
        for stage in (to_write.records, to_write.supporting, to_write.running):
            written = await asyncio.gather(
                *(self._children.apply(kind, manifest) for kind, manifest in stage), return_exceptions=True
            )
            if errors := [result for result in written if isinstance(result, BaseException)]:
                raise errors[0]
            for (kind, manifest), result in zip(stage, written, strict=True):
                if isinstance(result, Written) and (result.drift or (result.created and established)):
                    how = f"{result.drift} was changed" if result.drift else "was gone"
                    repaired.append(f"{kind.name} {manifest['metadata']['name']}: {how}, put back")
        for write, manifest in to_write.planned:
            if isinstance(write, Remove):
                await self._children.delete(objects.DEPLOYMENT, manifest)
            else:
                await self._children.apply(objects.DEPLOYMENT, manifest)
        for kind, child in to_write.unneeded:
            await self._children.delete(kind, child)
        return repaired

    async def _look(self, key: Key, dset: DisaggregatedSet, desired: Desired, seen: View) -> float | None:
        """Look at the pods of the roles that are not as desired, when it is time; return when to come back for it."""
        troubled = [r for r in seen.running if r.observed.current and r.observed.ready < r.observed.asked]
        if not troubled:
            self._looks.forget(key)
            self._diagnoses.pop(key, None)
            return None
        conditions = (dset.status.conditions if dset.status else None) or ()
        degraded = any(c.type == ConditionType.DEGRADED and c.status == "True" for c in conditions)
        due_in = self._looks.due_in(key, tuple(seen.running), at_once=degraded)
        if due_in:
            return due_in
        pods, _ = await self._client.list(objects.POD, key.namespace, label_selector=f"{SET_LABEL}={key.name}")
        self._diagnoses[key] = diagnose_roles(pods, seen.children[objects.DEPLOYMENT], desired)
        return self._looks.looked(key)

    async def _report(self, obj: Object, after: dict[str, Any], said: list[announce.Announcement]) -> float | None:
        """Write the status if it changed, then the events; return when to come back for a status that can wait."""
        key, before = objects.key_of(obj), obj.get("status") or {}
        if after != before:
            if turning_points(before) == turning_points(after) and (wait := self._pace.turn_in(key)):
                await self._announce(obj, said)
                return wait
            metadata = obj["metadata"]
            manifest = {
                "apiVersion": SET.api_version,
                "kind": SET.name,
                "metadata": {field: metadata[field] for field in ("name", "namespace", "resourceVersion")},
                "status": after,
            }
            try:
                self._cache.store(SET, await self._client.apply(SET, manifest, subresource="status"))
            except ApiError as error:
                if error.status == 404:
                    self._cache.evict(SET, key)
                raise
            said = [*said, *announce.of_status(before, after)]
        self._pace.forget(key)
        await self._announce(obj, said)
        return None

    async def _announce(self, obj: Object, said: list[announce.Announcement]) -> None:
        for news in said:
            await self._recorder.record(obj, news.type, news.reason, news.note, news.action)


def _as_stored(rendered: TierRevision, seen: View) -> TierRevision:
    stored = seen.history.get((rendered.group, rendered.revision))
    if stored is None:
        return rendered
    tier, number = stored
    if number:
        return tier
    # Its record is gone, and what was read off Deployments has the API server's defaults in it, and lacks the roles
    # that have none: what this release renders will do where it is the same.
    return replace(
        rendered,
        roles={
            name: tier.roles[name]
            if name in tier.roles and next(missing(role.template, tier.roles[name].template), None)
            else role
            for name, role in rendered.roles.items()
        },
    )


def _established(dset: DisaggregatedSet) -> bool:
    """Whether all children of this spec have been written before."""
    if dset.status is None or dset.status.observed_generation != dset.metadata.generation:
        return False
    return any(c.type == ConditionType.ACCEPTED and c.status == "True" for c in dset.status.conditions or ())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
