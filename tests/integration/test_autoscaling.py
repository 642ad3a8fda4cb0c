"""Roles scaled by the HorizontalPodAutoscaler controller, by metrics that a test sets: the operator never fights it.

On a cluster of its own, whose audit log tells the operator's requests from all others.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.bench import audit
from e2e.cluster.base import Cluster
from e2e.cluster.client import ApiError, Object
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.metrics import Metrics
from e2e.cluster.wait import wait_for
from e2e.operator import Operator, install_crds
from tests.integration.recorder import Recorder, Watch
from tests.integration.rolling import NAME, engines, start, wait_rolled
from tests.integration.scaled import (
    EXTERNAL,
    HPA,
    conditions,
    scaler,
    steps,
    timed,
    wait_scaled,
    wait_scaler,
    wait_started,
    watched,
)
from tests.integration.sets import API, PATIENCE, Sets, condition

OPERATOR = {"name": "operator", "namespace": "kube-system"}
AUTOSCALER = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
QUEUE = "queue_depth"
#: One pod for each request that waits.
BY_QUEUE = {
    "type": "External",
    "external": {"metric": {"name": QUEUE}, "target": {"type": "AverageValue", "averageValue": 1}},
}
BY_LOAD = {
    "type": "Pods",
    "pods": {"metric": {"name": "load"}, "target": {"type": "AverageValue", "averageValue": "500m"}},
}
AT_ONCE = {"scaleDown": {"stabilizationWindowSeconds": 0}}


@dataclass(frozen=True)
class Audited:
    """A cluster with an audit log, and the kubeconfig of an operator."""

    cluster: Cluster
    log: Path
    kubeconfig: Path

    def requests(self, user: str) -> list[audit.Request]:
        """The requests of a user so far."""
        with self.log.open() as lines:
            return audit.read(lines, user)


@pytest.fixture(scope="module")
def audited(cluster_binaries: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    log = tmp_path_factory.mktemp("audit") / "audit.log"
    with EmbeddedCluster(audit_log=log) as cluster:
        install_crds(cluster)
        cluster.add_nodes(2)
        cluster.client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": OPERATOR})
        cluster.client.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": OPERATOR["name"]},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", **OPERATOR}],
            }
        )
        yield Audited(cluster, log, cluster.service_account_kubeconfig(OPERATOR["namespace"], OPERATOR["name"]))


@pytest.fixture(scope="module")
def metrics(audited: Audited) -> Iterator[Metrics]:
    with Metrics(audited.cluster) as adapter:
        yield adapter


@pytest.fixture(scope="module")
def operator(audited: Audited, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with Operator(audited.kubeconfig, tmp_path_factory.mktemp("operator") / "operator.log") as running:
        yield running


@pytest.fixture
def sets(audited: Audited, operator: Operator) -> Iterator[Sets]:
    name = f"autoscaling-{secrets.token_hex(3)}"
    client = audited.cluster.client
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    client.wait("v1", "ServiceAccount", "default", name, bool)
    yield Sets(audited.cluster, name)
    client.delete("v1", "Namespace", name)


def _hpa(*metrics: Object, most: int = 8) -> Object:
    return {"mode": "HPA", "maxReplicas": most, "metrics": [*metrics], "behavior": AT_ONCE}


def _own(sets: Sets, *metrics: Object) -> None:
    """A user's own autoscaler of decode."""
    sets.cluster.apply(
        {
            "apiVersion": HPA[0],
            "kind": HPA[1],
            "metadata": {"name": "mine", "namespace": sets.namespace},
            "spec": {
                "scaleTargetRef": {"apiVersion": API, "kind": "RoleScaler", "name": f"{NAME}-decode"},
                "maxReplicas": 8,
                "metrics": [*metrics],
                "behavior": AT_ONCE,
            },
        }
    )


def _wait_scales(sets: Sets, name: str) -> None:
    def healthy(hpa: Object) -> bool:
        found = conditions(hpa)
        return all(found.get(kind, {}).get("status") == "True" for kind in ("AbleToScale", "ScalingActive"))

    sets.cluster.client.wait(*HPA, name, sets.namespace, healthy, timeout=PATIENCE)


def _asked(watch: Watch) -> list[int]:
    """What the RoleScaler of decode was set to, one after another."""
    seen = [event["object"] for event in watch.events]
    return steps([s["spec"]["replicas"] for s in (*watch.at_first, *seen) if s["metadata"]["name"] == f"{NAME}-decode"])


def _wait_at_rest(audited: Audited, tmp_path: Path) -> None:
    """Wait until operator and autoscaler have looked at everything some times, without a write of either."""
    user = f"system:serviceaccount:{OPERATOR['namespace']}:{OPERATOR['name']}"

    def look() -> tuple[int, int, int]:
        ours, theirs = audited.requests(user), audited.requests(AUTOSCALER)
        writes = [r for r in ours if r.writes and "leases" not in r.resource]
        writes += [r for r in theirs if r.resource == "rolescalers/scale" and r.writes]
        lists = sum(r.verb == "list" and r.resource == "controllerrevisions" for r in ours)
        return len(writes), lists, sum(r.resource == "rolescalers/scale" for r in theirs)

    since = look()

    def still() -> bool:
        nonlocal since
        now = look()
        if now[0] != since[0]:
            since = now
        return now[1] - since[1] >= 4 and now[2] - since[2] >= 4

    with Operator(audited.kubeconfig, tmp_path / "operator.log", ["--resync-seconds=2"]):
        wait_for("the operator and the autoscaler to write nothing", still, PATIENCE)


