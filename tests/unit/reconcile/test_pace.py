"""Statuses that can wait take turns."""

from __future__ import annotations

from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile.pace import Pace

WAIT_SECONDS, APART_SECONDS = 2.0, 0.5


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_set_waits_once_and_then_has_its_turn() -> None:
    clock = _Clock()
    pace, key = Pace(WAIT_SECONDS, APART_SECONDS, clock), Key("a", "b")
    assert pace.turn_in(key) == WAIT_SECONDS
    clock.now += WAIT_SECONDS / 2
    assert pace.turn_in(key) == WAIT_SECONDS / 2, "another change does not put it off"
    clock.now += WAIT_SECONDS
    assert pace.turn_in(key) == 0
    pace.forget(key)
    assert pace.turn_in(key) == WAIT_SECONDS


def test_many_sets_are_apart() -> None:
    pace = Pace(WAIT_SECONDS, APART_SECONDS, _Clock())
    turns = [pace.turn_in(Key("a", str(n))) for n in range(100)]
    assert turns == [WAIT_SECONDS + n * APART_SECONDS for n in range(100)]
