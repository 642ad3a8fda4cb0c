import pytest

from disaggregatedset.api import DisaggregatedSet
from disaggregatedset.render import COMPUTE, rendered_tiers
from e2e.bench.roll import has_left, has_rolled
from e2e.bench.workload import RollingWorkload, deployment_patch, kinds


def merged(obj, patch):
    if not isinstance(patch, dict):
        return patch
    return obj | {field: merged(obj.get(field, {}), value) for field, value in patch.items()}


def revision(manifest):
    return rendered_tiers(DisaggregatedSet.model_validate(manifest))[COMPUTE].revision


def test_all_roles_are_of_compute_and_move_in_lockstep():
    manifest, _ = RollingWorkload(2).manifests()
    assert list(rendered_tiers(DisaggregatedSet.model_validate(manifest))) == [COMPUTE]
    roles = manifest["spec"]["compute"]["roles"]
    assert [(r["replicas"], r["rollout"]) for r in roles] == [(2, {"maxSurge": 1, "maxUnavailable": 0})] * 3


def test_the_patch_gives_a_set_another_revision():
    (manifest,) = RollingWorkload(1).manifests()
    changed = merged(manifest, RollingWorkload(1).patch())
    assert len(changed["spec"]["compute"]["roles"]) == 3
    assert revision(changed) != revision(manifest)


def test_the_floor_has_the_same_pods():
    made = RollingWorkload(2).deployments()
    assert kinds(made) == {"Deployment": 6}
    assert {d["spec"]["replicas"] for d in made} == {2}
    assert {(d["spec"]["strategy"]["rollingUpdate"]["maxSurge"]) for d in made} == {1}


def test_the_floors_patch_changes_the_image_and_nothing_else():
    made = RollingWorkload(2).deployments()[-1]
    (before,) = made["spec"]["template"]["spec"]["containers"]
    (after,) = merged(made, deployment_patch(made))["spec"]["template"]["spec"]["containers"]
    assert before["image"] != after["image"]
    assert before | {"image": ""} == after | {"image": ""}


@pytest.mark.parametrize("sets", [1, 20, 100, 500])
def test_everything_fits(sets):
    assert RollingWorkload(sets).nodes * 500 >= sets * 3 * (2 + 1) * 2  # as many again may be terminating


def a_set(**status):
    rolled = {
        "observedGeneration": 2,
        "goodRevisions": {COMPUTE: "new"},
        "conditions": [{"type": "Available", "status": "True"}],
    }
    return {"metadata": {"name": "a", "generation": 2}, "status": rolled | status}


def test_a_set_has_rolled():
    assert has_left({"a": "old"})(a_set())


@pytest.mark.parametrize(
    "status",
    [
        {"observedGeneration": 1},
        {"rollouts": [{"group": COMPUTE}]},
        {"goodRevisions": {COMPUTE: "old"}},
        {"goodRevisions": None},
        {"conditions": [{"type": "Available", "status": "False"}]},
    ],
)
def test_a_set_has_not_rolled_yet(status):
    assert not has_left({"a": "old"})(a_set(**status))


def a_deployment(**status):
    rolled = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    return {"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": rolled | status}


def test_a_deployment_has_rolled():
    assert has_rolled(2)(a_deployment())


@pytest.mark.parametrize(
    "status", [{"observedGeneration": 1}, {"replicas": 3}, {"updatedReplicas": 1}, {"availableReplicas": 1}]
)
def test_a_deployment_has_not_rolled_yet(status):
    assert not has_rolled(2)(a_deployment(**status))


def test_a_deployment_that_was_not_changed_yet_has_not_rolled():
    assert not has_rolled(3)(a_deployment())
