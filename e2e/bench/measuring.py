"""What all phases have in common: clusters, the operator, and what something that is done to all sets takes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from e2e.bench import audit
from e2e.bench.bed import Bed, Meter, Room
from e2e.bench.process import Operator, cpu_seconds, sleep_until_idle
from e2e.bench.results import Floor, Latency, Measurement, Operated, OperatorProcess, Phase, Usage
from e2e.bench.settings import Settings
from e2e.bench.watching import Watcher
from e2e.bench.workload import NAMESPACE

SET_PATH: Final = f"/apis/disaggregatedset.dev/v1alpha1/namespaces/{NAMESPACE}/disaggregatedsets"
POD_PATH: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
DEPLOYMENT_PATH: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"

#: As kubectl or a GitOps tool would apply many files; the floor gets all that helps it.
USER_CONNECTIONS: Final = 8
FLOOR_CONNECTIONS: Final = 16

#: After this the numbers mean nothing any more.
_SECONDS_PER_SET: Final = 5.0
_LEAST_SECONDS: Final = 120.0

#: Does something to all objects, and returns when it was asked for, by their names.
Act = Callable[[], dict[str, float]]


def compare(
    name: str,
    floor_means: str,
    sets: int,
    floor: Callable[[], Floor],
    operated: Callable[[], tuple[Operated, Usage | None, OperatorProcess]],
    *,
    floor_first: bool,
) -> Measurement:
    """Do something to so many sets with the operator, and the same work on another cluster without.

    Parameters
    ----------
    name
        Of the phase.
    floor_means
        What is done without the operator, in words.
    sets
        How many sets.
    floor, operated
        Measure the one and the other.
    floor_first
        Whether to do the floor first: what comes later has warmer caches.
    """
    load = os.getloadavg()
    first = floor() if floor_first else None
    with_operator, rest, process = operated()
    phase = Phase(name, floor_means, first or floor(), with_operator)
    return Measurement(sets, floor_first, load, [phase], rest, process)


def fresh_bed(room: Room, settings: Settings) -> Bed:
    """Return a fresh cluster with room for a workload, to be started as a context manager."""
    return Bed(room, stock_qps=settings.stock_qps, kubernetes=settings.kubernetes)


def measure_floor(bed: Bed, watcher: Watcher, act: Act, count: int, objects: dict[str, int]) -> Floor:
    """Do something to objects of which so many have to become as wanted."""
    meter = Meter(bed)
    started = time.perf_counter()
    act()
    watcher.wait(count, timeout(count))
    return Floor(max(watcher.times.values()) - started, objects, meter.usage())


@dataclass(frozen=True, slots=True)
class Operating:
    """A cluster on which the operator runs.

    Attributes
    ----------
    bed
        The cluster.
    operator
        The operator.
    start_cpu, start_requests
        What it used until it was ready.
    """

    bed: Bed
    operator: Operator
    start_cpu: float
    start_requests: dict[str, int]

    def wait(self, watcher: Watcher, count: int) -> None:
        """Return as soon as so many objects have been as wanted; say so if the operator has ended instead."""
        try:
            watcher.wait(count, timeout(count))
        except TimeoutError:
            self.operator.check()
            raise

    def measure(self, watcher: Watcher, act: Act, count: int) -> Operated:
        """Do something to so many sets until they are as wanted, and the operator is at rest again."""
        before = self.operator.reconciles()
        meter = Meter(self.bed, {"operator": self.operator.process})
        self.operator.start_profile()
        started = time.perf_counter()
        asked = act()
        self.wait(watcher, count)
        seconds = max(watcher.times.values()) - started
        latency = Latency.of([at - asked[name] for name, at in watcher.times.items()])
        sleep_until_idle(self.operator.process)
        self.operator.end_profile()
        usage = meter.usage()
        reconciles = {result: n - before.get(result, 0) for result, n in self.operator.reconciles().items()}
        return Operated(seconds, latency, usage, reconciles)

    def rest(self, seconds: float) -> Usage | None:
        """Look at the operator when there is nothing to do."""
        if not seconds:
            return None
        meter = Meter(self.bed, {"operator": self.operator.process})
        time.sleep(seconds)
        self.operator.check()
        return meter.usage()

    def process(self) -> OperatorProcess:
        """Return what its process has needed until now."""
        return OperatorProcess(self.start_cpu, self.operator.peak_memory(), self.start_requests)


@contextlib.contextmanager
def operating(room: Room, settings: Settings, phase: str, sets: int) -> Iterator[Operating]:
    """Run the operator on a fresh cluster until it is at rest, and then during the block."""
    if profile := settings.profile_of(phase, sets):
        profile.unlink(missing_ok=True)
    with (
        fresh_bed(room, settings) as bed,
        Operator(bed.operator_config, settings.log_of(phase, sets), profile=profile) as operator,
    ):
        sleep_until_idle(operator.process)
        yield Operating(bed, operator, cpu_seconds(operator.process), audit.count(bed.requests()))


def timeout(count: int) -> float:
    """Return for how many seconds to wait for so many objects."""
    return max(_LEAST_SECONDS, _SECONDS_PER_SET * count)