@pytest.mark.parametrize("whose", ["the operator's", "the user's"])
def test_an_autoscaler_scales_decode_through_a_rollout(
    sets: Sets, audited: Audited, metrics: Metrics, operator: Operator, tmp_path: Path, whose: str
) -> None:
    ours = whose == "the operator's"

    def made(version: int, slow: str = "1s") -> Object:
        decode = {"replicas": 2, **({"scaling": _hpa(BY_QUEUE)} if ours else EXTERNAL)}
        return engines(version, ready_after=slow, prefill={"replicas": 2}, decode=decode)

    metrics.set(sets.namespace, QUEUE, 2)
    start(sets, made(1))
    if not ours:
        _own(sets, BY_QUEUE)
    name = f"{NAME}-decode" if ours else "mine"
    _wait_scales(sets, name)
    with watched(sets, API, "RoleScaler") as asked, Recorder(sets, NAME) as recorder:
        metrics.set(sets.namespace, QUEUE, 6)
        wait_scaled(sets, decode=6, prefill=2)
        sets.apply(NAME, made(2))
        wait_started(sets)
        metrics.set(sets.namespace, QUEUE, 3)
        wait_rolled(sets)
        wait_scaled(sets, decode=3, prefill=2)
    recording = recorder.recording
    print(f"{whose} HPA asked for", _asked(asked), "pods asked for, with surge:", timed(recording, "decode"))
    assert _asked(asked) == [2, 6, 3]
    ready = recording.ready("decode")
    assert min(ready) == 2, recording.table()
    assert min(ready[ready.index(6) :]) == 3, recording.table()
    assert max(recording.total("decode")) <= 7, recording.table()
    assert min(recording.ready("prefill")) == 2, recording.table()
    _wait_scales(sets, name)
    hpa = sets.cluster.client.get(*HPA, name, sets.namespace)
    assert (hpa["status"]["currentReplicas"], hpa["status"]["desiredReplicas"]) == (3, 3)

    operator.stop()
    try:
        _wait_at_rest(audited, tmp_path)
    finally:
        operator.start()
    assert scaler(sets, "decode")["spec"]["replicas"] == 3
    assert sets.cluster.client.get(*HPA, name, sets.namespace)["spec"] == hpa["spec"]


def test_metrics_of_pods_are_those_of_the_role_in_all_revisions(sets: Sets, metrics: Metrics) -> None:
    """The autoscaler finds the pods by the selector of the RoleScaler."""
    load = {"prefill": 50, "decode": 1}
    label = "disaggregatedset.dev/role"
    metrics.set_pods(sets.namespace, "load", lambda pod: load[pod["metadata"]["labels"][label]])
    start(sets, engines(1, prefill={}, decode={"scaling": _hpa(BY_LOAD, most=4)}))
    wait_scaled(sets, decode=4, prefill=1)
    load["decode"] = 0
    wait_scaled(sets, decode=1, prefill=1)
    sets.cluster.client.wait(*HPA, f"{NAME}-decode", sets.namespace, lambda h: (
        conditions(h)["ScalingLimited"]["reason"] == "TooFewReplicas"
    ), timeout=PATIENCE)  # fmt: skip


def test_what_the_set_says_of_its_autoscaler_holds(sets: Sets, metrics: Metrics) -> None:
    metrics.set(sets.namespace, QUEUE, 6)
    start(sets, engines(1, prefill={}, decode={"scaling": _hpa(BY_QUEUE)}))
    wait_scaled(sets, decode=6)
    sets.apply(NAME, engines(1, prefill={}, decode={"scaling": _hpa(BY_QUEUE, most=4)}))
    wait_scaled(sets, decode=4)
    name = f"{NAME}-decode"
    sets.cluster.client.patch(*HPA, name, sets.namespace, {"spec": {"maxReplicas": 20, "minReplicas": 5}})
    sets.cluster.client.wait(*HPA, name, sets.namespace, lambda h: h["spec"]["maxReplicas"] == 4, timeout=PATIENCE)
    uid = sets.cluster.client.get(*HPA, name, sets.namespace)["metadata"]["uid"]
    sets.cluster.client.delete(*HPA, name, sets.namespace)
    sets.cluster.client.wait(*HPA, name, sets.namespace, lambda h: h["metadata"]["uid"] != uid, timeout=PATIENCE)
    wait_scaled(sets, decode=4)


