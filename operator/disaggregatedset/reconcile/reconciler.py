"""Reconcile one set: observe, plan, apply, report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
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
from disaggregatedset.reconcile.acceptance import check_autoscaler, check_devices, check_revision
from disaggregatedset.reconcile.desired import (
    Manifests,
    Stages,
    autoscalers,
    known_revisions,
    not_handed_over,
    optional_roles,
    stages,
    tier_inputs,
    zero_roles,
)
from disaggregatedset.reconcile.diagnose import Cause, Diagnoses, diagnose_set
from disaggregatedset.reconcile.findings import ACCEPTED, Acceptance, Findings
from disaggregatedset.reconcile.looks import Looks
from disaggregatedset.reconcile.measure import Stopwatch
from disaggregatedset.reconcile.memory import must_be_written_first, recall, timestamp
from disaggregatedset.reconcile.pace import Pace
from disaggregatedset.reconcile.role_scalers import role_scaler_status
from disaggregatedset.reconcile.routing import LOOK_AGAIN_SECONDS, Router
from disaggregatedset.reconcile.scaling import Scales, asked_for, desired_pods, moves, scales, seen_of_cache
from disaggregatedset.reconcile.status import status, turning_points
from disaggregatedset.reconcile.view import ROLE_SCALER, SET, View, role_of, view
from disaggregatedset.render import COMPUTE, RETRY_ANNOTATION, SET_LABEL, TierRevision, rendered_tiers
from disaggregatedset.rollout import (
    OnFailure,
    Outcome,
    Policy,
    Spec,
    State,
    Tier,
    WhenExhausted,
    fail,
    plan_set,
)

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
        self._diagnoses: dict[Key, Diagnoses] = {}
        self._pace = Pace()
        self._stopwatch = Stopwatch()
        # Autoscalers look every 15 s themselves.
        self._scaler_pace = Pace(wait=15.0, apart=0.25)
        self.router = Router(client, self._children)
        #: Whether the API server serves ``resource.k8s.io/v1``.
        self.dra_served = True

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
            self._stopwatch.forget(key)
            for scaler in self._cache.of_set(ROLE_SCALER, key):
                self._scaler_pace.forget(objects.key_of(scaler))
            return Result()
        try:
            dset = DisaggregatedSet.model_validate(obj)
        except ValidationError:
            log.exception("%s does not match the API of this operator: install the CRD of the same release", key)
            return Result(failed=True)
        if dset.status is None or dset.status.observed_generation != dset.metadata.generation:
            self._stopwatch.changed(key, dset.metadata.generation)
        seen = view(self._cache, key, dset.metadata.uid)
        look_after = await self._look(key, dset, seen)
        diagnoses = self._diagnoses.get(key, Diagnoses())
        seen = view(self._cache, key, dset.metadata.uid, diagnoses)
        decided = _decide(dset, seen, diagnoses)
        # What was rendered when the revision was first seen is applied from then on, verbatim.
        tiers = {group: _as_stored(tier, seen) for group, tier in rendered_tiers(dset).items()}
        acceptance = await self._accept(dset, tiers, decided, seen)
        # What was accepted before goes on, scales and is put back, while the spec is not accepted.
        planned = tiers if acceptance.accepted else _accepted_before(dset, tiers, seen)
        inputs = tier_inputs(dset, planned, decided)
        findings = Findings(
            acceptance=acceptance,
            tiers=tiers,
            scales=decided,
            roles={name: role for tier in inputs.values() for name, role in tier.roles.items()},
            optional=optional_roles(dset),
            can_be_zero=zero_roles(dset),
            view=seen,
            outcomes={},
            diagnoses=diagnoses,
        )
        said: list[announce.Announcement] = []
        if COMPUTE in planned:
            outcomes = self._plan(dset, inputs, findings)
            if any(outcome.overdue for outcome in outcomes.values()):
                # Before it counts as failed, it has to be known why: it may just wait for devices.
                diagnoses = await self._diagnose(key, decided, seen)
                seen = view(self._cache, key, dset.metadata.uid, diagnoses)
                findings = replace(findings, view=seen, diagnoses=diagnoses)
                outcomes = self._with_failures(dset, inputs, findings, self._plan(dset, inputs, findings))
            to_write = stages(dset, planned, decided, findings.view, outcomes, accepted=acceptance.accepted)
            if must_be_written_first(dset.status, outcomes) or moves(decided):
                findings, _ = await self._carry_out(dset, findings, outcomes, to_write.records_alone())
                await self._report(obj, status(dset, findings, timestamp(_now())), [], at_once=True)
                return Result(0.0, failed=not findings.acceptance.accepted)
            findings, said = await self._carry_out(dset, findings, outcomes, to_write)
            findings = replace(findings, routed=await self.router.route(dset))
        report_after = await self._report(obj, status(dset, findings, timestamp(_now())), said)
        scalers_after = await self._report_scalers(dset, findings)
        again = [after for after in (look_after, report_after, scalers_after) if after is not None]
        again += _look_again(dset, findings)
        if findings.routed is not None and not (findings.routed.done and self.router.watched):
            again.append(LOOK_AGAIN_SECONDS)
        if len(findings.view.running) < len(seen.running):
            again.append(0.0)  # what only the Deployments needed that are gone goes next
        return Result(min(again, default=None), failed=not findings.acceptance.accepted)

    def _plan(self, dset: DisaggregatedSet, inputs: Mapping[str, Tier], findings: Findings) -> dict[str, Outcome]:
        """Plan all tier groups."""
        rollout = dset.spec.rollout
        spec = Spec(
            Policy(
                rollout.paused,
                timedelta(seconds=rollout.progress_deadline_seconds),
                OnFailure(rollout.on_failure.value),
            ),
            WhenExhausted(rollout.when_exhausted.value),
            _retry(dset),
            dset.metadata.generation,
            _now(),
        )
        seen = findings.view
        return plan_set(
            inputs, known_revisions(findings.tiers, seen), seen.running, recall(dset.status), spec, last=COMPUTE
        )

    @staticmethod
    def _with_failures(
        dset: DisaggregatedSet, inputs: Mapping[str, Tier], findings: Findings, outcomes: Mapping[str, Outcome]
    ) -> dict[str, Outcome]:
        """Take note of the rollouts that have failed."""
        noted = dict(outcomes)
        for group, outcome in outcomes.items():
            if outcome.overdue:
                reason, message = _reason(dset, outcome, group, findings)
                wanted = inputs[group].wanted.name
                state = fail(outcome.state, wanted, reason, message, retry=_retry(dset), now=_now())
                noted[group] = replace(outcome, state=state)
        return noted

    async def _carry_out(
        self, dset: DisaggregatedSet, findings: Findings, outcomes: Mapping[str, Outcome], to_write: Stages
    ) -> tuple[Findings, list[announce.Announcement]]:
        """Write what is planned, and see what became of it."""
        key, acceptance = Key(dset.metadata.namespace, dset.metadata.name), findings.acceptance
        said: list[announce.Announcement] = []
        try:
            repaired = await self._write(dset, to_write)
        except NameConflictError as error:
            acceptance = Acceptance("NameConflict", str(error))
        except ApiError as error:
            if not error.refused:
                raise
            acceptance = Acceptance("Rejected", error.message)
        else:
            said = announce.of_writes(findings.view, outcomes.values(), repaired)
        after = view(self._cache, key, dset.metadata.uid, findings.diagnoses)
        return replace(findings, acceptance=acceptance, view=after, outcomes=outcomes), said

    async def _accept(
        self, dset: DisaggregatedSet, tiers: Mapping[str, TierRevision], decided: Scales, seen: View
    ) -> Acceptance:
        new = [tier for tier in tiers.values() if (tier.group, tier.revision) not in seen.history]
        acceptance = ACCEPTED
        if new:
            classes = [c["metadata"]["name"] for c in self._cache.all(objects.DEVICE_CLASS)]
            acceptance = check_devices(dset.spec, served=self.dra_served, classes=classes)
        for tier in new:
            if acceptance.accepted:
                acceptance = await check_revision(self._children, dset, tier, desired_pods(decided)[tier.group])
        for role, manifest in autoscalers(dset).items():
            if acceptance.accepted and self._children.differs(objects.AUTOSCALER, manifest):
                acceptance = await check_autoscaler(self._children, role, manifest)
        return acceptance

    async def _write(self, dset: DisaggregatedSet, to_write: Stages) -> list[str]:
        """Write the children stage by stage; return what others had changed."""
        repaired: list[str] = []
        # Where the spec has been written before, a child that has to be created was deleted by others.
        established = _established(dset)
        # A set without any RoleScaler is of a release that made none.
        had_scalers = bool(self._cache.of_set(ROLE_SCALER, Key(dset.metadata.namespace, dset.metadata.name)))
        for stage in (to_write.records, to_write.supporting, to_write.running):
            repaired += _repaired(stage, await self._write_all(stage), established=established)
        decided_on = {objects.key_of(child): child for child in to_write.decided_on}
        for kind, manifest in to_write.planned:
            self._check_unchanged(dset, decided_on)
            await self._children.apply(kind, manifest)
            decided_on.pop(objects.key_of(manifest), None)
        scalers = await self._write_scalers(to_write.scalers)
        repaired += _repaired(to_write.scalers, scalers, established=established and had_scalers)
        repaired += _repaired(to_write.autoscalers, await self._write_all(to_write.autoscalers), established=False)
        for kind, child in (*to_write.removed, *to_write.unneeded):
            await self._children.delete(kind, child)
        return repaired

    async def _write_all(self, stage: Manifests) -> list[Written]:
        """Write children that don't depend on each other."""
        results = await asyncio.gather(
            *(self._children.apply(kind, manifest) for kind, manifest in stage), return_exceptions=True
        )
        if errors := [result for result in results if isinstance(result, BaseException)]:
            raise errors[0]
        return [result for result in results if isinstance(result, Written)]

    async def _write_scalers(self, stage: Manifests) -> list[Written]:
        for kind, manifest in stage:
            live = self._cache.get(kind, objects.key_of(manifest))
            if live is not None and "fixedReplicas" in live["spec"] and "replicas" not in manifest["spec"]:
                # A field that is left out goes, unless somebody else has it too.
                await self._children.hand_over(kind, live, {"replicas": live["spec"]["replicas"]})
        return await self._write_all(stage)

    def _check_unchanged(self, dset: DisaggregatedSet, decided_on: Mapping[Key, Object]) -> None:
        """Check that nothing has changed since the plan was made: neither the spec, nor what it takes for ready."""
        obj = self._cache.get(SET, Key(dset.metadata.namespace, dset.metadata.name))
        if obj is None or obj["metadata"]["generation"] != dset.metadata.generation:
            raise ApiError(409, "Conflict", "the spec has changed since the plan was made")
        for key, child in decided_on.items():
            known = self._cache.get(objects.DEPLOYMENT, key)
            if known is None or known["metadata"]["resourceVersion"] != child["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict", f"Deployment {key} has changed since the plan was made")

    async def _look(self, key: Key, dset: DisaggregatedSet, seen: View) -> float | None:
        """Look at the pods of the roles that are not as desired, when it is time; return when to come back for it."""
        troubled = [r for r in seen.running if r.observed.current and r.observed.ready < (r.observed.asked or 0)]
        if not troubled:
            self._looks.forget(key)
            self._diagnoses.pop(key, None)
            return None
        conditions = (dset.status.conditions if dset.status else None) or ()
        degraded = any(c.type == ConditionType.DEGRADED and c.status == "True" for c in conditions)
        due_in = self._looks.due_in(key, tuple(seen.running), at_once=degraded)
        if due_in:
            return due_in
        await self._diagnose(key, _decide(dset, seen, self._diagnoses.get(key, Diagnoses())), seen)
        return self._looks.looked(key)

    async def _diagnose(self, key: Key, decided: Scales, seen: View) -> Diagnoses:
        pods, _ = await self._client.list(
            objects.POD, key.namespace, label_selector=f"{SET_LABEL}={key.name}", stale=True
        )
        diagnoses = self._diagnoses[key] = diagnose_set(pods, seen.children[objects.DEPLOYMENT], desired_pods(decided))
        return diagnoses

    async def _report(
        self, obj: Object, after: dict[str, Any], said: list[announce.Announcement], *, at_once: bool = False
    ) -> float | None:
        """Write the status if it changed, then the events; return when to come back for a status that can wait."""
        key, before = objects.key_of(obj), obj.get("status") or {}
        await self._announce(obj, said)
        if after != before:
            can_wait = not at_once and turning_points(before) == turning_points(after)
            if can_wait and (wait := self._pace.turn_in(key)):
                return wait
            await self._children.apply_status(SET, obj, after)
            self._stopwatch.reported(key, before, after, _now())
            await self._announce(obj, announce.of_status(before, after))
        self._pace.forget(key)
        return None

    async def _report_scalers(self, dset: DisaggregatedSet, findings: Findings) -> float | None:
        """Write the status of RoleScalers if it changed; return when to come back for one that can wait."""
        of_role = {name: scale for roles in findings.scales.values() for name, scale in roles.items()}
        waits = []
        for scaler in findings.view.children[ROLE_SCALER]:
            key, scale = objects.key_of(scaler), of_role.get(role_of(scaler))
            if scale is None or objects.is_terminating(scaler):
                continue
            before = scaler.get("status") or {}
            after = role_scaler_status(dset.metadata.name, scaler, scale, findings.view, timestamp(_now()))
            if after != before:
                # An autoscaler can't start without the selector; and what has settled need not be written again.
                at_once = scale.scaling.decided_elsewhere and not before
                at_once |= after["replicas"] == after["desiredReplicas"]
                if not at_once and (wait := self._scaler_pace.turn_in(key)):
                    waits.append(wait)
                    continue
                await self._children.apply_status(ROLE_SCALER, scaler, after)
            self._scaler_pace.forget(key)
        return min(waits, default=None)

    async def _announce(self, obj: Object, said: list[announce.Announcement]) -> None:
        for news in said:
            await self._recorder.record(obj, news.type, news.reason, news.note, news.action)


