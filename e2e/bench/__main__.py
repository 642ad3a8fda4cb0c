"""Command line of the benchmark: ``python -m e2e.bench --help``."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

import disaggregatedset
from e2e.bench import create, report, roll, scale
from e2e.bench.hotspots import hot_spots
from e2e.bench.results import Measurement
from e2e.bench.settings import Settings
from e2e.bench.workload import FollowingWorkload, RollingWorkload, Workload
from e2e.cluster import ClusterError, versions

#: Where output goes to a file, the tables shall be readable all the same.
_NARROWEST: Final = 100


def _numbers(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    try:
        numbers = [int(number) for number in value.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise click.BadParameter("must be numbers such as 20,100")
    return numbers


def _replicas(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    numbers = _numbers(context, parameter, value)
    if len(numbers) != 3:
        raise click.BadParameter("must be three numbers: of weights, prefill and decode")
    return numbers


def _phases(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    phases = value.split(",")
    known = (create.NAME, roll.NAME, scale.NAME)
    if not set(phases) <= set(known):
        raise click.BadParameter(f"must be some of {','.join(known)}")
    return phases


@click.command()
@click.option(
    "--phases",
    default="create,roll,scale",
    show_default=True,
    callback=_phases,
    help="What to measure.",
)
@click.option("--sets", default="20,100,500", show_default=True, callback=_numbers, help="How many to create, in turn.")
@click.option("--roll-sets", default="100", show_default=True, callback=_numbers, help="How many to roll, in turn.")
@click.option("--scale-sets", default="100", show_default=True, callback=_numbers, help="How many to scale, in turn.")
@click.option(
    "--replicas",
    default="1,1,1",
    show_default=True,
    callback=_replicas,
    help="Of weights, prefill and decode, to create.",
)
@click.option("--devices", is_flag=True, help="Each pod of prefill and decode to create claims a device.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Measure each so often.")
@click.option(
    "--rest-seconds", type=click.FloatRange(0), default=60.0, show_default=True, help="How long to look on at rest."
)
@click.option("--stock-qps", is_flag=True, help="Keep the default request limits of controller manager and scheduler.")
@click.option("--profile", is_flag=True, help="Profile the operator; it is slower then.")
@click.option("--kubernetes", envvar="KUBERNETES_VERSION", show_envvar=True, help="Such as 1.35.")
@click.option(
    "--output",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-results"),
    show_default=True,
    help="Directory for results, logs and profiles.",
)
def main(phases: list[str], sets: list[int], repeat: int, **options: Any) -> None:
    """Measure how long it takes until sets are created, rolled and scaled, all at once each, and what that costs."""
    weights, prefill, decode = replicas = options.pop("replicas")
    devices = options.pop("devices")
    counts = {create.NAME: sets, roll.NAME: options.pop("roll_sets"), scale.NAME: options.pop("scale_sets")}
    settings = Settings(**options)
    settings.directory.mkdir(parents=True, exist_ok=True)
    target = settings.directory / f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}.json"
    about = report.environment(versions.kubernetes_version(settings.kubernetes), disaggregatedset.__version__)
    about["options"] = {
        "phases": phases,
        "replicas": replicas,
        "devices": devices,
        "stock_qps": settings.stock_qps,
        "profile": settings.profile,
    }
    console = Console(highlight=False)
    console.width = max(console.width, _NARROWEST)
    done: list[Measurement] = []
    numbers = [(phase, n) for phase in phases for n in counts[phase]]
    try:
        for index, (phase, count) in enumerate(number for number in numbers for _ in range(repeat)):
            click.echo(f"{phase} {count} sets ...", err=True)
            floor_first = index % 2 == 0
            if phase == create.NAME:
                workload = Workload(count, weights, prefill, decode, devices)
                done.append(create.measure(workload, settings, floor_first=floor_first))
            elif phase == roll.NAME:
                done.append(roll.measure(RollingWorkload(count), settings, floor_first=floor_first))
            else:
                done.append(scale.measure(FollowingWorkload(count), settings, floor_first=floor_first))
            report.save(target, about, done)  # what comes later may fail
    except (ClusterError, TimeoutError, ConnectionError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        if done:
            report.show(console, about, done)
            click.echo(f"results: {target}", err=True)
    for profile in dict.fromkeys(settings.profile_of(phase, count) for phase, count in numbers):
        if profile:
            report.show_hot_spots(console, profile.stem, hot_spots(profile.read_text().splitlines()))


if __name__ == "__main__":
    main(prog_name="python -m e2e.bench")
