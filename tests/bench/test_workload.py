import pytest

from disaggregatedset.api import DisaggregatedSet
from e2e.bench.workload import Workload, children, kinds


def test_sets_are_valid_and_have_names_of_their_own():
    manifests = Workload(3).manifests()
    assert len({DisaggregatedSet.model_validate(m).metadata.name for m in manifests}) == 3


@pytest.mark.parametrize("devices", [False, True])
def test_children_are_those_of_three_roles(devices):
    (manifest,) = Workload(1, devices=devices).manifests()
    made = kinds(children(manifest))
    assert made.pop("ResourceClaimTemplate", 0) == (2 if devices else 0)
    assert made["Deployment"] == made["PodDisruptionBudget"] == 3
    assert made["Service"] == 5
    assert made["ControllerRevision"] == 2


def test_children_are_owned_by_nobody():
    (manifest,) = Workload(1).manifests()
    assert not any("ownerReferences" in child["metadata"] for child in children(manifest))


def test_replicas_reach_the_deployments():
    (manifest,) = Workload(1, weights=2, prefill=3, decode=4).manifests()
    deployments = [child for child in children(manifest) if child["kind"] == "Deployment"]
    assert [d["spec"]["replicas"] for d in deployments] == [2, 3, 4]


@pytest.mark.parametrize("sets", [1, 20, 100, 500])
@pytest.mark.parametrize("devices", [False, True])
def test_everything_fits(sets, devices):
    workload = Workload(sets, 1, 2, 3, devices)
    assert workload.nodes * 500 >= workload.pods  # what a node takes
    assert workload.nodes * workload.devices_per_node >= workload.claims
    assert workload.devices_per_node <= 128  # what a ResourceSlice takes
