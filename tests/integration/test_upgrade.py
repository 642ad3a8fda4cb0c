"""An upgrade of the operator replaces no pod: what releases have left behind, under the operator of this checkout."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.client import ApiError, Object
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.wait import wait_for
from e2e.operator import install_crds
from tests.integration.replicas import SHORT, Replicas, Request
from tests.integration.rolling import NAME, engines, recorded, role, start, wait_rolled, wanted
from tests.integration.sets import API, KIND, LABEL, PATIENCE, Sets, condition
from tests.integration.upgrade import fixtures, newer

#: The set that is in the middle of a rollout; the others are at rest.
ROLLING = "rolling"
#: Sets whose Available says something else than at first, because later releases know what is scaled to zero.
AVAILABLE_NOW = {"zero": "ScaledToZero", "half-zero": "RoleScaledToZero"}
#: What a set could be and a new one can't be any more, in the rule's words. Such a set goes on as it is, and can be
#: changed, until what the rule is about is changed.
NOT_ANY_MORE = {"half-zero": "or set allowZero on a role that the set can serve without"}
#: How long nothing is written until it counts as at rest: several resyncs.
_REST_SECONDS = 6.0
_RESYNC = "--resync-seconds=2"


@dataclass(frozen=True)
class Snapshot:
    """A set and what came of it.

    Attributes
    ----------
    dset
        The set.
    deployments
        What an upgrade must not change of its Deployments, by name: which they are, how many pods they have, of which
        template.
    pods
        Its pods: each with its uid and its ReplicaSet's.
    """

    dset: Object
    deployments: dict[str, tuple[str, int, Object]]
    pods: set[tuple[str, str]]

    @property
    def status(self) -> Object:
        status: Object = self.dset["status"]
        return status


@dataclass(frozen=True)
class Upgrade:
    """Sets before and after an upgrade, by name, and what the operator has written for it."""

    sets: Sets
    before: dict[str, Snapshot]
    after: dict[str, Snapshot]
    written: list[Request]

    @property
    def resting(self) -> list[str]:
        return [name for name in self.before if name != ROLLING]


def _snapshot(sets: Sets, name: str) -> Snapshot:
    deployments = {
        d["metadata"]["name"]: (d["metadata"]["uid"], d["spec"]["replicas"], d["spec"]["template"])
        for d in sets.deployments(name)
    }
    pods = {
        (pod["metadata"]["uid"], pod["metadata"]["ownerReferences"][0]["uid"])
        for pod in sets.children("v1", "Pod", name)
        if "deletionTimestamp" not in pod["metadata"]
    }
    return Snapshot(sets.get(name), deployments, pods)


def _audited(directory: Path) -> EmbeddedCluster:
    return EmbeddedCluster(audit_log=directory / "audit.log")


@pytest.fixture(scope="module", params=fixtures.recorded(), ids=lambda path: path.name)
def upgrade(
    request: pytest.FixtureRequest, cluster_binaries: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upgrade]:
    """What a release has left behind, with the CRDs and the operator of this checkout since."""
    directory = tmp_path_factory.mktemp("upgrade")
    with _audited(directory) as cluster:
        cluster.add_nodes(3, devices=8)
        names = [dset["metadata"]["name"] for dset in fixtures.restore(cluster, request.param)]
        sets = Sets(cluster, fixtures.NAMESPACE)
        wait_for("all pods to be ready", lambda: all(map(_is_ready, _all_deployments(sets))), timeout=PATIENCE)
        before = {name: _snapshot(sets, name) for name in names}
        install_crds(cluster)
        with Replicas(cluster, directory, *SHORT, _RESYNC) as replicas:
            replicas.start("upgraded")
            for name in names:
                wait_for(f"the RoleScalers of {name}", partial(_scaled, sets, name), timeout=PATIENCE)
            sets.wait_available(ROLLING)
            wait_at_rest(replicas)
            after = {name: _snapshot(sets, name) for name in names}
            yield Upgrade(sets, before, after, [r for r in replicas.writes() if not r.is_lease])


def wait_at_rest(replicas: Replicas) -> None:
    """Wait until operators have nothing more to write."""
    count, since = -1, 0.0

    def at_rest() -> bool:
        nonlocal count, since
        now = len([request for request in replicas.writes() if not request.is_lease])
        if now != count:
            count, since = now, time.monotonic()
        return time.monotonic() - since > _REST_SECONDS

    wait_for("nothing to be written any more", at_rest, timeout=PATIENCE)


def _all_deployments(sets: Sets) -> list[Object]:
    return sets.cluster.client.list("apps/v1", "Deployment", sets.namespace)


def _is_ready(deployment: Object) -> bool:
    status = deployment.get("status") or {}
    return bool(
        status.get("observedGeneration") == deployment["metadata"]["generation"]
        and status.get("readyReplicas", 0) == status.get("replicas", 0) == deployment["spec"]["replicas"]
    )


def _scaled(sets: Sets, name: str) -> bool:
    """Whether each role but the coordinator has a RoleScaler that has said what it found."""
    scalers = {s["spec"]["role"]: s for s in sets.children(API, "RoleScaler", name)}
    roles = {r["name"] for r in sets.get(name)["status"]["roles"]} - {"kv-coordinator"}
    return scalers.keys() == roles and all(s.get("status") for s in scalers.values())


def test_something_was_recorded() -> None:
    assert fixtures.recorded()


def test_no_pod_is_replaced(upgrade: Upgrade) -> None:
    for name in upgrade.resting:
        before, after = upgrade.before[name], upgrade.after[name]
        assert after.deployments == before.deployments, name
        assert after.pods == before.pods, name
        assert before.pods or name == "zero"


def test_a_rollout_goes_on_with_the_pods_that_it_has(upgrade: Upgrade) -> None:
    before, after = upgrade.before[ROLLING], upgrade.after[ROLLING]
    (rollout,) = before.status["rollouts"]
    new = {name for name in before.deployments if name.endswith(rollout["to"])}
    assert after.deployments.keys() == new
    for name in new:
        uid, replicas, template = after.deployments[name]
        assert (uid, template) == (before.deployments[name][0], before.deployments[name][2])
        assert replicas == {"prefill": 2, "decode": 4}[template["metadata"]["labels"][f"{LABEL}/role"]]
    already = {pod for pod in before.pods if pod[1] in {of for _, of in after.pods}}
    assert already
    assert already <= after.pods
    assert len(after.pods) == 6
    assert after.status["goodRevisions"] == {"compute": rollout["to"]}
    assert "rollouts" not in after.status
    said = upgrade.sets.events(ROLLING)
    assert not [event for event in said if event.startswith("RolloutStarted")], "it had started before"
    assert len([event for event in said if event.startswith("RolloutComplete")]) == 1


def _remembered(status: Object) -> Object:
    """What a status says of revisions."""
    fields = ("modelRevision", "goodRevisions", "failedRevisions", "rollouts")
    roles = {
        r["name"]: tuple(r[field] for field in ("revision", "desired", "replicas", "ready", "updated"))
        for r in status["roles"]
    }
    return {"roles": roles, **{field: status[field] for field in fields if field in status}}


def test_the_status_goes_on(upgrade: Upgrade) -> None:
    for name in upgrade.resting:
        before, after = upgrade.before[name].status, upgrade.after[name].status
        assert _remembered(after) == _remembered(before), name
        assert after["observedGeneration"] == before["observedGeneration"]
        for known in before["conditions"]:
            now = condition(after, known["type"])
            if name in AVAILABLE_NOW and known["type"] == "Available":
                assert now["reason"] == AVAILABLE_NOW[name]
            else:
                assert {**now, "message": ""} == {**known, "message": ""}, name


def test_each_role_can_be_scaled(upgrade: Upgrade) -> None:
    for name, snapshot in upgrade.after.items():
        desired = {r["name"]: r["desired"] for r in snapshot.status["roles"]}
        desired.pop("kv-coordinator", None)
        for scaler in upgrade.sets.children(API, "RoleScaler", name):
            number = desired.pop(scaler["spec"]["role"])
            assert scaler["spec"]["replicas"] == scaler["status"]["desiredReplicas"] == number, scaler
            assert scaler["status"]["replicas"] == number, scaler
        assert not desired, name


def test_only_what_is_new_is_written_and_once(upgrade: Upgrade) -> None:
    resting = [r for r in upgrade.written if not _is_about(r, ROLLING)]
    assert all(request.code < 300 for request in resting), resting
    kinds = {request.what.partition("/")[0] for request in resting}
    assert kinds <= {"rolescalers", "disaggregatedsets", "events"}, resting
    created = [r.what for r in resting if r.what.startswith("rolescalers/") and not r.what.endswith("/status")]
    assert len(created) == len(set(created))
    said = [event for name in upgrade.before for event in upgrade.sets.events(name)]
    assert not [event for event in said if event.startswith("Repaired")], said


def _is_about(request: Request, name: str) -> bool:
    return request.what.split("/")[2].startswith(name)


def test_what_was_stored_is_valid_by_the_new_crds(upgrade: Upgrade) -> None:
    client = upgrade.sets.cluster.client
    for name, snapshot in upgrade.before.items():
        spec = snapshot.dset["spec"]
        again = _set(
            upgrade, f"{name}-again", spec
        )  # of one that exists, what stays as it is may be against a new rule
        path = client.path(API, KIND, None, upgrade.sets.namespace)
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        if name in NOT_ANY_MORE:
            with pytest.raises(ApiError, match=NOT_ANY_MORE[name]):
                client.request("POST", path, again, query=query)
        else:
            client.request("POST", path, again, query=query)
        client.apply(_set(upgrade, name, spec), dry_run=True)
        rollout = {**spec["rollout"], "progressDeadlineSeconds": 77}
        client.apply(_set(upgrade, name, {**spec, "rollout": rollout}), dry_run=True)


def _set(upgrade: Upgrade, name: str, spec: Object) -> Object:
    return {
        "apiVersion": API,
        "kind": KIND,
        "metadata": {"name": name, "namespace": upgrade.sets.namespace},
        "spec": spec,
    }


# Two versions side by side


@pytest.fixture(scope="module")
def cluster_of_both(cluster_binaries: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with _audited(tmp_path_factory.mktemp("both")) as cluster:
        cluster.add_nodes(2)
        install_crds(cluster)
        yield cluster


@pytest.fixture
def both(cluster_of_both: Cluster, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Sets, Replicas]]:
    """An operator of this checkout that leads, beside one of a later release that renders pods in another way."""
    name = f"test-{request.node.name[5:].replace('_', '-')}"[:60].strip("-")
    cluster_of_both.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster_of_both.client.wait("v1", "ServiceAccount", "default", name, bool)
    with Replicas(cluster_of_both, tmp_path, *SHORT, _RESYNC) as replicas:
        replicas.start("old")
        replicas.wait_holder("old")
        replicas.start("new", command=(sys.executable, newer.__file__))
        yield Sets(cluster_of_both, name), replicas
        replicas.check_fenced()


def _variables(sets: Sets, revision: str) -> set[bool]:
    """Whether the pods of a revision are told what only the later release tells."""
    return {
        newer.VARIABLE in {variable["name"] for variable in d["spec"]["template"]["spec"]["containers"][0]["env"]}
        for d in sets.deployments(NAME, revision=revision)
    }


def _hand_over(replicas: Replicas) -> None:
    replicas.signal("old", signal.SIGTERM)
    replicas.wait_holder("new")
    replicas.running.pop("old").stop()


def _of_new(replicas: Replicas) -> list[str]:
    return [request.what for request in replicas.writes() if request.replica == "new" and not request.is_lease]


def test_a_later_release_takes_over_what_is_at_rest(both: tuple[Sets, Replicas]) -> None:
    sets, replicas = both
    status = start(sets, engines(1, prefill=role(2), decode=role(2)))
    wait_at_rest(replicas)
    assert _of_new(replicas) == []
    before, written = _snapshot(sets, NAME), sets.written(NAME)
    _hand_over(replicas)
    wait_at_rest(replicas)
    wrote = [what for what in _of_new(replicas) if not what.startswith("events/")]
    assert wrote == [], "it has nothing to write: all that there is was rendered before"
    assert _snapshot(sets, NAME) == before

    # Scaling takes the templates that are stored, and the next revision those of the later release.
    sets.apply(NAME, engines(1, prefill=role(3), decode=role(2)))
    sets.wait_available(NAME)
    assert {name: template for name, (_, _, template) in _snapshot(sets, NAME).deployments.items()} == {
        name: template for name, (_, _, template) in before.deployments.items()
    }
    assert before.pods < _snapshot(sets, NAME).pods
    assert _variables(sets, wanted(status)) == {False}
    assert written.keys() <= sets.written(NAME).keys()
    sets.apply(NAME, engines(2, prefill=role(3), decode=role(2)))
    assert _variables(sets, wanted(wait_rolled(sets))) == {True}


def test_a_later_release_takes_over_in_the_middle_of_a_rollout(both: tuple[Sets, Replicas]) -> None:
    sets, replicas = both
    start(sets, engines(1, prefill=role(2), decode=role(4)))
    with recorded(sets):
        sets.apply(NAME, engines(2, prefill=role(2), decode=role(4)))
        wait_for("pods of the new revision", _begun(sets))
        _hand_over(replicas)
        status = wait_rolled(sets)
    assert _variables(sets, wanted(status)) == {False}, "the revision is as it was when it was first seen"
    wait_at_rest(replicas)
    said = sets.events(NAME)
    assert len(said) == len(set(said)), "nothing is said twice"
    ours = [r for r in replicas.writes() if f"/{sets.namespace}/" in r.what and not r.what.startswith("events/")]
    created = [r.what for r in ours if (r.verb, r.code) == ("patch", 201)]  # a POST is a dry run
    assert any(what.startswith("deployments/") for what in created)
    assert len(created) == len(set(created)), [r for r in ours if created.count(r.what) > 1]


def _begun(sets: Sets) -> Callable[[], bool]:
    def begun() -> bool:
        return len([d for d in sets.deployments(NAME) if (d.get("status") or {}).get("replicas")]) > 2

    return begun
