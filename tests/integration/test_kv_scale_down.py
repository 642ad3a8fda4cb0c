"""The KV cache shrinks step by step, and only while all that is left is ready."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from e2e.operator import Operator
from tests.integration.gate import Gate
from tests.integration.recorder import Recorder, Recording, Watch
from tests.integration.rolling import NAME, start
from tests.integration.scaled import (
    EXTERNAL,
    asked,
    conditions,
    pods,
    scale,
    steps,
    timed,
    wait_scaled,
    wait_scaler,
    watched,
)
from tests.integration.sets import API, KIND, PATIENCE, Sets, condition, role, spec, template

KV = "kv-cache"
PERIOD = 3


def _spec(replicas: int = 6, *, step: int = 1, period: int = PERIOD, **more: object) -> Object:
    pace = {"maxStep": step, "periodSeconds": period}
    return spec(kvCache={"replicas": replicas, "template": template("kv:1"), "scaleDown": pace} | more)


def _steps(watch: Watch) -> dict[datetime, int]:
    """When the operator decided on each step, as the status of the set tells, and how many were left."""
    told = [
        down
        for event in watch.events
        for r in (event["object"].get("status") or {}).get("roles") or ()
        if (down := r.get("scaleDown")) and down.get("lastStepAt")
    ]
    return {datetime.fromisoformat(down["lastStepAt"]): down["replicas"] for down in told}


def _check(recording: Recording, decided: dict[datetime, int], expected: list[int]) -> None:
    """Check the steps; the API server may have been quick with one write and slow with another."""
    found = timed(recording, KV)
    print("KV steps:", found, "decided:", {f"{at:%H:%M:%S}": left for at, left in decided.items()})
    assert [number for _, number in found] == expected, recording.table()
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(found[1:])]
    assert all(gap > PERIOD / 2 for gap in gaps), found
    assert all(later - earlier >= timedelta(seconds=PERIOD) for earlier, later in pairwise(decided)), decided
    assert [*decided.values()] == expected[1:]


@pytest.mark.parametrize(
    ("step", "expected"), [(1, [6, 5, 4, 3, 2]), (3, [6, 3, 2])], ids=["one at a time", "three at a time"]
)
def test_it_shrinks_step_by_step_and_grows_at_once(sets: Sets, step: int, expected: list[int]) -> None:
    start(sets, _spec(step=step, **EXTERNAL))
    with watched(sets, API, KIND) as watch, Recorder(sets, NAME) as recorder:
        scale(sets, KV, 2)
        wait_scaled(sets, kv_cache=2)
    _check(recorder.recording, _steps(watch), expected)
    assert {steps(recorder.recording.total(name))[0] for name in ("prefill", "decode")} == {1}

    with Recorder(sets, NAME) as recorder:
        scale(sets, KV, 6)
        wait_scaled(sets, kv_cache=6)
    assert steps(recorder.recording.total(KV)) == [2, 6], recorder.recording.table()


def test_one_can_see_that_it_waits_and_why(sets: Sets) -> None:
    start(sets, _spec(6, step=2, period=3600))
    sets.apply(NAME, _spec(2, step=2, period=3600))
    words = "shrinks to 2 by 2 every 3600 s, to keep what it can of the cache; now at 4, the next step is due at "
    status = sets.wait(NAME, lambda s: words in role(s, KV).get("message", ""))
    assert (role(status, KV)["desired"], role(status, KV)["scaleDown"]["replicas"]) == (2, 4)
    status = sets.wait(NAME, lambda s: words in condition(s, "Progressing")["message"])
    assert condition(status, "Progressing")["reason"] == "Scaling"
    assert condition(status, "Available")["status"] == "True"
    limited = wait_scaler(sets, KV, lambda s: conditions(s)["ScalingLimited"]["status"] == "True")
    assert conditions(limited)["ScalingLimited"]["reason"] == "ScaleDownLimit"
    assert words in conditions(limited)["ScalingLimited"]["message"]
    # A period that is made shorter counts at once, and nothing is said any more when it is done.
    sets.apply(NAME, _spec(2, step=2, period=1))
    wait_scaled(sets, kv_cache=2)
    sets.wait(NAME, lambda s: not role(s, KV).get("message"))
    wait_scaler(sets, KV, lambda s: conditions(s)["ScalingLimited"]["reason"] == "DesiredWithinRange")


def test_growing_in_the_middle_of_it_is_immediate(sets: Sets) -> None:
    start(sets, _spec(period=3600))
    with Recorder(sets, NAME) as recorder:
        sets.apply(NAME, _spec(2, period=3600))
        wait_for("the first step", lambda: asked(sets, KV) == 5, PATIENCE)
        sets.apply(NAME, _spec(7, period=3600))
        wait_scaled(sets, kv_cache=7)
        sets.apply(NAME, _spec(4, period=3600))  # the period goes on
        sets.wait(NAME, lambda s: "now at 7, the next step is due at" in role(s, KV).get("message", ""))
    assert steps(recorder.recording.total(KV)) == [6, 5, 7], recorder.recording.table()


def test_a_pod_that_is_unready_stops_it(sets: Sets) -> None:
    start(sets, _spec(period=1))
    (first, *_) = pods(sets, role=KV)
    pod = ("v1", "Pod", first["metadata"]["name"], sets.namespace)

    def behave(how: str | None) -> None:
        annotations = {"e2e.disaggregatedset.dev/behaviour": how}
        sets.cluster.client.patch(*pod, {"metadata": {"annotations": annotations}})

    behave("never-ready")
    sets.wait(NAME, lambda s: role(s, KV)["ready"] == 5)
    with Recorder(sets, NAME) as recorder:
        sets.apply(NAME, _spec(2, period=1))
        waits = "now at 6, the next step waits until all of them are ready"
        sets.wait(NAME, lambda s: waits in role(s, KV).get("message", ""))
        sets.wait(NAME, lambda s: "does not pass its readiness probe" in role(s, KV)["message"])  # and why
        limited = wait_scaler(sets, KV, lambda s: conditions(s)["ScalingLimited"]["reason"] == "ScaleDownLimit")
        assert waits in conditions(limited)["ScalingLimited"]["message"]
        time.sleep(5)  # some periods
        assert asked(sets, KV) == 6
        behave(None)
        wait_for("it to go on", lambda: asked(sets, KV) == 2, PATIENCE)
        wait_scaled(sets, kv_cache=2)
    assert steps(recorder.recording.total(KV)) == [6, 5, 4, 3, 2], recorder.recording.table()


def test_a_pod_that_turns_unready_in_the_middle_stops_it(sets: Sets) -> None:
    start(sets, _spec())
    with Recorder(sets, NAME) as recorder:
        sets.apply(NAME, _spec(2))
        wait_for("the first step", lambda: asked(sets, KV) == 5, PATIENCE)
        for pod in pods(sets, role=KV):
            sets.cluster.client.patch(
                "v1", "Pod", pod["metadata"]["name"], sets.namespace,
                {"metadata": {"annotations": {"e2e.disaggregatedset.dev/behaviour": "never-ready"}}},
            )  # fmt: skip
        sets.wait(NAME, lambda s: role(s, KV)["ready"] == 0)
        sets.wait(NAME, lambda s: "waits until all of them are ready" in role(s, KV).get("message", ""))
        stopped_at = asked(sets, KV)
        time.sleep(2 * PERIOD)
        assert asked(sets, KV) == stopped_at > 2
        for pod in pods(sets, role=KV):
            sets.cluster.client.patch(
                "v1", "Pod", pod["metadata"]["name"], sets.namespace,
                {"metadata": {"annotations": {"e2e.disaggregatedset.dev/behaviour": None}}},
            )  # fmt: skip
        wait_scaled(sets, kv_cache=2)
    assert steps(recorder.recording.total(KV)) == [6, 5, 4, 3, 2], recorder.recording.table()


def test_an_operator_that_is_restarted_goes_on(sets: Sets, operator: Operator) -> None:
    start(sets, _spec())
    with watched(sets, API, KIND) as watch, Recorder(sets, NAME) as recorder:
        sets.apply(NAME, _spec(2))
        for number in (5, 3):
            wait_for(f"{number} pods", lambda n=number: asked(sets, KV) == n, PATIENCE)
            operator.kill()
            operator.start()
        wait_scaled(sets, kv_cache=2)
    _check(recorder.recording, _steps(watch), [6, 5, 4, 3, 2])


def test_an_operator_that_dies_after_any_write_takes_no_step_twice(
    sets: Sets, cluster: Cluster, operator: Operator, tmp_path: Path
) -> None:
    deaths = []
    operator.stop()
    try:
        with Gate(cluster, sets.namespace) as gate:
            mortal = Operator(gate.kubeconfig(tmp_path / "kubeconfig"), tmp_path / "operator.log")
            with mortal:
                start(sets, _spec(6, period=1))
                for writes in range(1, 5):
                    with Recorder(sets, NAME) as recorder:
                        gate.die_after(writes, mortal.kill)
                        sets.apply(NAME, _spec(3, period=1))
                        wait_for("the operator to die", gate.killed.is_set, PATIENCE)
                        deaths.append(gate.last)
                        time.sleep(3)  # some periods
                        mortal.start()
                        wait_scaled(sets, kv_cache=3)
                    assert steps(recorder.recording.total(KV)) == [6, 5, 4, 3], (deaths, recorder.recording.table())
                    sets.apply(NAME, _spec(6, period=1))
                    wait_scaled(sets, kv_cache=6)
                    sets.wait_available(NAME)
    finally:
        operator.start()
    print("died after:", deaths)


def test_it_shrinks_through_a_rollout_of_its_own(sets: Sets) -> None:
    def made(replicas: int, version: int) -> Object:
        return _spec(replicas, template=template(f"kv:{version}", ready_after="500ms"))

    start(sets, made(6, 1))
    with watched(sets, API, KIND) as watch, Recorder(sets, NAME) as recorder:
        sets.apply(NAME, made(6, 2))
        wait_for("the rollout", lambda: len(sets.deployments(NAME, role=KV)) == 2, PATIENCE)
        sets.apply(NAME, made(2, 2))
        sets.wait_available(NAME)
        wait_scaled(sets, kv_cache=2)
    decided, ready = _steps(watch), recorder.recording.ready(KV)
    print("decided:", decided, "ready:", steps(ready), "asked for:", timed(recorder.recording, KV))
    assert [*decided.values()] == [5, 4, 3, 2]
    assert all(later - earlier >= timedelta(seconds=PERIOD) for earlier, later in pairwise(decided)), decided
    assert min(ready) == 2
