"""When pods are looked at, with the clock in our hands."""

from __future__ import annotations

import pytest

from disaggregatedset.cluster.objects import Key
from disaggregatedset.reconcile.looks import FIRST_SECONDS, LONGEST_SECONDS, Looks

KEY, OTHER = Key("default", "a"), Key("default", "b")


class Clock:
    """Shows what a test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def looks(clock: Clock) -> Looks:
    return Looks(clock)


def test_the_first_look_is_soon_but_not_at_once(looks: Looks, clock: Clock) -> None:
    assert looks.due_in(KEY, "seen", at_once=False) == FIRST_SECONDS
    clock.now += 1
    assert looks.due_in(KEY, "seen", at_once=False) == FIRST_SECONDS - 1
    clock.now += 10
    assert looks.due_in(KEY, "seen", at_once=False) == 0


def test_a_set_that_was_in_trouble_before_a_restart_is_looked_at_at_once(looks: Looks) -> None:
    assert looks.due_in(KEY, "seen", at_once=True) == 0
    looks.looked(KEY)
    assert looks.due_in(KEY, "seen", at_once=True) > 0
    assert looks.due_in(KEY, "changed", at_once=True) == FIRST_SECONDS


def test_looks_become_rarer_while_nothing_changes(looks: Looks, clock: Clock) -> None:
    looks.due_in(KEY, "seen", at_once=True)
    intervals = []
    for _ in range(7):
        intervals.append(looks.looked(KEY))
        assert looks.due_in(KEY, "seen", at_once=False) == intervals[-1]
        clock.now += intervals[-1]
        assert looks.due_in(KEY, "seen", at_once=False) == 0
    assert intervals == [6, 12, 24, 48, LONGEST_SECONDS, LONGEST_SECONDS, LONGEST_SECONDS]


def test_a_change_starts_from_the_shortest_interval_again(looks: Looks) -> None:
    looks.due_in(KEY, "seen", at_once=True)
    for _ in range(5):
        looks.looked(KEY)
    assert looks.due_in(KEY, "changed", at_once=False) == FIRST_SECONDS
    assert looks.looked(KEY) == FIRST_SECONDS * 2


def test_sets_are_looked_at_independently_and_forgotten(looks: Looks) -> None:
    looks.due_in(KEY, "seen", at_once=True)
    looks.looked(KEY)
    assert looks.due_in(OTHER, "seen", at_once=False) == FIRST_SECONDS
    looks.forget(KEY)
    looks.forget(KEY)
    assert looks.due_in(KEY, "seen", at_once=True) == 0
