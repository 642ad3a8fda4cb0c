"""Measures how long it takes to create sets, with the operator and without."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from disaggregatedset.render import MANAGER
from e2e.bench import audit
from e2e.bench.bed import Bed, Meter
from e2e.bench.process import Operator, cpu_seconds, sleep_until_idle
from e2e.bench.results import Floor, Latency, Measurement, Operated, OperatorProcess, Phase, Usage
from e2e.bench.watching import Watcher, has_condition
from e2e.bench.workload import NAMESPACE, Workload, children, kinds

_SET_PATH: Final = f"/apis/disaggregatedset.dev/v1alpha1/namespaces/{NAMESPACE}/disaggregatedsets"
_POD_PATH: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
_MANAGED: Final = f"app.kubernetes.io/managed-by={MANAGER}"

#: As kubectl or a GitOps tool would apply many files; the floor gets all that helps it.
_USER_CONNECTIONS: Final = 8
_FLOOR_CONNECTIONS: Final = 16

#: After this the numbers mean nothing any more.
_SECONDS_PER_SET: Final = 5.0
_LEAST_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure.

    Attributes
    ----------
    stock_qps
        Whether controller manager and scheduler keep their default limits on requests per second.
    rest_seconds
        How long to look at the operator at rest; 0: not at all.
    kubernetes
        The cluster's version; None: the default.
    directory
        Where logs and profiles go.
    profile
        Whether to profile the operator.
    """

    stock_qps: bool
    rest_seconds: float
    kubernetes: str | None
    directory: Path
    profile: bool

    def profile_of(self, sets: int) -> Path | None:
        """Return where the profile with so many sets goes; None: there is none."""
        return self.directory / f"profile-{sets}.txt" if self.profile else None


def measure(workload: Workload, settings: Settings, *, floor_first: bool) -> Measurement:
    """Create sets on a fresh cluster with the operator, and their children on another one without.

    Parameters
    ----------
    workload
        How many sets of what size.
    settings
        How to measure.
    floor_first
        Whether to do the second one first: what comes later has warmer caches.
    """
    load = os.getloadavg()
    floor = measure_floor(workload, settings) if floor_first else None
    operated, rest, process = measure_operator(workload, settings)
    phase = Phase("create", floor or measure_floor(workload, settings), operated)
    return Measurement(workload.sets, floor_first, load, [phase], rest, process)


def measure_floor(workload: Workload, settings: Settings) -> Floor:
    """Create the children of all sets, all at once and in no order, until their pods are ready."""
    objects = [child for manifest in workload.manifests() for child in children(manifest)]
    with (
        Bed(workload, stock_qps=settings.stock_qps, kubernetes=settings.kubernetes) as bed,
        Watcher(bed.harness_config, _POD_PATH, has_condition("Ready"), label_selector=_MANAGED) as pods,
    ):
        meter = Meter(bed)
        started = time.perf_counter()
        bed.create(objects, _FLOOR_CONNECTIONS)
        pods.wait(workload.pods, _timeout(workload))
        return Floor(max(pods.times.values()) - started, kinds(objects), meter.usage())


def measure_operator(workload: Workload, settings: Settings) -> tuple[Operated, Usage | None, OperatorProcess]:
    """Create all sets until they are Available; then look at the operator at rest."""
    log = settings.directory / f"operator-{workload.sets}.log"
    if profile := settings.profile_of(workload.sets):
        profile.unlink(missing_ok=True)
    with (
        Bed(workload, stock_qps=settings.stock_qps, kubernetes=settings.kubernetes) as bed,
        Operator(bed.operator_config, log, profile=profile) as operator,
        Watcher(bed.harness_config, _SET_PATH, has_condition("Available")) as sets,
    ):
        sleep_until_idle(operator.process)
        start_cpu, start_requests = cpu_seconds(operator.process), bed.requests()
        meter = Meter(bed, {"operator": operator.process})
        operator.start_profile()
        started = time.perf_counter()
        asked = bed.create(workload.manifests(), _USER_CONNECTIONS)
        try:
            sets.wait(workload.sets, _timeout(workload))
        except TimeoutError:
            operator.check()
            raise
        seconds = max(sets.times.values()) - started
        latency = Latency.of([at - asked[name] for name, at in sets.times.items()])
        sleep_until_idle(operator.process)
        operator.end_profile()
        operated = Operated(seconds, latency, meter.usage())
        rest = _rest(bed, operator, settings.rest_seconds)
        process = OperatorProcess(start_cpu, operator.peak_memory(), audit.count(start_requests))
        return operated, rest, process


def _rest(bed: Bed, operator: Operator, seconds: float) -> Usage | None:
    if not seconds:
        return None
    meter = Meter(bed, {"operator": operator.process})
    time.sleep(seconds)
    operator.check()
    return meter.usage()


def _timeout(workload: Workload) -> float:
    return max(_LEAST_SECONDS, _SECONDS_PER_SET * workload.sets)
