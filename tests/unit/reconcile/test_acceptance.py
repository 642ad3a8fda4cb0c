"""What only the cluster can tell, and in which words it is told."""

from __future__ import annotations

from typing import Any

import pytest

from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.children import Children
from disaggregatedset.cluster.client import ApiError, Client
from disaggregatedset.reconcile.acceptance import check_devices, check_revision, field_of
from disaggregatedset.reconcile.controller import WATCHED
from disaggregatedset.reconcile.findings import ACCEPTED, Acceptance
from disaggregatedset.reconcile.scaling import desired_pods
from disaggregatedset.render import SET_LABEL
from tests.api.cases import changed
from tests.unit.builders import World, full_spec, make_set
from tests.unit.fake_api_server import FakeApiServer, Object, status_of


def _check(change: dict[str, Any], *, served: bool = True, classes: Any = ("gpu.example.com",)) -> Acceptance:
    return check_devices(make_set(changed(full_spec(), change)).spec, served=served, classes=classes)


FIRST = "compute.roles[0].accelerators.requests[0]"
NO_DRA = (
    "spec.compute.roles[prefill].accelerators.requests[gpu].deviceClassName: this cluster does not serve "
    "resource.k8s.io/v1: accelerators need Kubernetes 1.34 or later with DRA; without it, remove accelerators and use "
    "a device plugin's resources.limits"
)


def _missing(field: str, name: str, known: str = "existing classes: gpu.example.com") -> Acceptance:
    return Acceptance("DeviceClassNotFound", f"{field}: DeviceClass '{name}' does not exist; {known}")


@pytest.mark.parametrize(
    ("change", "cluster", "expected"),
    [
        ({}, {}, ACCEPTED),
        ({"compute.roles[0].accelerators": None}, {"served": False, "classes": []}, ACCEPTED),
        ({}, {"served": False}, Acceptance("DRANotAvailable", NO_DRA)),
        (
            {},
            {"classes": []},
            _missing(
                "spec.compute.roles[prefill].accelerators.requests[gpu].deviceClassName",
                "gpu.example.com",
                "there is none: install a DRA driver",
            ),
        ),
        (
            {f"{FIRST}.deviceClassName": "x"},
            {"classes": ["b", "a"]},
            _missing(
                "spec.compute.roles[prefill].accelerators.requests[gpu].deviceClassName", "x", "existing classes: a, b"
            ),
        ),
        (
            {"weights.accelerators": {"requests": [{"name": "nic", "deviceClassName": "x"}]}},
            {},
            _missing("spec.weights.accelerators.requests[nic].deviceClassName", "x"),
        ),
        (
            {
                "kvCache.accelerators": {
                    "requests": [{"name": "any", "firstAvailable": [{"name": "one", "deviceClassName": "x"}]}]
                }
            },
            {},
            _missing("spec.kvCache.accelerators.requests[any].firstAvailable[one].deviceClassName", "x"),
        ),
    ],
)
def test_devices(change: dict[str, Any], cluster: dict[str, Any], expected: Acceptance) -> None:
    assert _check(change, **cluster) == expected
    assert expected.accepted == (expected == ACCEPTED)


def test_fields() -> None:
    assert [field_of(g, r) for g, r in (("weights", "weights"), ("kv-cache", "kv-cache"), ("compute", "decode"))] == [
        "spec.weights",
        "spec.kvCache",
        "spec.compute.roles[decode]",
    ]
    assert field_of("kv-coordinator", "kv-coordinator") == "spec.kvCache.coordinator"


async def _check_compute(client: Client) -> Acceptance:
    world = World(make_set())
    children = Children(client, Cache(WATCHED, SET_LABEL))
    return await check_revision(children, world.dset, world.tiers["compute"], desired_pods(world.scales)["compute"])


async def test_a_revision_is_checked_without_writing_anything(server: FakeApiServer, client: Client) -> None:
    assert await _check_compute(client) == ACCEPTED
    assert server.writes() == []
    assert len(server.requests) == 3, "a claim template and two Deployments"


@pytest.mark.parametrize(
    ("before", "where"), [(0, "spec.compute.roles[prefill].accelerators"), (2, "spec.compute.roles[decode]")]
)
async def test_a_refusal_names_the_field_in_the_servers_words(
    server: FakeApiServer, client: Client, before: int, where: str
) -> None:
    server.answers += [None] * before + [status_of(422, "Invalid", "spec.x: Invalid value")]
    assert await _check_compute(client) == Acceptance("Rejected", f"{where}: spec.x: Invalid value")


async def test_a_server_that_cannot_tell_is_no_refusal(server: FakeApiServer, client: Client) -> None:
    server.answers.append(status_of(500, "InternalError", "etcd is down"))
    with pytest.raises(ApiError, match="etcd is down"):
        await _check_compute(client)


async def test_a_field_that_an_older_server_drops(server: FakeApiServer, client: Client) -> None:
    def drop(obj: Object) -> None:
        if obj["kind"] == "Deployment":
            del obj["spec"]["template"]["spec"]["containers"][0]["image"]

    server.mutate = drop
    assert await _check_compute(client) == Acceptance(
        "FieldNotSupported",
        "spec.compute.roles[prefill]: this API server drops template.spec.containers[engine].image: remove the field, "
        "enable its feature gate, or upgrade the cluster",
    )


async def test_a_name_that_is_taken(server: FakeApiServer, client: Client) -> None:
    tier = World(make_set()).tiers["compute"]
    name = f"llama-decode-{tier.revision}"
    taken = {"metadata": {"name": name, "namespace": "inference"}, "spec": {"replicas": 17}}
    server.put(f"/apis/apps/v1/namespaces/inference/deployments/{name}", taken)
    found = await _check_compute(client)
    assert found.reason == "NameConflict"
    assert found.message.startswith(f"Deployment {name} exists in namespace inference and does not belong to this set")
