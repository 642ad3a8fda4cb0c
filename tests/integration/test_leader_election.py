"""Several replicas, of which one writes, whatever happens to it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.wait import wait_for
from e2e.operator import install_crds
from tests.integration.replicas import LEASE, SHORT, Replicas
from tests.integration.rolling import NAME, engines, recorded, role, start, wait_rolled
from tests.integration.sets import Sets, spec

FREEZES = 3


@pytest.fixture(scope="module")
def audited(cluster_binaries: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own: on the shared one, another operator writes."""
    log = tmp_path_factory.mktemp("audit") / "audit.log"
    with EmbeddedCluster(audit_log=log) as cluster:
        cluster.add_nodes(2)
        install_crds(cluster)
        yield cluster


@pytest.fixture
def sets(audited: Cluster, request: pytest.FixtureRequest) -> Sets:
    """Sets in a namespace of the test, on that cluster."""
    name = f"test-{request.node.name[5:].replace('_', '-')}"[:60].strip("-")
    audited.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    audited.client.wait("v1", "ServiceAccount", "default", name, bool)
    audited.client.delete(*LEASE)
    return Sets(audited, name)


def _other(name: str) -> str:
    return "b" if name == "a" else "a"


def test_one_writes_and_both_are_ready(audited: Cluster, sets: Sets, tmp_path: Path) -> None:
    with Replicas(audited, tmp_path, *SHORT) as replicas:
        replicas.start("a", "b")  # which waits until each is ready, so a standby is ready too
        leader = replicas.wait_holder()
        sets.apply("one", spec())
        sets.wait_available("one")
        statuses = {
            name: 'leader_election_master_status{name="disaggregatedset"} 1.0' in operator.metrics()
            for name, operator in replicas.running.items()
        }
        assert statuses == {leader: True, _other(leader): False}
        writers = {request.replica for request in replicas.writes()}
        assert writers == {leader}, "the other one wrote nothing, not even the Lease"
        replicas.check_fenced()
        events = audited.client.list("events.k8s.io/v1", "Event", "default")
        notes = [e["note"] for e in events if e["regarding"]["kind"] == "Lease"]
        assert any(note.startswith(f"{leader}_") and note.endswith(" became leader") for note in notes)
        rest = len([r for r in replicas.writes() if not r.is_lease])
        renewed = audited.client.get(*LEASE)["spec"]["renewTime"]
        wait_for("some renewals", lambda: audited.client.get(*LEASE)["spec"]["renewTime"] > renewed)
        assert len([r for r in replicas.writes() if not r.is_lease]) == rest, "a set at rest costs no write"


def test_a_killed_leader_is_replaced_and_its_rollout_finished(audited: Cluster, sets: Sets, tmp_path: Path) -> None:
    with Replicas(audited, tmp_path, *SHORT) as replicas:
        replicas.start("a", "b")
        start(sets, engines(1, prefill=role(2), decode=role(4)))
        leader = replicas.wait_holder()
        with recorded(sets):
            sets.apply(NAME, engines(2, prefill=role(2), decode=role(4)))
            wait_for("the rollout to begin", lambda: (sets.get(NAME).get("status") or {}).get("rollouts"))
            replicas.kill(leader)
            killed = time.monotonic()
            replicas.wait_holder(_other(leader))
            taken = time.monotonic() - killed
            wait_rolled(sets)
        assert 4 - 0.5 <= taken <= 4 * 1.05 + 2, taken
        assert audited.client.get(*LEASE)["spec"]["leaseTransitions"] == 1
        replicas.check_fenced()


def test_a_leader_that_is_told_to_end_hands_over_at_once(audited: Cluster, sets: Sets, tmp_path: Path) -> None:
    """With the lease as it is by default: nobody waits for it to run out."""
    with Replicas(audited, tmp_path) as replicas:
        replicas.start("a", "b")
        start(sets, engines(1, prefill=role(2), decode=role(4)))
        leader = replicas.wait_holder()
        with recorded(sets):
            sets.apply(NAME, engines(2, prefill=role(2), decode=role(4)))
            wait_for("the rollout to begin", lambda: (sets.get(NAME).get("status") or {}).get("rollouts"))
            told = time.monotonic()
            replicas.signal(leader, signal.SIGTERM)
            replicas.wait_holder(_other(leader))
            taken = time.monotonic() - told
            wait_rolled(sets)
        assert taken <= 2
        replicas.running.pop(leader).stop()
        log = replicas.log(leader).read_text()
        assert "released the lease" in log
        assert "Traceback" not in log
        replicas.check_fenced()


def test_a_frozen_leader_writes_nothing_when_it_wakes(audited: Cluster, sets: Sets, tmp_path: Path) -> None:
    def churn(version: int) -> None:
        for name in ("one", "two", "three"):
            sets.apply(name, engines(version, ready_after="0s", prefill=role(1), decode=role(2)))

    with Replicas(audited, tmp_path, *SHORT) as replicas:
        replicas.start("a", "b")
        leader = replicas.wait_holder()
        churn(0)
        for freeze in range(1, FREEZES + 1):
            enough = len(replicas.writes()) + 3 * freeze  # another moment each time
            churn(freeze)
            wait_for("it to be in the middle of that", lambda n=enough: len(replicas.writes()) >= n)
            replicas.signal(leader, signal.SIGSTOP)
            frozen = datetime.now(UTC)
            heir = replicas.wait_holder(_other(leader))
            lost = replicas.log(leader).read_text().count("lost the lease")
            replicas.signal(leader, signal.SIGCONT)
            woken = datetime.now(UTC)
            wait_for(
                "it to know that it leads no more",
                lambda name=leader, n=lost: replicas.log(name).read_text().count("lost the lease") > n,
            )
            for name in ("one", "two", "three"):
                sets.wait_available(name)
            late = [r for r in replicas.writes() if r.replica == leader and not r.is_lease and r.received > woken]
            assert late == [], f"frozen at {frozen}, woken at {woken}"
            replicas.check_fenced()
            leader = heir


def test_replicas_outlive_the_api_server(audited: Cluster, sets: Sets, tmp_path: Path) -> None:
    with Replicas(audited, tmp_path, *SHORT) as replicas:
        replicas.start("a", "b")
        start(sets, engines(1, prefill=role(1), decode=role(1)))
        leader = replicas.wait_holder()
        pids = {name: operator.pid for name, operator in replicas.running.items()}
        audited.stop_api_server()
        try:
            replicas.wait_logged(leader, "lost the lease")
            assert 'leader_election_master_status{name="disaggregatedset"} 0.0' in (replicas.running[leader].metrics())
        finally:
            audited.start_api_server()
        sets.apply(NAME, engines(2, prefill=role(1), decode=role(1)))
        wait_rolled(sets)
        assert {name: operator.pid for name, operator in replicas.running.items()} == pids
        assert all(operator.healthy() for operator in replicas.running.values())
        replicas.check_fenced()
