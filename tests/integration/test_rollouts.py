"""Rollouts of compute, recorded by somebody who is not the operator: the invariants hold at every instant."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from tests.integration.recorder import Key
from tests.integration.rolling import (
    NAME,
    engines,
    misbehave,
    reason,
    recorded,
    revisions,
    role,
    roll,
    start,
    wait_rolled,
    wanted,
)
from tests.integration.sets import Sets, changed, condition

# What a change does beside changing the engine; the roles before, and after.
CHANGES: dict[str, tuple[Callable[[], dict[str, Object]], Callable[[], dict[str, Object]]]] = {
    "25%, rounded": (
        lambda: {"prefill": role(3, "25%", "25%"), "decode": role(6, "25%", "25%")},
        lambda: {"prefill": role(3, "25%", "25%"), "decode": role(6, "25%", "25%")},
    ),
    "percentages that round to nothing": (
        lambda: {"prefill": role(2, 0, "10%"), "decode": role(3, 0, "10%")},
        lambda: {"prefill": role(2, 0, "10%"), "decode": role(3, 0, "10%")},
    ),
    "a role grows while another shrinks": (
        lambda: {"prefill": role(2), "decode": role(5)},
        lambda: {"prefill": role(4), "decode": role(2)},
    ),
    "a role grows while another shrinks, without surge": (
        lambda: {"prefill": role(2, 0, 1), "decode": role(5, 0, 1)},
        lambda: {"prefill": role(4, 0, 1), "decode": role(2, 0, 1)},
    ),
    "a role is added": (
        lambda: {"prefill": role(2), "decode": role(2)},
        lambda: {"prefill": role(2), "decode": role(2), "encode": role(2)},
    ),
    "a role is removed": (
        lambda: {"prefill": role(2), "decode": role(2), "encode": role(2)},
        lambda: {"prefill": role(2), "decode": role(2)},
    ),
    "a role is renamed": (
        lambda: {"prefill": role(2), "decode": role(2)},
        lambda: {"prefill": role(2), "generate": role(2)},
    ),
    "all roles become one": (
        lambda: {"prefill": role(2), "decode": role(2)},
        lambda: {"engine": role(3)},
    ),
    "a role is at zero": (
        lambda: {"prefill": role(0, allowZero=True), "decode": role(3)},
        lambda: {"prefill": role(0, allowZero=True), "decode": role(3)},
    ),
    "a role goes to zero": (
        lambda: {"prefill": role(2), "decode": role(3)},
        lambda: {"prefill": role(0, allowZero=True), "decode": role(3)},
    ),
    "a role comes from zero": (
        lambda: {"prefill": role(0, allowZero=True), "decode": role(3)},
        lambda: {"prefill": role(2), "decode": role(3)},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_rolls_out(sets: Sets, change: str) -> None:
    before, after = CHANGES[change]
    start(sets, engines(1, ready_after="200ms", **before()))
    recording = roll(sets, engines(2, ready_after="200ms", **after()))
    numbers = {name: of["replicas"] for name, of in after().items()}
    last = recording.instants[-1].counts
    assert {key.role: (count.asked, count.serving) for key, count in last.items()} == {
        name: (number, number) for name, number in numbers.items() if number
    }


def _pair(version: int, prefill: int = 2, decode: int = 4, **spec: object) -> Object:
    return engines(version, ready_after="700ms", prefill=role(prefill), decode=role(decode)) | spec


def _wait_midway(sets: Sets) -> None:
    """Wait until pods of both revisions serve in both roles."""

    def moved() -> bool:
        found = sets.deployments(NAME, tier="compute")
        serving = [min(d["spec"]["replicas"], (d.get("status") or {}).get("readyReplicas", 0)) for d in found]
        return len(serving) == 4 and min(serving) > 0

    wait_for("a rollout that is under way", moved)


def _ready(status: Object, role: str) -> int:
    return next(int(r["ready"]) for r in status["roles"] if r["name"] == role)


def _capacity(sets: Sets, role: str) -> int:
    """Pods of a role that are asked for and ready."""
    return sum(
        min(d["spec"]["replicas"], d.get("status", {}).get("readyReplicas", 0))
        for d in sets.deployments(NAME, role=role)
        if d.get("status", {}).get("observedGeneration") == d["metadata"]["generation"]
    )


@pytest.mark.parametrize("decode", [6, 2], ids=["up", "down"])
def test_scaling_takes_effect_in_mid_rollout(sets: Sets, decode: int) -> None:
    start(sets, _pair(1))
    (old,) = revisions(sets)
    with recorded(sets) as recorder:
        sets.apply(NAME, _pair(2))
        _wait_midway(sets)
        sets.apply(NAME, _pair(2, decode=decode))
        status = wait_rolled(sets)
    recording = recorder.recording
    scaled = [t >= decode if decode > 4 else t <= decode + 1 for t in recording.total("decode")].index(True)
    assert recording.instants[scaled].counts[Key("prefill", old)].asked > 0, recording.table()
    assert _ready(status, "decode") == decode


def test_paused_in_mid_rollout(sets: Sets) -> None:
    start(sets, _pair(1))
    (old,) = revisions(sets)
    with recorded(sets) as recorder:
        sets.apply(NAME, _pair(2))
        _wait_midway(sets)
        sets.apply(NAME, _pair(2, rollout={"paused": True}))
        status = sets.wait(NAME, lambda s: reason(s, "Progressing") == "Paused")
        assert status["summary"]["rollout"] == "compute: Paused"
        assert condition(status, "Progressing")["message"].endswith(f"paused, with pods of revision {old}")
        both = revisions(sets)
        assert len(both) == 2

        # It scales, with both revisions as they are,
        sets.apply(NAME, _pair(2, decode=6, rollout={"paused": True}))
        sets.wait(NAME, lambda s: _ready(s, "decode") >= 6)
        assert revisions(sets) == both

        # and puts back what others have changed.
        (service,) = [s for s in sets.children("v1", "Service", NAME, role="decode") if _is_stable(s)]
        edit = {"spec": {"selector": {"app": "other"}}}
        sets.cluster.client.patch("v1", "Service", service["metadata"]["name"], sets.namespace, edit)
        sets.cluster.client.wait(
            "v1", "Service", service["metadata"]["name"], sets.namespace,
            lambda s: "app" not in s["spec"]["selector"],
        )  # fmt: skip
    assert recorder.recording.total("decode")[-1] in {6, 7}

    (name,) = [d["metadata"]["name"] for d in sets.deployments(NAME, role="decode", revision=old)]
    sets.cluster.client.patch("apps/v1", "Deployment", name, sets.namespace, {"spec": {"replicas": 0}})
    wait_for("decode to be as desired", lambda: _capacity(sets, "decode") >= 6)
    assert revisions(sets) == both
    with recorded(sets):
        sets.apply(NAME, _pair(2, decode=6))
        status = wait_rolled(sets)
    assert wanted(status) in both


def _is_stable(service: Object) -> bool:
    return "disaggregatedset.dev/revision" not in service["spec"]["selector"]


def test_back_in_mid_rollout(sets: Sets) -> None:
    """A -> B -> A: the Deployments of A that are left take over again."""
    start(sets, _pair(1))
    before = {d["metadata"]["name"]: d["metadata"]["uid"] for d in sets.deployments(NAME)}
    with recorded(sets):
        sets.apply(NAME, _pair(2))
        _wait_midway(sets)
        sets.apply(NAME, _pair(1))
        wait_rolled(sets)
    assert {d["metadata"]["name"]: d["metadata"]["uid"] for d in sets.deployments(NAME)} == before


def test_on_in_mid_rollout(sets: Sets) -> None:
    """A -> B -> C."""
    start(sets, _pair(1))
    with recorded(sets) as recorder:
        sets.apply(NAME, _pair(2))
        _wait_midway(sets)
        sets.apply(NAME, _pair(3))
        wait_rolled(sets)
    assert len(recorder.recording.roles) == 3


def test_changed_again_at_once(sets: Sets) -> None:
    """Three changes before the first has done anything, and the way back after each."""
    start(sets, _pair(1))
    with recorded(sets):
        for version in (2, 1, 3, 1, 4):
            sets.apply(NAME, _pair(version))
        wait_rolled(sets)


def test_an_old_revision_that_crashes(sets: Sets) -> None:
    """Its pods are no capacity any more, and don't keep the new ones from taking over."""
    start(sets, _pair(1))
    (old,) = revisions(sets)
    with recorded(sets, pods_fail=True):
        sets.apply(NAME, _pair(2))
        _wait_midway(sets)
        misbehave(sets, "crash-loop", role="decode", revision=old)
        wait_rolled(sets)


def test_paused_from_the_beginning(sets: Sets) -> None:
    start(sets, _pair(1))
    (old,) = revisions(sets)
    with recorded(sets):
        sets.apply(NAME, _pair(2, rollout={"paused": True}))
        sets.wait(NAME, lambda s: reason(s, "Progressing") == "Paused")
        sets.apply(NAME, _pair(2, decode=5, rollout={"paused": True}))
        sets.wait(NAME, lambda s: _ready(s, "decode") == 5)
        assert revisions(sets) == {old}
        sets.apply(NAME, changed(_pair(2, decode=5), lambda s: s.update(rollout={"paused": False})))
        wait_rolled(sets)
