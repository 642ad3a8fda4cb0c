"""Finds the functions in which a profile's time went. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HotSpots:
    """Shares of the time, by function or package, the greatest first.

    Attributes
    ----------
    samples
        How many samples there are.
    own
        Time in a function itself, with the built-in functions that it calls.
    cumulative
        Time in a function and everything that it calls.
    packages
        Time in the functions of a package itself.
    """

    samples: int
    own: list[tuple[str, float]]
    cumulative: list[tuple[str, float]]
    packages: list[tuple[str, float]]


def hot_spots(lines: Iterable[str]) -> HotSpots:
    """Read stacks as the profiler writes them."""
    own: Counter[str] = Counter()
    cumulative: Counter[str] = Counter()
    packages: Counter[str] = Counter()
    for line in lines:
        stack, _, number = line.rstrip("\n").rpartition(" ")
        functions, count = stack.split(";"), int(number)
        own[functions[-1]] += count
        packages[functions[-1].partition(":")[0].partition(".")[0]] += count
        for function in set(functions):  # a recursive one is there once
            cumulative[function] += count
    samples = own.total()
    return HotSpots(samples, *(_shares(counter, samples) for counter in (own, cumulative, packages)))


def _shares(counter: Counter[str], samples: int) -> list[tuple[str, float]]:
    return [(name, count / samples) for name, count in counter.most_common()]
