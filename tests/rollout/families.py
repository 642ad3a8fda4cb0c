"""What the model checker explores, family by family.

``PYTHONPATH=operator python -m tests.rollout.families`` explores what the tests do and prints a report; ``--full``
explores everything (hours), ``--only WORD`` the families whose name has that word.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations_with_replacement, islice, product
from typing import NamedTuple

from disaggregatedset.rollout import WhenExhausted
from tests.rollout.model import Scenario, Shape, Spec, check


def shapes(most: int) -> list[Shape]:
    """All legal numbers of a role with up to so many replicas, and surge and unavailable up to two."""
    return [
        Shape(replicas, surge, unavailable)
        for replicas in range(1, most + 1)
        for surge in range(3)
        for unavailable in range(min(2, replicas) + 1)
        if surge or unavailable
    ]


def groups(roles: int, most: int) -> Iterator[dict[str, Shape]]:
    """All groups of so many roles, regardless of their order."""
    for combination in combinations_with_replacement(shapes(most), roles):
        yield dict(zip("pde", combination, strict=False))


def rollout(group: dict[str, Shape], *targets: str) -> Scenario:
    """From revision A to others, each replacing the one before it at any moment."""
    return Scenario(tuple(Spec(target, group) for target in ("A", *targets)))


def scaled(group: dict[str, Shape], replicas: tuple[int, ...]) -> dict[str, Shape]:
    return {
        name: shape._replace(replicas=number) for (name, shape), number in zip(group.items(), replicas, strict=True)
    }


def _one_role(full: bool) -> Iterator[Scenario]:
    for group in groups(1, 4):
        yield replace(rollout(group, "B"), failures=None, lag=True)
        yield replace(rollout(group, "B", "C"), failures=None if full else 1, lag=full)
        yield replace(rollout(group, "B", "A"), failures=None if full else 1, lag=full)


def _two_roles(full: bool) -> Iterator[Scenario]:
    for group in groups(2, 4):
        yield rollout(group, "B")


def _two_roles_failing(full: bool) -> Iterator[Scenario]:
    for group in groups(2, 3 if full else 1):
        yield replace(rollout(group, "B"), failures=None)
    for group in groups(2, 4 if full else 2):
        yield replace(rollout(group, "B"), failures=2 if full else 1)


def _two_roles_lagging(full: bool) -> Iterator[Scenario]:
    for group in groups(2, 3 if full else 2):
        yield replace(rollout(group, "B"), lag=True, failures=int(full))


def _three_roles(full: bool) -> Iterator[Scenario]:
    for group in groups(3, 4 if full else 2):
        yield rollout(group, "B")
    if full:
        for group in islice(groups(3, 2), 0, None, 5):
            yield replace(rollout(group, "B"), failures=1)


def _respecified(full: bool) -> Iterator[Scenario]:
    for group in groups(2, 3 if full else 2):
        for targets in (("B", "A"), ("B", "C"), *((("B", "C", "D"), ("B", "C", "B")) if full else ())):
            yield replace(rollout(group, *targets), failures=int(full and len(targets) == 2))
    if full:
        for group in groups(3, 2):
            yield rollout(group, "B", "C")


def _scaled(full: bool) -> Iterator[Scenario]:
    for group in islice(groups(2, 3), 0, None, 5) if full else groups(2, 2):
        for replicas in product(range(5 if full else 4), repeat=2):
            other = scaled(group, replicas)
            yield Scenario((Spec("A", group), Spec("A", other)))
            yield Scenario((Spec("A", group), Spec("B", other)))
            yield Scenario((Spec("A", group), Spec("B", group), Spec("B", other)))
            if full:
                yield Scenario((Spec("A", group), Spec("B", other), Spec("B", group)), failures=1)
                yield Scenario((Spec("A", group), Spec("B", group), Spec("C", other)))


def _other_roles(full: bool) -> Iterator[Scenario]:
    for group in groups(2, 4 if full else 3):
        p, d = group.values()
        one, two, renamed = {"p": p}, {"p": p, "d": d}, {"p": p, "e": d}
        for first, *rest in (
            (one, two),
            (two, one),
            (two, renamed),
            (one, {"d": d}),
            (one, two, one),
            (two, one, two),
            (two, two, one),
            (one, one, two),
        ):
            specs = [Spec(name, roles) for name, roles in zip("ABC", (first, *rest), strict=False)]
            roles = {spec.target: tuple(spec.roles) for spec in specs}
            yield Scenario(tuple(specs), roles, failures=int(full))


def _scarce(full: bool) -> Iterator[Scenario]:
    for group in groups(2, 3 if full else 2):
        running = sum(shape.replicas for shape in group.values())
        for spare, policy in product((0, 1), WhenExhausted):
            scenario = replace(rollout(group, "B"), devices=running + spare, when_exhausted=policy)
            yield replace(scenario, failures=int(full and policy is WhenExhausted.DRAIN_FIRST))
            if max(group.values()).replicas <= 2:
                yield replace(scenario, specs=rollout(group, "B", "C").specs)


def _staying(full: bool) -> Iterator[Scenario]:
    for group in groups(2, 2):
        for replicas in product(range(4), repeat=2):
            other = scaled(group, replicas)
            start = Spec("A", group), Spec("B", group)
            yield Scenario((*start, Spec("B", other, paused=True), Spec("B", other)), failures=0)
            yield Scenario((start[0], Spec("A", other, paused=True)), failures=1)
            yield Scenario((start[0], Spec("B", other, paused=True)), failures=int(full))
    for group in groups(2, 4 if full else 3):
        yield Scenario((Spec("A", group), Spec("B", group), Spec("B", group, held=True)), failures=int(full))


def _failed(full: bool) -> Iterator[Scenario]:
    """Decode pods of the last revision never turn ready."""
    for group in [*groups(1, 3), *groups(2, 3 if full else 2)]:
        name, lag = list(group)[-1], len(group) == 1
        for replicas in product(range(5), repeat=len(group)):
            other, start = scaled(group, replicas), (Spec("A", group), Spec("B", group))
            for last in Spec("B", other, held=True), Spec("B", other, paused=True), Spec("A", other, held=True):
                failures = int(lag or full)
                yield Scenario((*start, last), failures=failures, lag=lag, never=frozenset({("B", name)}))
            if lag or full:
                there_and_back = Spec("B", other, paused=True), Spec("B", group, paused=True)
                yield Scenario((*start, *there_and_back), failures=1, never=frozenset({("B", name)}))
                third = Spec("C", group), Spec("C", other, held=True)
                yield Scenario((*start, *third), failures=1, never=frozenset({("C", name)}))
                yield Scenario((*start, *third), never=frozenset({("B", name), ("C", name)}))


class Family(NamedTuple):
    """A family of scenarios; the tests explore every ``stride``-th that isn't full."""

    name: str
    scenarios: Callable[[bool], Iterator[Scenario]]
    stride: int = 1

    def select(self, full: bool) -> Iterator[Scenario]:
        for scenario in self.scenarios(full) if full else islice(self.scenarios(full), 0, None, self.stride):
            yield scenario
            if scenario.failures == 0 and not scenario.lag:
                # Where the operator lives and no pod fails, nothing excuses an orphan.
                yield replace(scenario, crashes=False)


