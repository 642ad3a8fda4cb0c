"""The image's container as the operator of a cluster."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.ports import free_ports
from e2e.cluster.wait import wait_for
from e2e.operator import ROOT, install_crds
from tests.image.images import RESTRICTED, Image
from tests.integration.sets import Sets


@contextmanager
def running(image: Image, *arguments: str, options: tuple[str, ...]) -> Iterator[str]:
    """Give the name of a container that runs; what it has logged is shown where a test fails."""
    command = ["docker", "run", "--detach", *RESTRICTED, *options, image.name, *arguments]
    container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        yield container
    finally:
        logged = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=False)
        print(logged.stdout, logged.stderr)
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=True)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def is_up(container: str) -> bool:
    state = ["docker", "inspect", "--format={{.State.Running}}", container]
    return subprocess.run(state, capture_output=True, text=True, check=True).stdout.strip() == "true"


@pytest.mark.cluster
def test_it_runs_a_cluster(image: Image, cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    install_crds(cluster)
    # The container's user must be able to read it.
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(cluster.kubeconfig.read_text())
    kubeconfig.chmod(0o644)
    (port,) = free_ports(1)
    # The certificates in a kubeconfig become temporary files.
    kubeconfig_at = (f"--volume={kubeconfig}:/etc/kubeconfig:ro", "--env=KUBECONFIG=/etc/kubeconfig", "--tmpfs=/tmp")
    options = ("--network=host", *kubeconfig_at)
    arguments = ("--leader-elect=false", "--health-host=127.0.0.1", f"--health-port={port}")
    with running(image, *arguments, options=options) as container:
        ready = f"http://127.0.0.1:{port}/readyz"
        wait_for("the operator to be ready", lambda: answers(ready) or not is_up(container), timeout=120)
        assert is_up(container)
        assert answers(f"http://127.0.0.1:{port}/healthz")
        cluster.kubectl("apply", "-n", namespace, "-f", str(ROOT / "deploy" / "samples" / "llama.yaml"))
        Sets(cluster, namespace).wait_available("llama")

        state = ["docker", "inspect", "--format={{.State.ExitCode}}", container]
        subprocess.run(["docker", "stop", "--time=30", container], capture_output=True, check=True)
        code = subprocess.run(state, capture_output=True, text=True, check=True).stdout.strip()
        assert code == "0", "SIGTERM ends it in an orderly way"
