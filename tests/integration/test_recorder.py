"""The recorder's checks can fail: made-up recordings that break each invariant, and such as break none."""

from __future__ import annotations

import pytest

from tests.integration.recorder import Count, Instant, Key, Limits, Recording, _Story
from tests.integration.sets import LABEL

ROLES = {"a": frozenset({"prefill", "decode"}), "b": frozenset({"prefill", "decode"})}
SPEC = {"prefill": Limits(2), "decode": Limits(4)}
Asked = dict[str, tuple[int, int]]


def _recording(*boards: dict[str, Asked], spec: dict[str, Limits] | None = None) -> Recording:
    """Pods asked for and ready by revision and role, at each instant."""
    return Recording(
        [
            Instant(
                str(number),
                {Key(r, v): Count(*n, n[1]) for v, of in board.items() for r, n in of.items()},
                [spec or SPEC],
            )
            for number, board in enumerate(boards)
        ],
        ROLES,
    )


def _both(prefill: tuple[int, int], decode: tuple[int, int]) -> Asked:
    return {"prefill": prefill, "decode": decode}


WHOLE, NONE = _both((2, 2), (4, 4)), _both((0, 0), (0, 0))
GOOD = [
    {"a": WHOLE},
    {"a": WHOLE, "b": {"prefill": (1, 0)}},  # between two writes of one plan
    {"a": WHOLE, "b": _both((1, 0), (1, 0))},
    {"a": WHOLE, "b": _both((1, 1), (1, 0))},
    {"a": WHOLE, "b": _both((1, 1), (1, 1))},
    {"a": _both((2, 2), (3, 3)), "b": _both((1, 1), (1, 1))},
    {"a": _both((2, 2), (3, 3)), "b": _both((1, 1), (2, 1))},
    {"a": _both((2, 2), (3, 3)), "b": _both((1, 1), (2, 2))},
    {"a": _both((1, 1), (2, 2)), "b": _both((1, 1), (2, 2))},
    {"a": _both((1, 1), (2, 2)), "b": _both((2, 2), (3, 3))},
    {"a": _both((1, 1), (1, 1)), "b": _both((2, 2), (3, 3))},
    {"a": _both((1, 1), (1, 1)), "b": WHOLE},
    {"a": NONE, "b": WHOLE},
    {"b": WHOLE},
]


def test_a_rollout_that_breaks_nothing() -> None:
    assert _recording(*GOOD).violations() == []


BROKEN = {
    "floor": ({"a": _both((2, 2), (3, 3))}, "floor: 3 pods of decode are ready, and 4 have to be"),
    "ceiling": (
        {"a": WHOLE, "b": _both((2, 0), (1, 0))},
        "ceiling: 4 pods of prefill are asked for, and 3 may be",
    ),
    "coherence": (
        # As many pods of each role as ever, but none of their revisions has enough of both.
        {"a": _both((2, 2), (1, 1)), "b": _both((0, 0), (3, 3))},
        "coherence: 1/4 of what is desired is ready in whole revisions; 1 has to be",
    ),
    "orphans": (
        {"a": WHOLE, "b": {"prefill": (1, 1)}},
        "at the end: revision b has pods in one role and none in another",
    ),
}


@pytest.mark.parametrize("invariant", BROKEN)
def test_a_broken_invariant_is_found(invariant: str) -> None:
    board, expected = BROKEN[invariant]
    found = _recording({"a": WHOLE}, board).violations()
    assert [what for what in found if expected in what], found
    assert all(invariant in what or "orphans" not in invariant for what in found if "at the end" not in what)


def test_only_what_the_pods_say_shows_it() -> None:
    """A Deployment's status may be behind: pods that go although nobody asked for fewer are seen all the same."""
    counts = {Key("prefill", "a"): Count(2, 2, 2), Key("decode", "a"): Count(4, 4, 4)}
    after = {Key("prefill", "a"): Count(2, 2, 2), Key("decode", "a"): Count(4, 4, 3)}
    recording = Recording([Instant("0", counts, [SPEC]), Instant("1", after, [SPEC])], ROLES)
    assert ["floor: 3 pods of decode are serving" in what for what in recording.violations()] == [True, False, False]
    assert recording.violations(pods_fail=True) == []


def test_a_status_that_is_behind_counts_no_pods_that_have_gone() -> None:
    labels = {f"{LABEL}/{key}": value for key, value in {"tier": "compute", "role": "decode", "revision": "a"}.items()}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    pods = [{"kind": "Pod", "metadata": {"uid": uid, "labels": labels}, "status": ready} for uid in "12"]
    deployment = {
        "kind": "Deployment",
        "spec": {"replicas": 2, "template": {"metadata": {"labels": labels}}},
        "metadata": {"uid": "0"},
        "status": {"readyReplicas": 2},
    }
    story = _Story("llama")
    for obj in (*pods, deployment):
        story.tell({"type": "ADDED", "object": obj, "before": None})
    assert story.instant("all are ready", at=0).counts == {Key("decode", "a"): Count(2, 2, 2)}
    story.tell({"type": "DELETED", "object": pods[0], "before": pods[0]})
    assert story.instant("one has gone", at=1).counts == {Key("decode", "a"): Count(2, 1, 1)}


def test_unavailable_pods_are_allowed_where_the_spec_says_so() -> None:
    spec = {"prefill": Limits(2, 0, 1), "decode": Limits(4, 0, 2)}
    assert _recording({"a": WHOLE}, {"a": _both((1, 1), (2, 2))}, spec=spec).violations() == []
    found = _recording({"a": WHOLE}, {"a": _both((1, 1), (1, 1))}, spec=spec).violations()
    assert any("floor: 1 pods of decode are ready, and 2 have to be" in what for what in found)
    assert any("coherence: 1/4 of what is desired" in what for what in found)


def test_draining_for_devices_takes_one_of_two_or_more() -> None:
    drained = _recording({"a": WHOLE}, {"a": _both((1, 1), (3, 3))})
    assert drained.violations()
    assert drained.violations(draining=True) == []
    one = {"prefill": Limits(1), "decode": Limits(1)}
    outage = _recording({"a": _both((1, 1), (1, 1))}, {"a": NONE}, spec=one)
    assert outage.violations(draining=True)


def test_what_was_lost_before_is_not_held_against_the_next_write() -> None:
    lost = _both((2, 1), (4, 1))
    assert (
        _recording({"a": WHOLE}, {"a": lost}, {"a": lost, "b": _both((1, 0), (1, 0))}).violations(pods_fail=True) == []
    )
    taken = _recording({"a": WHOLE}, {"a": lost}, {"a": NONE}).violations(pods_fail=True)
    assert any("floor: 0 pods of prefill are ready" in what for what in taken)


def test_the_spec_that_the_operator_has_not_reported_yet_allows_too() -> None:
    grown = {"prefill": Limits(2), "decode": Limits(6)}
    counts = {Key("prefill", "a"): Count(2, 2, 2), Key("decode", "a"): Count(4, 4, 4)}
    asked = counts | {Key("decode", "a"): Count(7, 4, 4)}
    for specs, broken in (([SPEC, grown], False), ([SPEC], True)):
        recording = Recording([Instant("0", counts, [SPEC]), Instant("1", asked, specs)], ROLES)
        assert bool(recording.violations()) is broken


def test_a_table_of_the_instants() -> None:
    lines = _recording(*GOOD).table().splitlines()
    assert lines[0].split("  ")[0] == "seconds"
    assert len(lines) == 1 + len(GOOD)
    assert "1/1" in lines[5]
