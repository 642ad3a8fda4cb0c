"""Measures how long it takes to roll sets to another image, with the operator and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from disaggregatedset.render import COMPUTE
from e2e.bench.bed import Room
from e2e.bench.measuring import (
    DEPLOYMENT_PATH,
    FLOOR_CONNECTIONS,
    SET_PATH,
    USER_CONNECTIONS,
    compare,
    fresh_bed,
    measure_floor,
    operating,
    timeout,
)
from e2e.bench.process import sleep_until_idle
from e2e.bench.results import Floor, Measurement, Operated, OperatorProcess
from e2e.bench.settings import Settings
from e2e.bench.watching import Watcher, has_condition
from e2e.bench.workload import NAMESPACE, RollingWorkload, deployment_patch, kinds
from e2e.cluster import Object

NAME: Final = "roll"
_FLOOR: Final = "plain, each with the same maxSurge and maxUnavailable, rolled all at once by the Deployment controller"


def measure(workload: RollingWorkload, settings: Settings, *, floor_first: bool) -> Measurement:
    """Roll sets that are Available with the operator, and as many Deployments on another cluster without.

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


def _floor(workload: RollingWorkload, settings: Settings) -> Floor:
    """Change the image of all Deployments until they have rolled."""
    objects = workload.deployments()
    patches = {obj["metadata"]["name"]: deployment_patch(obj) for obj in objects}
    return floor_of_a_change(workload, settings, objects, patches)


def floor_of_a_change(
    room: Room, settings: Settings, deployments: list[Object], patches: Mapping[str, Object]
) -> Floor:
    """Change Deployments that have all their pods, until they have them again."""
    count = len(deployments)
    with fresh_bed(room, settings) as bed:
        with Watcher(bed.harness_config, DEPLOYMENT_PATH, has_rolled(1)) as made:
            bed.create(deployments, FLOOR_CONNECTIONS)
            made.wait(count, timeout(count))
        with Watcher(bed.harness_config, DEPLOYMENT_PATH, has_rolled(2)) as changed:
            return measure_floor(
                bed,
                changed,
                lambda: bed.patch("apps/v1", "Deployment", patches, FLOOR_CONNECTIONS),
                count,
                kinds(deployments),
            )


def _operated(workload: RollingWorkload, settings: Settings) -> tuple[Operated, None, OperatorProcess]:
    """Change the image of all roles of all sets until they have rolled."""
    manifests = workload.manifests()
    patches = {manifest["metadata"]["name"]: workload.patch() for manifest in manifests}
    api_version, kind = manifests[0]["apiVersion"], manifests[0]["kind"]
    with operating(workload, settings, NAME, workload.sets) as on:
        with Watcher(on.bed.harness_config, SET_PATH, has_condition("Available")) as available:
            on.bed.create(manifests, USER_CONNECTIONS)
            on.wait(available, workload.sets)
        sleep_until_idle(on.operator.process)
        made = on.bed.cluster.client.list(api_version, kind, NAMESPACE)
        before = {obj["metadata"]["name"]: str(_good(obj)) for obj in made}
        with Watcher(on.bed.harness_config, SET_PATH, has_left(before)) as rolled:
            operated = on.measure(
                rolled, lambda: on.bed.patch(api_version, kind, patches, USER_CONNECTIONS), workload.sets
            )
        return operated, None, on.process()


def has_left(before: Mapping[str, str]) -> Callable[[Object], bool]:
    """Return a function that tells whether a set says that it has rolled from a revision, by its name, to another."""
    is_available = has_condition("Available")

    def wanted(obj: Object) -> bool:
        status, good = obj.get("status") or {}, _good(obj)
        return (
            status.get("observedGeneration") == obj["metadata"]["generation"]
            and not status.get("rollouts")
            and good is not None
            and good != before[obj["metadata"]["name"]]
            and is_available(obj)
        )

    return wanted


def _good(obj: Object) -> str | None:
    revision: str | None = ((obj.get("status") or {}).get("goodRevisions") or {}).get(COMPUTE)
    return revision


def has_rolled(generation: int) -> Callable[[Object], bool]:
    """Return a function that tells whether a Deployment of at least a generation has rolled, as kubectl would say."""

    def wanted(obj: Object) -> bool:
        status, replicas = obj.get("status") or {}, obj["spec"]["replicas"]
        counts = [status.get(field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas")]
        observed = status.get("observedGeneration", 0)
        return bool(observed >= max(generation, obj["metadata"]["generation"]) and set(counts) == {replicas})

    return wanted
