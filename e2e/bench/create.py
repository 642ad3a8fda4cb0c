"""Measures how long it takes to create sets, with the operator and without."""

from __future__ import annotations

from typing import Final

from disaggregatedset.render import MANAGER
from e2e.bench.measuring import (
    FLOOR_CONNECTIONS,
    POD_PATH,
    SET_PATH,
    USER_CONNECTIONS,
    compare,
    fresh_bed,
    measure_floor,
    operating,
)
from e2e.bench.results import Floor, Measurement, Operated, OperatorProcess, Usage
from e2e.bench.settings import Settings
from e2e.bench.watching import Watcher, has_condition
from e2e.bench.workload import Workload, children, kinds

NAME: Final = "create"
_FLOOR: Final = "created all at once and in no order, until all pods are ready"
_MANAGED: Final = f"app.kubernetes.io/managed-by={MANAGER}"


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
    return compare(
        NAME,
        _FLOOR,
        workload.sets,
        lambda: _floor(workload, settings),
        lambda: _operated(workload, settings),
        floor_first=floor_first,
    )


def _floor(workload: Workload, settings: Settings) -> Floor:
    """Create the children of all sets until their pods are ready."""
    objects = [child for manifest in workload.manifests() for child in children(manifest)]
    with (
        fresh_bed(workload, settings) as bed,
        Watcher(bed.harness_config, POD_PATH, has_condition("Ready"), label_selector=_MANAGED) as pods,
    ):
        return measure_floor(bed, pods, lambda: bed.create(objects, FLOOR_CONNECTIONS), workload.pods, kinds(objects))


def _operated(workload: Workload, settings: Settings) -> tuple[Operated, Usage | None, OperatorProcess]:
    """Create all sets until they are Available; then look at the operator at rest."""
    with (
        operating(workload, settings, NAME, workload.sets) as on,
        Watcher(on.bed.harness_config, SET_PATH, has_condition("Available")) as sets,
    ):
        operated = on.measure(sets, lambda: on.bed.create(workload.manifests(), USER_CONNECTIONS), workload.sets)
        return operated, on.rest(settings.rest_seconds), on.process()
