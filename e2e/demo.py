"""The main job, shown as it happens: a control plane, the operator, a DisaggregatedSet that becomes Available."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Final

import click
import psutil
import yaml
from rich.console import Console

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.errors import ClusterError
from e2e.operator import ROOT, Operator, install_crds

NAME: Final = "demo"
SAMPLE: Final = ROOT / "deploy" / "samples" / "llama.yaml"

_API: Final = ("disaggregatedset.dev/v1alpha1", "DisaggregatedSet")
_READY_AFTER: Final = "e2e.disaggregatedset.dev/ready-after"
_TIMEOUT_SECONDS: Final = 120.0

console = Console(highlight=False, soft_wrap=True)


@click.group(help=__doc__)
def main() -> None:
    """Group the commands."""


@main.command()
@click.option(
    "--sample", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=SAMPLE, help="The set to apply."
)
def up(sample: Path) -> None:
    """Start everything, show how the set becomes Available, and leave it all running."""
    _down()
    with _told_plainly():
        cluster = EmbeddedCluster(NAME, detached=True)
        console.print("[bold]1. A Kubernetes control plane[/]: etcd, API server, controller manager, scheduler, kwok")
        cluster.start()
        cluster.add_nodes(2, devices=4)
        cluster.add_nodes(1)
        console.print("   3 nodes, 8 GPUs as ResourceSlices (simulated nodes: pods run nowhere)")
        console.print("[bold]2. The operator[/], as a process of its own")
        install_crds(cluster)
        operator = Operator(cluster.kubeconfig, cluster.directory / "operator.log")
        operator.start()
        _pid_file(cluster).write_text(str(operator.pid))
        console.print(f"   log: {operator.log}")
        console.print(f"[bold]3. A DisaggregatedSet[/]: {sample.name}; its pods take 2 s to turn ready")
        _show(cluster, _slowly(yaml.safe_load(sample.read_text())))
        for arguments in (
            ("get", "disaggregatedsets", "-o", "wide"),
            ("get", "deployments,services"),
            ("get", "resourceclaims"),
            ("get", "pods"),
        ):
            console.print(f"[bold]$ kubectl {' '.join(arguments)}[/]")
            console.print(cluster.kubectl(*arguments).stdout, markup=False)
        console.print(
            "Everything is still running: look around, break something, and end it with [bold]make demo-down[/]."
        )
        console.print(f"[bold]export KUBECONFIG={cluster.kubeconfig}[/]")


@main.command()
def down() -> None:
    """End the cluster and the operator of the demo."""
    _down()


@contextlib.contextmanager
def _told_plainly() -> Any:
    try:
        yield
    except (ClusterError, RuntimeError, TimeoutError) as error:
        raise click.ClickException(str(error)) from error


def _down() -> None:
    with contextlib.suppress(ClusterError):
        cluster = EmbeddedCluster.attach(NAME)
        with contextlib.suppress(OSError, psutil.Error):
            process = psutil.Process(int(_pid_file(cluster).read_text()))
            if "disaggregatedset" in process.cmdline():
                process.terminate()
                process.wait(timeout=30)
        cluster.stop()


def _pid_file(cluster: Cluster) -> Path:
    return cluster.directory / "operator.pid"


def _slowly(dset: Object) -> Object:
    """Have each pod take a moment to turn ready, so that one sees what waits for what."""
    spec = dset["spec"]
    tiers = [spec.get("weights"), spec.get("kvCache"), *spec["compute"]["roles"]]
    for tier in filter(None, tiers):
        tier["template"].setdefault("metadata", {}).setdefault("annotations", {})[_READY_AFTER] = "2s"
    return dset


def _show(cluster: Cluster, dset: Object) -> None:
    dset["metadata"].setdefault("namespace", "default")
    name, namespace = dset["metadata"]["name"], dset["metadata"]["namespace"]
    cluster.apply(dset)
    started = time.monotonic()
    shown = ""
    while True:
        status = cluster.client.get(*_API, name, namespace).get("status") or {}
        now = _line(status)
        if now != shown:
            console.print(f"   {time.monotonic() - started:5.1f} s  {now}")
            shown = now
        if _is_true(status, "Available"):
            return
        if time.monotonic() - started > _TIMEOUT_SECONDS:
            raise TimeoutError(f"the set is not Available after {_TIMEOUT_SECONDS:.0f} s; its status: {status}")
        time.sleep(0.05)


def _line(status: Object) -> str:
    parts = []
    for role in status.get("roles") or []:
        colour = "green" if role["ready"] == role["desired"] else "yellow"
        part = f"{role['name']} [{colour}]{role['ready']}/{role['desired']}[/]"
        if (claims := role.get("claims")) and claims["allocated"]:
            part += f" with {claims['allocated']} claims allocated"
        if role.get("message", "").startswith("waits until"):
            part += f" [dim]{role['message']}[/]"
        parts.append(part)
    available = "  [bold green]Available[/]" if _is_true(status, "Available") else ""
    return ", ".join(parts) + available if parts else "applied"


def _is_true(status: Object, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in status.get("conditions") or [])


if __name__ == "__main__":
    main()
