"""What was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that each of several things took."""

    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Summarise times; there must be at least one."""
        return cls(percentile(seconds, 50), percentile(seconds, 99), max(seconds))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that is at least as great as so many percent of the values (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used in a time.

    Attributes
    ----------
    seconds
        How long the time was.
    cpu
        CPU seconds, user and system, by process: the cluster's components, the operator and this harness.
    requests
        The operator's requests by verb and resource.
    failed
        Those that were refused, by verb, resource and status.
    writes
        How many of the operator's requests stored something.
    """

    seconds: float
    cpu: dict[str, float]
    requests: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    writes: int = 0


@dataclass(frozen=True, slots=True)
class Floor:
    """What the control plane alone took.

    Attributes
    ----------
    seconds
        From the first request until everything was as wanted.
    objects
        To how many objects it was done, by kind.
    usage
        What was used.
    """

    seconds: float
    objects: dict[str, int]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Operated:
    """What it took with the operator.

    Attributes
    ----------
    seconds
        From the first request until the last set was as wanted.
    latency
        From the request for a set until it was as wanted.
    usage
        What was used, until the operator was at rest again.
    reconciles
        How often a set was reconciled until then, by result.
    """

    seconds: float
    latency: Latency
    usage: Usage
    reconciles: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phase:
    """One thing that was done to all sets, with the operator and without.

    Attributes
    ----------
    name
        Such as ``create``.
    floor_means
        What was done to the floor's objects instead.
    floor, operated
        What it took.
    """

    name: str
    floor_means: str
    floor: Floor
    operated: Operated

    @property
    def ratio(self) -> float:
        """Time as a multiple of the floor's."""
        return self.operated.seconds / self.floor.seconds


@dataclass(frozen=True, slots=True)
class OperatorProcess:
    """The operator's process over its whole life.

    Attributes
    ----------
    start_cpu
        CPU seconds until it was ready: mostly imports.
    peak_memory
        The most memory that was resident, in bytes.
    start_requests
        Requests until it was ready, and the watches that it opened then.
    """

    start_cpu: float
    peak_memory: int
    start_requests: dict[str, int]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything about one number of sets.

    Attributes
    ----------
    sets
        How many.
    floor_first
        Whether the floor was measured before the operator.
    load
        The machine's load average over one, five and fifteen minutes, at the start.
    phases
        What was done, in this order.
    rest
        What was used when there was nothing to do.
    process
        The operator's process.
    """

    sets: int
    floor_first: bool
    load: tuple[float, float, float]
    phases: list[Phase]
    rest: Usage | None
    process: OperatorProcess