def test_zero_and_back_by_a_queue(sets: Sets, metrics: Metrics) -> None:
    metrics.set(sets.namespace, QUEUE, 2)
    scaling = {**_hpa(BY_QUEUE), "minReplicas": 0}
    follow = {"scaling": {"mode": "Follow", "follow": {"role": "decode", "ratio": "1:2"}}}
    made = engines(1, prefill=follow, decode={"replicas": 1, "scaling": scaling})
    sets.apply(NAME, made)
    if not _zero_is_allowed(sets):  # it is behind a feature gate: where that is off, one is told
        status = sets.wait(NAME, lambda s: condition(s, "Accepted")["status"] == "False")
        message = condition(status, "Accepted")["message"]
        assert message.startswith("spec.compute.roles[decode].scaling: ")
        assert "minReplicas" in message
        return
    wait_scaled(sets, decode=2, prefill=1)
    metrics.set(sets.namespace, QUEUE, 0)
    wait_scaled(sets, decode=0, prefill=0)
    sets.wait(NAME, lambda s: condition(s, "Available")["reason"] == "ScaledToZero")
    metrics.set(sets.namespace, QUEUE, 3)
    wait_scaled(sets, decode=3, prefill=2)


def _zero_is_allowed(sets: Sets) -> bool:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "any"}
    spec = {"scaleTargetRef": target, "minReplicas": 0, "maxReplicas": 1, "metrics": [BY_QUEUE]}
    metadata = {"name": "zero", "namespace": sets.namespace}
    try:
        sets.cluster.client.apply(
            {"apiVersion": HPA[0], "kind": HPA[1], "metadata": metadata, "spec": spec}, dry_run=True
        )
    except ApiError as error:
        if error.status == 422:
            return False
        raise
    return True


def test_an_autoscaler_that_the_api_server_refuses_is_told_and_the_rest_goes_on(sets: Sets, metrics: Metrics) -> None:
    metrics.set(sets.namespace, QUEUE, 3)
    start(sets, engines(1, prefill={}, decode={"scaling": _hpa(BY_QUEUE)}))
    wait_scaled(sets, decode=3)
    bad = {
        "type": "External",
        "external": {"metric": {"name": ""}, "target": {"type": "AverageValue", "averageValue": 1}},
    }
    sets.apply(NAME, engines(1, prefill={"replicas": 2}, decode={"scaling": _hpa(bad)}))
    status = sets.wait(NAME, lambda s: condition(s, "Accepted")["status"] == "False")
    assert condition(status, "Accepted")["message"].startswith("spec.compute.roles[decode].scaling: ")
    metrics.set(sets.namespace, QUEUE, 5)
    wait_scaled(sets, decode=5, prefill=2)
    sets.apply(NAME, engines(1, prefill={"replicas": 2}, decode={"scaling": _hpa(BY_QUEUE)}))
    sets.wait_available(NAME)


def test_changing_the_mode_never_drains_a_role(sets: Sets, metrics: Metrics) -> None:
    metrics.set(sets.namespace, QUEUE, 5)
    follow = {"mode": "Follow", "follow": {"role": "prefill", "ratio": "1:1"}}
    modes = {
        "Static": {"replicas": 5},
        "External": EXTERNAL,  # the number in the set means nothing from here on
        "HPA": {"replicas": 1, "scaling": _hpa(BY_QUEUE)},
        "Follow": {"replicas": 1, "scaling": follow},
        "Static again": {"replicas": 5},
    }

    def made(mode: str) -> Object:
        return engines(1, prefill={"replicas": 5}, decode=dict(modes[mode]))

    start(sets, made("Static"))
    with watched(sets, API, "RoleScaler") as asked, Recorder(sets, NAME) as recorder:
        for mode in [*modes][1:]:
            sets.apply(NAME, made(mode))
            name = mode.split()[0]
            decided_here = name in {"Static", "Follow"}
            wait_scaler(sets, "decode", lambda s, n=name, fixed=decided_here: (
                s["spec"]["mode"] == n
                and ("fixedReplicas" in s["spec"]) == fixed
                and s["status"]["observedGeneration"] == s["metadata"]["generation"]
                and s["status"]["desiredReplicas"] == 5
            ))  # fmt: skip
            if name == "HPA":
                _wait_scales(sets, f"{NAME}-decode")
            else:
                sets.cluster.client.wait_gone(*HPA, f"{NAME}-decode", sets.namespace, timeout=PATIENCE)
            sets.wait_available(NAME)
    recording = recorder.recording
    assert set(recording.total("decode")) == {5}, recording.table()
    assert min(recording.ready("decode")) == 5, recording.table()
    assert _asked(asked) == [5]

    # The other way round, too.
    with Recorder(sets, NAME) as recorder:
        for mode in reversed([*modes][:-1]):
            sets.apply(NAME, made(mode))
            wait_scaler(sets, "decode", lambda s, n=mode: s["spec"]["mode"] == n and (
                s["status"]["observedGeneration"] == s["metadata"]["generation"]
            ))  # fmt: skip
            sets.wait_available(NAME)
    assert set(recorder.recording.total("decode")) == {5}, recorder.recording.table()
    assert min(recorder.recording.ready("decode")) == 5, recorder.recording.table()
