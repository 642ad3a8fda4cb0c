"""Command line of the embedded cluster: ``python -m e2e.cluster --help``."""

import datetime as dt
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from e2e.cluster import binaries
from e2e.cluster.cache import clusters_directory
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.foreign import obtain_crds
from e2e.cluster.model import Layout
from e2e.cluster.versions import KUBERNETES


class _FriendlyGroup(click.Group):
    """Shows errors that people can act on without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ClusterError as error:
            raise click.ClickException(str(error)) from error


name_option = click.option("--name", default="dset", show_default=True, help="Name of the cluster.")
version_option = click.option(
    "--kubernetes",
    envvar="KUBERNETES_VERSION",
    help=f"One of {', '.join(KUBERNETES)}, or such as 1.35.",
    show_envvar=True,
)


@click.group(cls=_FriendlyGroup)
def main() -> None:
    """Run a Kubernetes control plane on this machine, with simulated nodes and accelerators."""


@main.command()
@name_option
@version_option
@click.option("--nodes", type=click.IntRange(0), default=3, show_default=True, help="How many nodes.")
@click.option(
    "--devices-per-node", type=click.IntRange(0, 128), default=4, show_default=True, help="GPUs of each node, and NICs."
)
@click.option(
    "--audit-log", type=click.Path(path_type=Path, dir_okay=False), help="Log every API request to this file."
)
@click.option("--no-dra", is_flag=True, help="Serve no resource.k8s.io/v1; nodes have no devices then.")
@click.option("--stock-client-limits", is_flag=True, help="Keep the default request limits of the control plane.")
def up(
    name: str, kubernetes: str | None, nodes: int, devices_per_node: int, audit_log: Path | None, *, no_dra: bool,
    stock_client_limits: bool,
) -> None:  # fmt: skip
    """Start a cluster that runs until `down`."""
    cluster = EmbeddedCluster(
        name,
        kubernetes=kubernetes,
        audit_log=audit_log,
        dra=not no_dra,
        stock_client_limits=stock_client_limits,
        detached=True,
    )
    cluster.start()
    try:
        if nodes:
            cluster.add_nodes(nodes, devices=0 if no_dra else devices_per_node)
    except BaseException:
        cluster.stop()
        raise
    devices = 0 if no_dra else nodes * devices_per_node
    click.echo(f"Cluster {name}: Kubernetes {cluster.options.kubernetes}, {nodes} nodes, {devices} GPUs", err=True)
    click.echo(f"export KUBECONFIG={cluster.kubeconfig}")


@main.command()
@name_option
def down(name: str) -> None:
    """End a cluster and remove its files. It is fine if there is none."""
    EmbeddedCluster(name, detached=True).stop()


@main.command()
@click.option("--name", help="Name of one cluster; by default all are shown.")
def status(name: str | None) -> None:
    """Show clusters and their components. Fails if there is none, or one isn't healthy."""
    names = [name] if name else sorted(path.name for path in clusters_directory().glob("[!.]*"))
    if not names:
        raise ClusterError("there is no cluster")
    healthy = [_show(each) for each in names]
    if not all(healthy):
        sys.exit(1)


@main.command()
@name_option
def kubeconfig(name: str) -> None:
    """Print the path of a cluster's kubeconfig."""
    click.echo(EmbeddedCluster.attach(name).kubeconfig)


@main.command()
@version_option
def build(kubernetes: str | None) -> None:
    """Build what is missing, start nothing, and print where everything is."""
    for executable, path in {**binaries.obtain(kubernetes), **binaries.obtain_tools()}.items():
        click.echo(f"{executable}\t{path}")
    for project, paths in obtain_crds().items():
        click.echo(f"{project}\t{' '.join(map(str, paths))}")


def _show(name: str) -> bool:
    console = Console(highlight=False)
    try:
        cluster = EmbeddedCluster.attach(name)
        state, health = cluster.state(), cluster.health()
    except ClusterError as error:
        console.print(str(error), style="red", markup=False)
        return False
    uptime = dt.datetime.now(dt.UTC) - state.started
    title = f"{name}: {state.phase} for {dt.timedelta(seconds=int(uptime.total_seconds()))}"
    table = Table(title=f"{title}, Kubernetes {state.options.kubernetes}, {state.server}", title_justify="left")
    for column in ("component", "pid", "health", "log"):
        table.add_column(column, overflow="fold")
    table.add_row("supervisor", str(state.supervisor), "", str(Layout(name).log("supervisor")))
    for component, is_healthy in health.items():
        pid = state.pids.get(component)
        log = str(Layout(name).log(component))
        table.add_row(component, str(pid or "-"), "ok" if is_healthy else "[red]unhealthy", log)
    console.print(table)
    return all(health.values())


if __name__ == "__main__":
    main(prog_name="python -m e2e.cluster")
