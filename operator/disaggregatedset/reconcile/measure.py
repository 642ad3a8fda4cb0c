"""What is measured of sets: their numbers when somebody scrapes, and how long changes took when they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from disaggregatedset.api import ConditionType, Tier
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.objects import Key, Object, key_of
from disaggregatedset.reconcile.view import SET, running_of
from disaggregatedset.render import COMPUTE
from disaggregatedset.rollout import coherent_capacity

#: From a second to an hour: engines may take long to load a model.
_SECONDS: Final = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)

ROLLOUT_SECONDS: Final = Histogram(
    "disaggregatedset_rollout_duration_seconds",
    "Seconds from the begin of a rollout to its end, by what rolled.",
    ("group",),
    buckets=_SECONDS,
)
FAILURES: Final = Counter(
    "disaggregatedset_rollout_failures", "Revisions that failed, by what rolled and why.", ("group", "reason")
)
ROLLBACKS: Final = Counter(
    "disaggregatedset_rollbacks",
    "Rollouts back to the last good revision, by what rolled.",
    ("namespace", "set", "group"),
)
AVAILABLE_SECONDS: Final = Histogram(
    "disaggregatedset_time_to_available_seconds",
    "Seconds from a change of a spec until all of it is there and the set is available.",
    buckets=_SECONDS,
)


class SetCollector(Collector):
    """Gauges of all sets, made from the cache when they are asked for: a set that is deleted leaves no series.

    Parameters
    ----------
    cache
        What is known of the sets.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        """Return the gauges."""
        of_set = ["namespace", "set"]
        of_role = [*of_set, "tier", "role"]
        desired = GaugeMetricFamily("disaggregatedset_role_desired_replicas", "Pods that are wanted.", labels=of_role)
        ready = GaugeMetricFamily("disaggregatedset_role_ready_replicas", "Pods that are ready.", labels=of_role)
        claims = GaugeMetricFamily("disaggregatedset_claims", "Claims of devices.", labels=[*of_set, "role", "state"])
        condition = GaugeMetricFamily(
            "disaggregatedset_condition", "1: the condition is True, 0: it is not.", labels=[*of_set, "type"]
        )
        phase = GaugeMetricFamily(
            "disaggregatedset_rollout_phase", "1: a rollout is in this phase.", labels=[*of_set, "group", "phase"]
        )
        capacity = GaugeMetricFamily(
            "disaggregatedset_coherent_capacity_ratio",
            "Coherent capacity of the compute roles: what revisions with all roles ready can serve of what is desired.",
            labels=of_set,
        )
        for obj in self._cache.all(SET):
            status, key = obj.get("status") or {}, key_of(obj)
            for role in status.get("roles") or ():
                labels = [*key, role["tier"], role["name"]]
                desired.add_metric(labels, role["desired"])
                ready.add_metric(labels, role["ready"])
                for state, number in (role.get("claims") or {}).items():
                    claims.add_metric([*key, role["name"], state], number)
            for kind in status.get("conditions") or ():
                condition.add_metric([*key, kind["type"]], kind["status"] == "True")
            for rollout in status.get("rollouts") or ():
                phase.add_metric([*key, rollout["group"], rollout["phase"]], 1)
            if (ratio := self._capacity(obj)) is not None:
                capacity.add_metric([*key], float(ratio))
        return [desired, ready, claims, condition, phase, capacity]

    def _capacity(self, obj: Object) -> Fraction | None:
        roles = (obj.get("status") or {}).get("roles") or ()
        desired = {role["name"]: role["desired"] for role in roles if role["tier"] == Tier.COMPUTE}
        by_revision: dict[str, dict[str, int]] = {}
        for running in running_of(self._cache, key_of(obj), obj["metadata"]["uid"]):
            if running.group == COMPUTE:
                asked, seen = running.observed.asked or 0, running.observed
                by_revision.setdefault(running.revision, {})[running.role] = min(seen.ready, asked)
        if not any(desired.values()):  # scaled to zero
            return None
        return sum((coherent_capacity(desired, ready) for ready in by_revision.values()), start=Fraction(0))


class Stopwatch:
    """Measures how long changes of specs and rollouts take. Forgetting a set loses a measurement, nothing else.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changes: dict[Key, tuple[int, float]] = {}

    def changed(self, key: Key, generation: int) -> None:
        """Take note that a set has a spec that its status is not about yet."""
        if self._changes.get(key, (None, 0.0))[0] != generation:
            self._changes[key] = (generation, self._clock())

    def forget(self, key: Key) -> None:
        """Forget a set that is gone, and its series."""
        self._changes.pop(key, None)
        ROLLBACKS.remove_by_labels({"namespace": key.namespace, "set": key.name})

    def reported(self, key: Key, before: Mapping[str, Any], after: Mapping[str, Any], now: datetime) -> None:
        """Measure what a status says that the one before did not.

        Parameters
        ----------
        key
            The set.
        before, after
            The status that was stored, and the one that is stored now.
        now
            The time.
        """
        conditions = {c["type"]: c["status"] for c in after.get("conditions") or ()}
        done = (conditions.get(ConditionType.AVAILABLE), conditions.get(ConditionType.PROGRESSING)) == ("True", "False")
        generation, since = self._changes.get(key, (None, 0.0))
        if done and generation == after.get("observedGeneration"):
            AVAILABLE_SECONDS.observe(self._clock() - since)
            del self._changes[key]
        _count(key, before, after, now)


def _count(key: Key, before: Mapping[str, Any], after: Mapping[str, Any], now: datetime) -> None:
    was, rolls, failed, fails = (
        {entry["group"]: entry for entry in status.get(field) or ()}
        for field in ("rollouts", "failedRevisions")
        for status in (before, after)
    )
    good = after.get("goodRevisions") or {}
    for group, rollout in was.items():
        if group not in rolls and good.get(group) == rollout["to"]:
            ROLLOUT_SECONDS.labels(group).observe((now - datetime.fromisoformat(rollout["startedAt"])).total_seconds())
            if group in fails:
                ROLLBACKS.labels(*key, group).inc()
    for group, failure in fails.items():
        if failed.get(group, {}).get("failedAt") != failure["failedAt"]:
            FAILURES.labels(group, failure["reason"]).inc()