def _decide(dset: DisaggregatedSet, seen: View, diagnoses: Diagnoses) -> Scales:
    return scales(dset, asked_for(seen), seen_of_cache(seen, diagnoses), _clock())


def _look_again(dset: DisaggregatedSet, findings: Findings) -> Iterator[float]:
    """Say after how many seconds each thing is due that no event will tell of."""
    for outcome in findings.outcomes.values():
        if outcome.look_again is not None:
            yield outcome.look_again.total_seconds()
        if outcome.overdue:  # to plan what follows from its failure
            yield 0.0
    for roles in findings.scales.values():
        yield from (scale.look_again.total_seconds() for scale in roles.values() if scale.look_again is not None)
    if not_handed_over(dset, findings.view):  # to let others scale what was made with a number of ours
        yield 0.0
    there = {role_of(child) for child in findings.view.children[objects.AUTOSCALER]}
    if findings.acceptance.accepted and autoscalers(dset).keys() - there:  # they start when they may scale
        yield 0.0


def _repaired(stage: Manifests, written: list[Written], *, established: bool) -> list[str]:
    """Say what others had changed, or had deleted where all that there should be was there."""
    repaired = []
    for (kind, manifest), became in zip(stage, written, strict=True):
        if became.drift or (became.created and established):
            how = f"{became.drift} was changed" if became.drift else "was gone"
            repaired.append(f"{kind.name} {manifest['metadata']['name']}: {how}, put back")
    return repaired


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


