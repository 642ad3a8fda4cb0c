"""Metrics of sets: gauges from the cache, durations from one status to the next."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from disaggregatedset.cluster import objects
from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile.controller import WATCHED
from disaggregatedset.reconcile.measure import SetCollector, Stopwatch
from disaggregatedset.reconcile.view import SET
from disaggregatedset.render import SET_LABEL, deployment
from tests.unit.builders import NOW, World, live, make_set

Object = dict[str, Any]
KEY = Key("inference", "llama")


def _conditions(available: str = "True", progressing: str = "False") -> list[Object]:
    return [{"type": "Available", "status": available}, {"type": "Progressing", "status": progressing}]


def _stored(**status: Any) -> Object:
    world = World(make_set())
    metadata = {"name": "llama", "namespace": "inference", "uid": world.dset.metadata.uid, "resourceVersion": "1"}
    return {"metadata": metadata, "status": status}


def _cache(**status: Any) -> Cache:
    cache = Cache(WATCHED, SET_LABEL)
    cache.store(SET, _stored(**status))
    return cache


def _scraped(cache: Cache) -> dict[str, float]:
    """Samples by name, without the prefix, and the values of labels in their order."""
    registry = CollectorRegistry()
    registry.register(SetCollector(cache))
    return {
        " ".join([sample.name.removeprefix("disaggregatedset_"), *sample.labels.values()]): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def _role(name: str, tier: str = "compute", **numbers: Any) -> Object:
    return {"name": name, "tier": tier, "desired": 2, "replicas": 2, "ready": 1} | numbers


def test_numbers_conditions_and_phases() -> None:
    cache = _cache(
        roles=[_role("decode", claims={"allocated": 3, "pending": 1})],
        conditions=_conditions(progressing="Unknown"),
        rollouts=[{"group": "compute", "phase": "RollingBack"}],
    )
    assert _scraped(cache) == {
        "role_desired_replicas inference llama compute decode": 2,
        "role_ready_replicas inference llama compute decode": 1,
        "claims inference llama decode allocated": 3,
        "claims inference llama decode pending": 1,
        "condition inference llama Available": 1,
        "condition inference llama Progressing": 0,
        "rollout_phase inference llama compute RollingBack": 1,
        "coherent_capacity_ratio inference llama": 0,
    }


def test_a_set_that_is_scaled_to_zero_has_no_capacity_to_speak_of() -> None:
    assert "coherent_capacity_ratio inference llama" not in _scraped(_cache(roles=[_role("decode", desired=0)]))


def test_a_set_that_is_gone_leaves_no_series() -> None:
    cache = _cache(roles=[_role("decode")])
    cache.delete(SET, _stored() | {"metadata": _stored()["metadata"] | {"resourceVersion": "2"}})
    assert _scraped(cache) == {}


@pytest.mark.parametrize(
    ("ready", "ratio"), [({"prefill": 1, "decode": 2}, 1.0), ({"prefill": 1, "decode": 1}, 0.5), ({"decode": 2}, 0.0)]
)
def test_coherent_capacity(ready: dict[str, int], ratio: float) -> None:
    world = World(make_set())
    cache = _cache(roles=[_role("prefill", desired=1), _role("decode", desired=2), _role("weights", "weights")])
    for role, number in ready.items():
        manifest = deployment(world.dset, world.tiers["compute"], role, 2)
        seen = {"status": {"readyReplicas": number, "observedGeneration": 1}}
        cache.store(objects.DEPLOYMENT, live(manifest) | seen)
    assert _scraped(cache)["coherent_capacity_ratio inference llama"] == ratio


def _sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"disaggregatedset_{name}", labels) or 0.0


def test_time_from_a_change_to_available() -> None:
    now = 100.0
    stopwatch = Stopwatch(lambda: now)
    count, total = _sample("time_to_available_seconds_count"), _sample("time_to_available_seconds_sum")
    stopwatch.changed(KEY, 2)
    now = 107.0
    stopwatch.changed(KEY, 2)  # seen again before it is reported
    stopwatch.reported(KEY, {}, {"observedGeneration": 2, "conditions": _conditions(progressing="True")}, NOW)
    assert _sample("time_to_available_seconds_count") == count
    now = 130.0
    done = {"observedGeneration": 2, "conditions": _conditions()}
    stopwatch.reported(KEY, {}, done, NOW)
    stopwatch.reported(KEY, done, done, NOW)
    assert _sample("time_to_available_seconds_count") == count + 1
    assert _sample("time_to_available_seconds_sum") == total + 30


def test_a_set_that_is_forgotten_is_not_measured() -> None:
    count = _sample("time_to_available_seconds_count")
    stopwatch = Stopwatch()
    stopwatch.changed(KEY, 2)
    stopwatch.forget(KEY)
    stopwatch.reported(KEY, {}, {"observedGeneration": 2, "conditions": _conditions()}, NOW)
    assert _sample("time_to_available_seconds_count") == count


def test_rollouts_and_rollbacks() -> None:
    rollout = {"group": "kv-cache", "to": "r2", "startedAt": "2026-01-02T00:00:00Z"}
    failure = {"group": "kv-cache", "revision": "r3", "reason": "ImagePull", "failedAt": "2026-01-02T00:00:30Z"}
    now = NOW + timedelta(seconds=60)
    of = {"group": "kv-cache"}
    seconds, back = (
        _sample("rollout_duration_seconds_sum", **of),
        _sample("rollbacks_total", namespace="inference", set="llama", **of),
    )
    failures = _sample("rollout_failures_total", **of, reason="ImagePull")
    watch = Stopwatch()

    watch.reported(KEY, {"rollouts": [rollout]}, {"goodRevisions": {"kv-cache": "r1"}}, now)
    assert _sample("rollout_duration_seconds_sum", **of) == seconds, "it was given up"
    watch.reported(KEY, {"rollouts": [rollout]}, {"goodRevisions": {"kv-cache": "r2"}}, now)
    assert _sample("rollout_duration_seconds_sum", **of) == seconds + 60
    assert _sample("rollbacks_total", namespace="inference", set="llama", **of) == back

    going_back = {"rollouts": [rollout], "failedRevisions": [failure]}
    watch.reported(KEY, {"rollouts": [rollout]}, going_back, now)
    watch.reported(KEY, going_back, {"goodRevisions": {"kv-cache": "r2"}, "failedRevisions": [failure]}, now)
    assert _sample("rollbacks_total", namespace="inference", set="llama", **of) == back + 1
    assert _sample("rollout_failures_total", **of, reason="ImagePull") == failures + 1
    watch.forget(KEY)
    assert _sample("rollbacks_total", namespace="inference", set="llama", **of) == 0
