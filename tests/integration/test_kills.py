"""The operator dies by SIGKILL after every single write of a rollout; the next one always comes to the same end."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from e2e.operator import Operator
from tests.integration.gate import Gate
from tests.integration.rolling import NAME, engines, recorded, revisions, role, start, wait_rolled
from tests.integration.sets import LABEL, PATIENCE, Sets

# More writes than such a rollout takes; one that takes more would never end.
MOST = 60


def _version(number: int) -> Object:
    return engines(number, ready_after="0s", prefill=role(1), decode=role(2))


def _end(sets: Sets) -> Counter[tuple[str, str, int]]:
    """What there is, without the history and what is named by revisions."""
    return Counter(
        (kind.split("/")[0], child["metadata"]["labels"][f"{LABEL}/role"], child["spec"].get("replicas", 0))
        for kind, child in sets.all_children(NAME).items()
        if not kind.startswith("ControllerRevision/")
    )


@pytest.mark.timeout(1200)  # a rollout and a start of the operator for each write
@pytest.mark.parametrize("first", [1, 2], ids=["each odd write", "each even write"])  # for two workers
def test_killed_after(sets: Sets, cluster: Cluster, operator: Operator, tmp_path: Path, first: int) -> None:
    deaths: list[str] = []
    operator.stop()
    try:
        with Gate(cluster, sets.namespace) as gate:
            mortal = Operator(gate.kubeconfig(tmp_path / "kubeconfig"), tmp_path / "operator.log")
            with mortal:
                start(sets, _version(0))
                expected = _end(sets)
                for writes in count(first, 2):
                    (before,) = revisions(sets)
                    with recorded(sets):
                        gate.die_after(writes, mortal.kill)
                        sets.apply(NAME, _version(writes))

                        def over(before: str = before) -> bool:
                            return gate.killed.is_set() or (
                                revisions(sets).isdisjoint({before}) and _end(sets) == expected
                            )

                        wait_for(f"the rollout to end, or the operator to die after {writes} writes", over, PATIENCE)
                        if died := gate.spare():
                            deaths.append(gate.last)
                            mortal.start()
                        wait_rolled(sets)
                    wait_for(f"the same end after {deaths[-1:]}", lambda: _end(sets) == expected)
                    if not died:
                        break
                    assert writes < MOST, deaths
    finally:
        operator.start()
    assert len(deaths) >= 7, deaths
