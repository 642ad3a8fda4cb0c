"""Measures how long it takes to scale sets whose roles follow each other, with the operator and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from e2e.bench.measuring import (
    SET_PATH,
    USER_CONNECTIONS,
    compare,
    operating,
)
from e2e.bench.process import sleep_until_idle
from e2e.bench.results import Floor, Measurement, Operated, OperatorProcess
from e2e.bench.roll import floor_of_a_change
from e2e.bench.settings import Settings
from e2e.bench.watching import Watcher, has_condition
from e2e.bench.workload import FollowingWorkload, children
from e2e.cluster import Object

NAME: Final = "scale"
_FLOOR: Final = "each scaled by its own number"
_SCALER: Final = "disaggregatedset.dev/v1alpha1", "RoleScaler"


def measure(workload: FollowingWorkload, settings: Settings, *, floor_first: bool) -> Measurement:
    """Scale the role that others follow in sets that are Available, and as many Deployments on another cluster without.

    Parameters
    ----------
    workload
        How many sets.
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


def _floor(workload: FollowingWorkload, settings: Settings) -> Floor:
    """Scale all Deployments until all their pods are there."""
    objects = [
        child for manifest in workload.manifests() for child in children(manifest) if child["kind"] == "Deployment"
    ]
    patches = {
        obj["metadata"]["name"]: {"spec": {"replicas": obj["spec"]["replicas"] * workload.factor}} for obj in objects
    }
    return floor_of_a_change(workload, settings, objects, patches)


def _operated(workload: FollowingWorkload, settings: Settings) -> tuple[Operated, None, OperatorProcess]:
    """Scale the role that others follow until all roles of all sets have their pods."""
    manifests = workload.manifests()
    patch = {"spec": {"replicas": workload.decode * workload.factor}}
    patches = {f"{manifest['metadata']['name']}-decode": patch for manifest in manifests}
    with operating(workload, settings, NAME, workload.sets) as on:
        with Watcher(on.bed.harness_config, SET_PATH, has_condition("Available")) as available:
            on.bed.create(manifests, USER_CONNECTIONS)
            on.wait(available, workload.sets)
        sleep_until_idle(on.operator.process)

        def act() -> dict[str, float]:
            asked = on.bed.patch(*_SCALER, patches, USER_CONNECTIONS)
            return {scaler.removesuffix("-decode"): at for scaler, at in asked.items()}

        with Watcher(on.bed.harness_config, SET_PATH, has_scaled(workload.after())) as scaled:
            return on.measure(scaled, act, workload.sets), None, on.process()


def has_scaled(wanted: Mapping[str, int]) -> Callable[[Object], bool]:
    """Return a function that tells whether a set says that its roles have so many pods, all of them ready."""

    def is_so(obj: Object) -> bool:
        roles = (obj.get("status") or {}).get("roles") or []
        return {r["name"]: r["ready"] for r in roles} == dict(wanted)

    return is_so
