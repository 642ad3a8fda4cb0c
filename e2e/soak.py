"""Sets that change all the time, while the operator's way to the API server is as bad as it gets.

``python -m e2e.soak --minutes 10 --sets 50``: at the end, all sets are as their specs say, the invariants of rollouts
were held all the time, and the operator is the process that it was at first, with the memory that it had.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import psutil
from prometheus_client.parser import text_string_to_metric_families

from e2e.cluster.client import Object
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.wait import wait_for
from e2e.faults import STRIKES, Fault, Faults
from e2e.operator import Operator, install_crds
from tests.integration.recorder import Recorder, Watch
from tests.integration.rolling import engines, role
from tests.integration.sets import API, KIND, Sets, condition

_NAMESPACE: Final = "soak"
_SECONDS_BETWEEN_SAMPLES: Final = 5.0
_SECONDS_BETWEEN_STRIKES: Final = 3.0
_PATIENCE: Final = 300.0
_ROLES: Final = frozenset({"prefill", "decode"})
#: What of an object the recorder reads; the rest would fill the memory.
_KEPT: Final = frozenset({"name", "uid", "labels", "resourceVersion", "generation", "deletionTimestamp"})

#: Goes on most of the time.
_WEATHER: Final = (
    Fault("status", part=0.05, status=500),
    Fault("status", part=0.05, status=503, retry_after=1),
    Fault("status", part=0.05, status=429, retry_after=1),
    Fault("reset", part=0.05),
    Fault("lost", part=0.1, of="write"),
    Fault("truncated", part=0.05),
    Fault("delay", part=0.2, seconds=1),
)
#: Each happens for some seconds now and then, in turn.
_STORMS: Final[tuple[Fault, ...]] = (
    Fault("status", status=429, retry_after=2),
    Fault("status", status=401),
    Fault("status", status=500),
    Fault("lost", of="write"),
    Fault("status", status=403),
    Fault("status", status=404, of="watch"),
    Fault("delay", seconds=5),
)


def phases(faults: Faults, chance: random.Random) -> Iterator[float]:
    """Go from one kind of trouble to the next; give how many seconds it shall last."""
    while True:
        for storm in (*_STORMS, None):
            faults.plan(*_WEATHER)
            yield chance.uniform(8, 12)
            if storm is not None:
                faults.plan(storm)
                yield chance.uniform(2, 5)
            else:
                faults.vanish()
                yield chance.uniform(5, 10)
                faults.appear()
            faults.plan()
            yield chance.uniform(3, 6)


class Slim(list[Object]):
    """Events of which only that is kept that the recorder reads."""

    def append(self, event: Object) -> None:
        """Add an event."""
        super().append({**event, "object": _slim(event["object"]), "before": None})


def _slim(obj: Object) -> Object:
    made = {"kind": obj["kind"], "metadata": {k: v for k, v in obj["metadata"].items() if k in _KEPT}}
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if obj["kind"] == "Deployment":
        labels = spec["template"]["metadata"]["labels"]
        made["spec"] = {"replicas": spec["replicas"], "template": {"metadata": {"labels": labels}}}
        made["status"] = {"readyReplicas": status.get("readyReplicas", 0)}
    elif obj["kind"] == "Pod":
        made["status"] = {"conditions": [c for c in status.get("conditions") or [] if c["type"] == "Ready"]}
    else:
        roles = [{k: v for k, v in r.items() if k != "template"} for r in spec["compute"]["roles"]]
        made["spec"] = {"compute": {"roles": roles}}
        made["status"] = {"observedGeneration": status.get("observedGeneration", 0)}
    return made


class SharedRecorder(Recorder):
    """The recorder of one of many sets, over watches that they share."""

    def __init__(self, sets: Sets, name: str, watches: list[Watch], began: float) -> None:
        self._sets, self._name = sets, name
        self._watches = watches
        self._began = began

    def violations(self) -> list[str]:
        """Say where the invariants were broken."""
        recording = self._made()
        # Revisions of long ago have gone with what they say of their roles; all have the same.
        revisions = {key.revision for instant in recording.instants for key in instant.counts}
        return replace(recording, roles=dict.fromkeys(revisions, _ROLES)).violations()


def _spec(version: int) -> Object:
    # Always of one size: the recorder takes the first one for what each rollout began with.
    return engines(version, ready_after="200ms", prefill=role(1), decode=role(2))


def _is_settled(obj: Object) -> bool:
    status = obj.get("status") or {}
    return bool(
        status.get("observedGeneration") == obj["metadata"]["generation"]
        and condition(status, "Available")["status"] == "True"
        and condition(status, "Progressing")["reason"] == "Complete"
    )


def _requests(operator: Operator) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(operator.metrics()):
        for sample in family.samples:
            if sample.name == "rest_client_requests_total":
                counts[sample.labels["code"]] += int(sample.value)
            elif sample.name == "workqueue_retries_total":
                counts["retries"] += int(sample.value)
    return dict(sorted(counts.items()))


@click.command(help=__doc__)
@click.option("--minutes", default=10.0, show_default=True, help="How long sets change.")
@click.option("--sets", "count", default=50, show_default=True, help="How many.")
@click.option("--changes", default=2.0, show_default=True, help="Changes a second.")
@click.option("--seed", default=0, show_default=True, help="Of all that is left to chance.")
@click.option("--log", type=click.Path(path_type=Path, dir_okay=False), help="Where the operator's log goes.")
def main(minutes: float, count: int, changes: float, seed: int, log: Path | None) -> None:
    """Run it."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    log = log or Path(tempfile.mkdtemp(prefix="soak-")) / "operator.log"
    with EmbeddedCluster() as cluster:
        cluster.add_nodes(2)
        install_crds(cluster)
        cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}})
        cluster.client.wait("v1", "ServiceAccount", "default", _NAMESPACE, bool)
        sets = Sets(cluster, _NAMESPACE)
        with Faults(cluster, seed) as faults, Operator(faults.kubeconfig, log, ["--resync-seconds=60"]) as operator:
            names = [f"set-{number}" for number in range(count)]
            problems = Soak(sets, faults, operator, names, chance).run(minutes * 60, 1 / changes)
    if problems:
        raise click.ClickException("\n".join(problems))
    click.echo("all is well")


