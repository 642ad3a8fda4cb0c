"""Clusters start, several at once, and leave nothing behind however they end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import urllib3
from click.testing import CliRunner

from e2e.cluster import ApiError, Cluster, ClusterError, EmbeddedCluster, wait_for
from e2e.cluster.__main__ import main
from e2e.cluster.cache import clusters_directory
from tests.cluster.manifests import Object, deployment, has_ready

pytestmark = pytest.mark.cluster

OWNER = """
import sys
from e2e.cluster import EmbeddedCluster
cluster = EmbeddedCluster()
print(cluster.name, flush=True)
cluster.start()
print(cluster.state().model_dump_json(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def second(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """Give a cluster of its own to tests that stop parts of it; it runs beside the shared one."""
    with EmbeddedCluster(audit_log=tmp_path_factory.mktemp("audit") / "audit.log") as second:
        yield second


def all_gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_two_clusters_run_side_by_side(cluster: Cluster, second: EmbeddedCluster) -> None:
    assert cluster.server != second.server
    wait_for("all components to be healthy", lambda: all(second.health().values()))
    ours, theirs = ({n["metadata"]["uid"] for n in each.client.list("v1", "Node")} for each in (second, cluster))
    assert theirs
    assert ours.isdisjoint(theirs)


def test_the_audit_log_has_one_line_per_request(second: EmbeddedCluster) -> None:
    second.kubectl("get", "configmap", "audited", check=False)
    log = second.audit_log
    assert log

    def audited() -> list[Object]:
        # The answer may arrive before its line is written, and the last line may not be whole yet.
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [e for e in map(json.loads, lines) if e.get("objectRef", {}).get("name") == "audited"]

    [event] = wait_for("a line about the request", audited)
    assert (event["verb"], event["user"]["username"], event["responseStatus"]["code"]) == (
        "get",
        "kubernetes-admin",
        404,
    )


def test_the_api_server_can_be_gone_for_a_while(second: EmbeddedCluster) -> None:
    second.add_nodes(1)
    second.apply(deployment("before", "default", 1))
    server = second.server
    second.stop_api_server()
    with pytest.raises(urllib3.exceptions.HTTPError):
        second.client.list("v1", "Node")
    wait_for(
        "all but the API server to be healthy",
        lambda: all(healthy == (name != "kube-apiserver") for name, healthy in second.health().items()),
    )
    second.start_api_server()
    assert second.server == server
    # The controllers, the scheduler and kwok find back; they waited longer each time that they tried.
    second.apply(deployment("after", "default", 2))
    second.client.wait("apps/v1", "Deployment", "after", "default", has_ready(2), timeout=180)
    second.client.wait("apps/v1", "Deployment", "before", "default", has_ready(1))


# Ends the cluster of this module, so that it comes after all tests that use it.
def test_a_component_that_dies_is_named_with_the_end_of_its_log(second: EmbeddedCluster) -> None:
    state = second.state()
    os.kill(state.pids["kube-scheduler"], signal.SIGKILL)
    wait_for("all components to end", lambda: all_gone(list(state.pids.values())))

    with pytest.raises(ClusterError, match=r"kube-scheduler ended unexpectedly \(SIGKILL\); the end of its log:\n"):
        second.client.list("v1", "Node")
    second.stop()
    assert not second.directory.exists()
    second.stop()


def processes_of(directory: Path) -> list[psutil.Process]:
    return [each for each in psutil.process_iter(["cmdline"]) if str(directory) in str(each.info["cmdline"])]


def start_owner() -> tuple[subprocess.Popen[str], Path]:
    """Start a process that owns a cluster; return it with the cluster's directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, clusters_directory() / process.stdout.readline().strip()


def test_nothing_is_left_after_ctrl_c_while_it_starts() -> None:
    process, directory = start_owner()
    with process:
        wait_for("a component to start", (directory / "logs" / "kube-apiserver.log").exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert errors.endswith("KeyboardInterrupt\n")
    wait_for("the directory to go", lambda: not directory.exists())
    wait_for("all processes to end", lambda: not processes_of(directory))


@pytest.mark.parametrize("victim", ["owner", "supervisor"])
def test_nothing_is_left_after_a_kill(victim: str, cluster: Cluster) -> None:
    process, directory = start_owner()
    with process:
        assert process.stdout
        state = json.loads(process.stdout.readline())
        assert directory.exists()
        os.kill(process.pid if victim == "owner" else state["supervisor"], signal.SIGKILL)
        process.communicate()
    pids = [state["supervisor"], *state["pids"].values()]
    wait_for(f"{len(pids)} processes to end", lambda: all_gone(pids))
    if victim == "owner":
        wait_for("the directory to go", lambda: not directory.exists())
    else:
        # Only the next cluster that starts can remove it.
        with pytest.raises(ClusterError, match="already"):
            EmbeddedCluster(cluster.name).start()
        assert not directory.exists()


def test_a_cluster_without_dra(cluster: Cluster) -> None:
    with EmbeddedCluster(dra=False) as without:
        without.add_nodes(1)
        with pytest.raises(ApiError) as missing:
            without.client.list("resource.k8s.io/v1", "DeviceClass")
        assert missing.value.status == 404
        with pytest.raises(ClusterError, match="can't have devices"):
            without.add_devices("node-0", 1)
        without.apply(deployment("web", "default", 1))
        without.client.wait("apps/v1", "Deployment", "web", "default", has_ready(1))


def test_command_line(cluster: Cluster) -> None:
    name = f"{cluster.name}-cli"
    runner = CliRunner()
    up = subprocess.run(
        [sys.executable, "-m", "e2e.cluster", "up", "--name", name, "--nodes=1", "--devices-per-node=2"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        kubeconfig = runner.invoke(main, ["kubeconfig", "--name", name]).output.strip()
        assert up.stdout.splitlines()[-1] == f"export KUBECONFIG={kubeconfig}", up.stderr
        attached = EmbeddedCluster.attach(name)
        [gpus] = attached.client.list("resource.k8s.io/v1", "ResourceSlice")[:1]
        assert len(gpus["spec"]["devices"]) == 2
        attached.client.close()
        wait_for("all to be healthy", lambda: runner.invoke(main, ["status", "--name", name]).exit_code == 0)
        assert "kube-scheduler" in runner.invoke(main, ["status", "--name", name]).output
        again = runner.invoke(main, ["up", "--name", name])
        assert again.exit_code == 1
        assert f"there is a cluster {name} already" in again.output
    finally:
        down = runner.invoke(main, ["down", "--name", name])
    assert down.exit_code == 0, down.output
    assert not (clusters_directory() / name).exists()
    gone = runner.invoke(main, ["status", "--name", name])
    assert gone.exit_code == 1
    assert f"there is no cluster {name}" in gone.output
    assert runner.invoke(main, ["down", "--name", name]).exit_code == 0
