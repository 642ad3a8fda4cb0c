"""Shows results as tables, and keeps them as JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from e2e.bench.hotspots import HotSpots
from e2e.bench.results import Measurement, Phase, Usage

_SHOWN_FUNCTIONS = 30


def environment(kubernetes: str, operator: str) -> dict[str, Any]:
    """Return where it was measured."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "kubernetes": kubernetes,
        "operator": operator,
    }


def save(path: Path, about: Mapping[str, Any], measurements: Sequence[Measurement]) -> None:
    """Write everything that was measured as JSON."""
    document = {**about, "measurements": [dataclasses.asdict(m) for m in measurements]}
    for measured, m in zip(document["measurements"], measurements, strict=True):
        for phase, p in zip(measured["phases"], m.phases, strict=True):
            phase["ratio"] = p.ratio
    path.write_text(json.dumps(document, indent=2) + "\n")


def show(console: Console, about: Mapping[str, Any], measurements: Sequence[Measurement]) -> None:
    """Print what was measured."""
    console.print(
        f"Kubernetes {about['kubernetes']}, operator {about['operator']}, Python {about['python']}, "
        f"{about['cores']} cores ({about['machine']})"
    )
    for name in dict.fromkeys(phase.name for m in measurements for phase in m.phases):
        found = [(m, phase) for m in measurements for phase in m.phases if phase.name == name]
        _print_columns(console, name, [_summary(m, phase) for m, phase in found])
        _print_columns(
            console, f"{name}: the operator's requests per set", [_per_set(p.operated.usage, m.sets) for m, p in found]
        )
        _print_columns(console, f"{name}: CPU seconds, floor | with operator", [_cpu(phase) for _, phase in found])
        for m, phase in found:
            objects = ", ".join(f"{number} {kind}s" for kind, number in phase.floor.objects.items())
            console.print(f"Floor of {m.sets} sets: {objects}, {phase.floor_means}")


def show_hot_spots(console: Console, title: str, found: HotSpots) -> None:
    """Print where the time of a profile went."""
    for name, shares in (("own time", found.own), ("cumulative time", found.cumulative), ("package", found.packages)):
        table = Table(title=f"{title}: {name}, {found.samples} samples", title_justify="left")
        table.add_column("share", justify="right")
        table.add_column(name, overflow="fold")
        for function, share in shares[:_SHOWN_FUNCTIONS]:
            table.add_row(f"{share:.1%}", function)
        console.print(table)


def _summary(m: Measurement, phase: Phase) -> dict[str, str]:
    usage, latency = phase.operated.usage, phase.operated.latency
    total = sum(usage.requests.values())
    rows = {
        "sets": str(m.sets),
        "load average at start": f"{m.load[0]:.1f}",
        "measured first": "floor" if m.floor_first else "operator",
        "floor": f"{phase.floor.seconds:.1f} s",
        "with operator": f"{phase.operated.seconds:.1f} s",
        "ratio to the floor": f"{phase.ratio:.2f}",
        "latency per set p50 / p99": f"{latency.p50:.1f} / {latency.p99:.1f} s",
        "operator's CPU per set": f"{usage.cpu['operator'] / m.sets * 1000:.0f} ms",
        "operator's requests per set": f"{total / m.sets:.1f}",
        "of these refused": str(sum(usage.failed.values())),
        "reconciles per set": f"{sum(phase.operated.reconciles.values()) / m.sets:.1f}",
        "of these failed": str(phase.operated.reconciles.get("error", 0)),
        "operator's peak memory": f"{m.process.peak_memory / 2**20:.0f} MiB",
        "operator's CPU to start": f"{m.process.start_cpu:.1f} s",
    }
    if m.rest:
        rows |= {
            "at rest, seconds": f"{m.rest.seconds:.0f}",
            "at rest, CPU": f"{m.rest.cpu['operator'] * 1000:.0f} ms",
            "at rest, requests": str(sum(m.rest.requests.values())),
            "at rest, writes": str(m.rest.writes),
        }
    return rows


def _per_set(usage: Usage, sets: int) -> dict[str, str]:
    reads = ("list ", "watch ")
    ordered = sorted(usage.requests.items(), key=lambda item: item[0].startswith(reads))
    return {name: f"{number / sets:.2f}" for name, number in ordered} | {
        f"refused: {name}": f"{number / sets:.2f}" for name, number in usage.failed.items()
    }


def _cpu(phase: Phase) -> dict[str, str]:
    floor, operated = phase.floor.usage.cpu, phase.operated.usage.cpu
    rows = {name: f"{floor.get(name, 0):.1f} | {seconds:.1f}" for name, seconds in operated.items()}
    # Where all of them together keep the machine busy, their ratio is what the ratio of times comes to.
    before, after = sum(floor.values()), sum(operated.values())
    return rows | {"all": f"{before:.1f} | {after:.1f}", "ratio": f"{after / before:.2f}"}


def _print_columns(console: Console, title: str, columns: Sequence[Mapping[str, str]]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    for _ in columns:
        table.add_column(justify="right")
    for row in dict.fromkeys(name for column in columns for name in column):
        table.add_row(row, *(column.get(row, "") for column in columns))
    console.print(table)
