"""Records what a release leaves behind in a cluster, for ``test_upgrade``.

``python -m tests.integration.upgrade.record v1.2.0`` takes any revision of this repository: it runs the operator of
that revision, with the virtual environment of this one, on an embedded cluster, and writes directory ``v1.2.0`` beside
this file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import yaml

from e2e.cluster.base import Cluster
from e2e.cluster.client import ApiError, Object
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.ports import free_ports
from e2e.cluster.wait import wait_for
from e2e.operator import ROOT
from tests.integration.rolling import engines, role
from tests.integration.sets import LABEL, PATIENCE, Sets, condition, gpus, spec, template
from tests.integration.upgrade import fixtures

#: How long new engines take: long enough to stop the operator meanwhile.
_READY_AFTER = "5s"
_ROLLING = "rolling"


def _pair(version: int, **decode: Object) -> Object:
    return engines(version, ready_after=_READY_AFTER, prefill=role(2), decode=role(4) | decode)


def _never_ready() -> Object:
    failing = _pair(2, behave={"behaviour": "never-ready"})
    return failing | {"rollout": {"progressDeadlineSeconds": 3}}


#: Sets beside the samples: each by the specs that it has had, and the reason of Progressing when that has come to rest.
SETS: dict[str, list[tuple[Object, str]]] = {
    "scoped": [
        (
            spec(
                weights={"replicas": 2, "template": template("weights:1")},
                kvCache={
                    "scope": "Revision",
                    "replicas": 2,
                    "coordinator": {"template": template("coordinator:1")},
                    "template": template("kv:1"),
                },
                compute=_pair(1, accelerators=gpus())["compute"],
            ),
            "Complete",
        )
    ],
    "zero": [(engines(1, prefill=role(0), decode=role(0)), "Complete")],
    "half-zero": [(engines(1, prefill=role(2), decode=role(0)), "Complete")],
    "paused": [(_pair(1), "Complete"), (_pair(2) | {"rollout": {"paused": True}}, "Paused")],
    "rolled-back": [(_pair(1), "Complete"), (_never_ready(), "RolledBack")],
    _ROLLING: [(_pair(1), "Complete")],
}


def record(revision: str, directory: Path) -> None:
    """Record a revision of this repository."""
    with tempfile.TemporaryDirectory() as name, EmbeddedCluster() as cluster:
        source = Path(name)
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x"], cwd=source, check=True, input=archive.stdout)
        crds = "---\n".join(path.read_text() for path in sorted((source / "crds").glob("*.yaml")))
        cluster.add_nodes(3, devices=8)
        fixtures.prepare(cluster, crds)
        with _operator(cluster, source):
            _bring_to_rest(Sets(cluster, fixtures.NAMESPACE), sorted((source / "deploy" / "samples").glob("*.yaml")))
        fixtures.save(cluster, crds, directory)


def _bring_to_rest(sets: Sets, samples: list[Path]) -> None:
    specs = {name: list(each) for name, each in SETS.items()}
    for path in samples:
        (sample,) = yaml.safe_load_all(path.read_text())
        specs[sample["metadata"]["name"]] = [(sample["spec"], "Complete")]
    while specs:
        specs = {name: each for name, each in specs.items() if _takes(sets, name, each[0][0])}
        for name, each in specs.items():
            sets.wait(name, partial(_has_come_to, each.pop(0)[1]))
        specs = {name: each for name, each in specs.items() if each}
    sets.apply(_ROLLING, _pair(2))
    wait_for("both revisions to have ready pods", lambda: _is_half_way(sets), timeout=PATIENCE)


def _takes(sets: Sets, name: str, spec: Object) -> bool:
    """Apply a set, unless this release refuses such a one."""
    try:
        sets.apply(name, spec)
    except ApiError as error:
        if error.status != 422:
            raise
        return False
    return True


def _has_come_to(reason: str, status: Object) -> bool:
    return bool(condition(status, "Progressing")["reason"] == reason)


def _is_half_way(sets: Sets) -> bool:
    roles = [
        d["metadata"]["labels"][f"{LABEL}/role"]
        for d in sets.deployments(_ROLLING)
        if (d.get("status") or {}).get("readyReplicas")
    ]
    return sorted(roles) == ["decode", "decode", "prefill", "prefill"]


@contextmanager
def _operator(cluster: Cluster, source: Path) -> Iterator[None]:
    """Run the operator of a source tree; it ends as on a lost node, whatever it is doing."""
    (port,) = free_ports(1)
    own = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "PYTHONPATH": str(source / "operator"),
        "DSET_OPERATOR_HEALTH_PORT": str(port),
        "DSET_OPERATOR_LEADER_ELECT": "false",  # releases without an election don't mind
    }
    process = subprocess.Popen([sys.executable, "-m", "disaggregatedset"], cwd=source, env=os.environ | own)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Record the revision that is given."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.upgrade.record", description=__doc__)
    parser.add_argument("revision", help="a tag, or a commit, of this repository")
    revision = parser.parse_args().revision
    record(revision, fixtures.HERE / revision)


if __name__ == "__main__":
    main()
