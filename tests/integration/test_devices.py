"""Rollouts of compute that claims devices: with devices to spare, and with exactly as many as the pods that serve."""

from __future__ import annotations

import datetime as dt

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from tests.integration.rolling import (
    NAME,
    Pool,
    engines,
    reason,
    recorded,
    reserved,
    roll,
    start,
    wait_rolled,
)
from tests.integration.sets import Sets, changed, condition, gpus

# Longer than it takes the operator to find out that pods wait for devices. What is to succeed has no such deadline.
DEADLINE = 5
SHAPES = {
    "4:8 at 1/0": (4, 8, 1, 0),
    "1:2 at 0/1": (1, 2, 0, 1),
    "5:2 at 0/1": (5, 2, 0, 1),
    "1:1 at 1/0": (1, 1, 1, 0),
}


def _pair(pool: Pool, version: int, prefill: int, decode: int, surge: int, unavailable: int) -> Object:
    roles = {"prefill": pool.role(prefill, surge, unavailable), "decode": pool.role(decode, surge, unavailable)}
    return pool.only(engines(version, **roles))


@pytest.mark.parametrize("shape", SHAPES)
def test_with_devices_to_spare(sets: Sets, cluster: Cluster, shape: str) -> None:
    prefill, decode, surge, _ = SHAPES[shape]
    with reserved(cluster, devices=prefill + decode + 2 * surge) as pool:
        start(sets, _pair(pool, 1, *SHAPES[shape]))
        recording = roll(sets, _pair(pool, 2, *SHAPES[shape]))
    print(recording.table())  # for whoever wants to see it: pytest -s


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "1:1 at 1/0"])
def test_with_none_to_spare(sets: Sets, cluster: Cluster, shape: str) -> None:
    prefill, decode, *_ = SHAPES[shape]
    with reserved(cluster, devices=prefill + decode) as pool:
        start(sets, _pair(pool, 1, *SHAPES[shape]))
        recording = roll(sets, _pair(pool, 2, *SHAPES[shape]), draining=True)
    print(recording.table())


def test_waiting_for_devices(sets: Sets, cluster: Cluster) -> None:
    """``Wait``: nothing is drained, the deadline's clock stands still, and two more devices let it go on."""
    wait = {"whenExhausted": "Wait"}
    with reserved(cluster, devices=5) as pool:
        start(sets, _pair(pool, 1, 2, 3, 1, 0))
        with recorded(sets):
            made = _pair(pool, 2, 2, 3, 1, 0)
            sets.apply(NAME, made | {"rollout": {**wait, "progressDeadlineSeconds": DEADLINE}})
            words = ("compute: waiting for devices for ", "prefill (0 of 2)", "decode (0 of 3)")
            status = _wait_beyond_the_deadline(sets, *words)
            assert condition(status, "Progressing")["message"].startswith(words[0])
            assert condition(status, "Available")["status"] == "True"
            why = "cannot allocate all claims"
            status = sets.wait(NAME, lambda s: why in condition(s, "AcceleratorsAllocated")["message"])
            assert condition(status, "AcceleratorsAllocated")["status"] == "False"
            sets.wait_event(NAME, "WaitingForDevices: compute: waiting for devices")
            sets.apply(NAME, made | {"rollout": wait})
            cluster.add_devices(pool.name, 2)
            wait_rolled(sets)


def test_one_replica_each_waits(sets: Sets, cluster: Cluster) -> None:
    """Draining one of one is an outage, which takes maxUnavailable: else it waits, says so, and stays where it is."""
    with reserved(cluster, devices=2) as pool:
        start(sets, _pair(pool, 1, 1, 1, 1, 0))
        with recorded(sets):
            made = _pair(pool, 2, 1, 1, 1, 0)
            sets.apply(NAME, made | {"rollout": {"progressDeadlineSeconds": DEADLINE}})
            words = "one replica can't be drained without an outage: maxUnavailable 1 on"
            status = _wait_beyond_the_deadline(sets, words)
            assert condition(status, "Available")["status"] == "True"
            sets.apply(NAME, made)
            cluster.add_devices(pool.name, 2)
            wait_rolled(sets)


def test_one_replica_each_with_an_outage_that_is_allowed(sets: Sets, cluster: Cluster) -> None:
    with reserved(cluster, devices=2) as pool:
        start(sets, _pair(pool, 1, 1, 1, 1, 1))
        roll(sets, _pair(pool, 2, 1, 1, 1, 1), draining=True)


def test_devices_that_nobody_has(sets: Sets, cluster: Cluster) -> None:
    """It waits, says for what, and a spec that asks for what there is rolls out."""
    with reserved(cluster, devices=4) as pool:
        start(sets, _pair(pool, 1, 2, 2, 1, 0))
        asks = changed(_pair(pool, 2, 2, 2, 1, 0), lambda s: s["compute"]["roles"][1].update(accelerators=gpus(5)))
        with recorded(sets, draining=True):
            sets.apply(NAME, asks | {"rollout": {"progressDeadlineSeconds": DEADLINE}})
            status = sets.wait(NAME, lambda s: reason(s, "Progressing") == "WaitingForDevices")
            degraded = sets.wait(NAME, lambda s: reason(s, "Degraded") == "DevicesExhausted")
            assert "cannot allocate all claims" in condition(degraded, "Degraded")["message"]
            assert "failedRevisions" not in status
            sets.apply(NAME, _pair(pool, 3, 2, 2, 1, 0))
            wait_rolled(sets)


def _wait_beyond_the_deadline(sets: Sets, *words: str) -> Object:
    """Wait until a rollout waits for devices, by these words, and has for longer than it may go without progress."""

    def waited(status: Object) -> bool:
        assert "failedRevisions" not in status
        (rollout,) = status.get("rollouts") or [{}]
        if "waitingSince" not in rollout:
            return False
        last = dt.datetime.fromisoformat(rollout["lastProgressAt"])
        message = condition(status, "Progressing")["message"]
        late = dt.datetime.now(dt.UTC) - last > dt.timedelta(seconds=DEADLINE + 1)
        return late and all(each in message for each in words)

    status = sets.wait(NAME, waited)
    assert reason(status, "Progressing") == "WaitingForDevices"
    return status