FAMILIES = (
    Family("one role, any failures, lag", _one_role),
    Family("two roles", _two_roles),
    Family("two roles, pods fail", _two_roles_failing, 2),
    Family("two roles, lag", _two_roles_lagging, 3),
    Family("three roles", _three_roles, 9),
    Family("A -> B -> A, A -> B -> C", _respecified, 2),
    Family("scaled at rest, with and in a rollout", _scaled, 41),
    Family("roles added, removed, renamed", _other_roles, 19),
    Family("devices are scarce", _scarce, 61),
    Family("paused, resumed, held", _staying, 41),
    Family("paused or held with a revision that failed", _failed, 41),
)


def main() -> None:
    """Explore and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="explore everything")
    parser.add_argument("--only", default="", help="families whose name has this word")
    options = parser.parse_args()
    print(f"{'family':40} {'scenarios':>9} {'states':>10} {'most plans':>10} {'seconds':>8}  invariants")
    for family in FAMILIES:
        if options.only not in family.name:
            continue
        began, states, plans, number = time.monotonic(), 0, 0, 0
        for number, scenario in enumerate(family.select(options.full), 1):  # noqa: B007
            report = check(scenario)
            states, plans = states + report.states, max(plans, report.plans)
        print(
            f"{family.name:40} {number:9} {states:10} {plans:10} {time.monotonic() - began:8.1f}  all held", flush=True
        )


if __name__ == "__main__":
    main()