def _accepted_before(dset: DisaggregatedSet, tiers: Mapping[str, TierRevision], seen: View) -> dict[str, TierRevision]:
    """Return the revisions that were accepted last: those that are being rolled out, or else the last good ones."""
    states = recall(dset.status)
    before = {}
    for group in tiers:
        state = states.get(group, State())
        revision = state.record.target if state.record is not None else state.good
        if (group, revision or "") in seen.history:
            before[group] = seen.history[group, revision or ""][0]
    return before


def _reason(dset: DisaggregatedSet, outcome: Outcome, group: str, findings: Findings) -> tuple[str, str]:
    """Say why a rollout has failed: the worst of what its pods suffer from."""
    found = [
        (role, diagnosis)
        for (role, revision), diagnosis in findings.diagnoses.revisions.items()
        if revision == outcome.target and any(r.group == group and r.role == role for r in findings.view.running)
    ]
    if not found:
        conditions = (dset.status.conditions if dset.status else None) or ()
        refused = [c.message for c in conditions if c.type == ConditionType.ACCEPTED and c.status == "False"]
        if refused:
            return Cause.REJECTED.value, refused[0]
        return Cause.NOT_READY.value, outcome.plan.message
    order = list(Cause)
    worst = min((diagnosis.cause for _, diagnosis in found), key=order.index)
    reason = Cause.NOT_READY if worst is Cause.STARTING else worst
    return reason.value, "; ".join(f"{role}: {diagnosis.message}" for role, diagnosis in found)


def _established(dset: DisaggregatedSet) -> bool:
    """Whether all children of this spec have been written before, and none is to be made for a rollout."""
    if dset.status is None or dset.status.observed_generation != dset.metadata.generation or dset.status.rollouts:
        return False
    return any(c.type == ConditionType.ACCEPTED and c.status == "True" for c in dset.status.conditions or ())


def _retry(dset: DisaggregatedSet) -> str:
    return dset.metadata.annotations.get(RETRY_ANNOTATION, "")


def _clock() -> datetime:
    return datetime.now(UTC)


def _now() -> datetime:
    return _clock().replace(microsecond=0)  # as a status keeps it