class Soak:
    """One run.

    Parameters
    ----------
    sets, names
        What changes.
    faults
        What is between the operator and the API server.
    operator
        What is to survive that.
    chance
        Decides.
    """

    def __init__(self, sets: Sets, faults: Faults, operator: Operator, names: list[str], chance: random.Random) -> None:
        self._sets, self._faults, self._operator, self._names, self._chance = sets, faults, operator, names, chance
        self._process = psutil.Process(operator.pid)
        self._samples: list[float] = []

    def run(self, seconds: float, pause: float) -> list[str]:
        """Change sets for some time, and return what was wrong."""
        for name in self._names:
            self._sets.apply(name, _spec(0))
        self._wait_settled("all sets to come up")
        began = time.monotonic()
        watches = [
            Watch(self._sets.cluster, *kind, _NAMESPACE)
            for kind in (("apps/v1", "Deployment"), ("v1", "Pod"), (API, KIND))
        ]
        for watch in watches:
            watch.events = Slim()
            watch.start()
        try:
            changed = self._change(began + seconds, pause)
            self._faults.plan()
            ended = time.monotonic()
            self._wait_settled("all sets to converge")
            converged = time.monotonic() - ended
            for watch in watches:
                watch.catch_up()
        finally:
            for watch in watches:
                watch.stop()
        problems = [
            f"{name}: {violation}"
            for name in self._names
            for violation in SharedRecorder(self._sets, name, watches, began).violations()
        ]
        problems += self._looks()
        events = sum(len(watch.events) for watch in watches)
        click.echo(f"{changed} changes of {len(self._names)} sets in {seconds:.0f} s, which made {events} events")
        click.echo(f"converged {converged:.1f} s after the last trouble; violations: {len(problems)}")
        click.echo(f"faults: {dict(sorted(self._faults.done.items()))}")
        click.echo(f"requests by code, and retries: {_requests(self._operator)}")
        lines = self._operator.log.read_text().splitlines()
        levels = Counter(line.split()[2] for line in lines if line[:2] == "20")
        click.echo(f"log: {len(lines)} lines, {dict(levels)}: {self._operator.log}")
        return problems

    def _looks(self) -> list[str]:
        samples = self._samples
        each = max(1, round(60 / _SECONDS_BETWEEN_SAMPLES))
        minutes = [round(statistics.median(samples[i : i + each])) for i in range(0, len(samples), each)]
        click.echo(f"RSS in MiB, median of each minute: {minutes}")
        quarter = max(1, len(samples) // 4)
        quarters = [statistics.median(samples[i : i + quarter]) for i in range(0, quarter * 4, quarter) if samples[i:]]
        click.echo(f"RSS in MiB, median of each quarter: {[round(q, 1) for q in quarters]}, peak {max(samples):.1f}")
        problems = []
        if not self._process.is_running():
            problems.append("the operator has ended")
        if not self._operator.healthy():
            problems.append("the operator is not healthy")
        if len(quarters) == 4 and quarters[3] > quarters[1] * 1.1 + 5:
            problems.append("memory is not flat")
        return problems

    def _change(self, until: float, pause: float) -> int:
        versions = dict.fromkeys(self._names, 0)
        changes = 0
        trouble = phases(self._faults, self._chance)
        next_phase = next_strike = next_sample = time.monotonic()
        while (now := time.monotonic()) < until:
            if now >= next_phase:
                next_phase = now + next(trouble)
            if now >= next_strike:
                self._faults.strike(self._chance.choice(STRIKES), part=0.5)
                next_strike = now + _SECONDS_BETWEEN_STRIKES
            if now >= next_sample:
                self._samples.append(self._process.memory_info().rss / 2**20)
                next_sample = now + _SECONDS_BETWEEN_SAMPLES
            name = self._chance.choice(self._names)
            versions[name] += 1
            self._sets.apply(name, _spec(versions[name]))
            changes += 1
            time.sleep(max(0.0, now + pause - time.monotonic()))
        self._faults.appear()
        return changes

    def _wait_settled(self, what: str) -> None:
        def unsettled() -> list[str]:
            listed = self._sets.cluster.client.list(API, KIND, _NAMESPACE)
            return [obj["metadata"]["name"] for obj in listed if not _is_settled(obj)]

        seen: list[Any] = []

        def settled() -> bool:
            seen[:] = unsettled()
            time.sleep(0.5)
            return not seen

        try:
            wait_for(what, settled, _PATIENCE)
        except TimeoutError as error:
            raise click.ClickException(f"{error}: {seen}") from error


if __name__ == "__main__":
    main(prog_name="python -m e2e.soak")
