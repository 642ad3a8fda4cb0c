import pytest

from e2e.bench.scale import has_scaled
from e2e.bench.workload import FollowingWorkload, children


def replicas(manifest):
    made = [child for child in children(manifest) if child["kind"] == "Deployment"]
    return {d["metadata"]["labels"]["disaggregatedset.dev/role"]: d["spec"]["replicas"] for d in made}


def test_roles_follow_each_other():
    workload = FollowingWorkload(2)
    manifest, _ = workload.manifests()
    before = replicas(manifest)
    assert before == {"weights": 1, "prefill": 2, "decode": 4}
    manifest["spec"]["compute"]["roles"][1]["replicas"] = workload.decode * workload.factor
    assert replicas(manifest) == workload.after() == {role: n * workload.factor for role, n in before.items()}


@pytest.mark.parametrize("ready", [1, 2])
def test_a_set_has_scaled_when_all_roles_have(ready):
    roles = [{"name": "weights", "ready": ready}, {"name": "decode", "ready": 8}]
    assert has_scaled({"weights": 2, "decode": 8})({"status": {"roles": roles}}) == (ready == 2)


def test_a_set_without_a_status_has_not():
    assert not has_scaled({"decode": 8})({})
