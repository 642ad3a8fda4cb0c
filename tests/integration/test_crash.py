"""The operator dies by SIGKILL at any moment while sets come up; the next one finishes, and nothing is doubled."""

from __future__ import annotations

import random
from collections import Counter

from e2e.cluster.wait import wait_for
from e2e.operator import Operator
from tests.integration.sets import PATIENCE, Sets, condition, spec, template

SETS = 20
KILLS = 5


def test_killed_at_random_moments(sets: Sets, operator: Operator) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    names = [f"set-{i}" for i in range(SETS)]
    for name in names:
        sets.apply(name, spec(weights={"template": template()}))

    def deployments() -> int:
        return len(sets.cluster.client.list("apps/v1", "Deployment", sets.namespace))

    for _ in range(KILLS):
        # By what it has done, not by time: at another point of its work each time.
        enough = rng.randrange(deployments(), 3 * SETS + 1)
        wait_for(f"{enough} Deployments (seed {seed})", lambda n=enough: deployments() >= n, timeout=PATIENCE)
        operator.kill()
        operator.start()
    for name in names:
        status = sets.wait_available(name)
        assert condition(status, "Accepted")["status"] == "True", seed
    roles = Counter(
        (d["metadata"]["labels"]["disaggregatedset.dev/set"], d["metadata"]["labels"]["disaggregatedset.dev/role"])
        for d in sets.cluster.client.list("apps/v1", "Deployment", sets.namespace)
    )
    assert roles == Counter((name, role) for name in names for role in ("weights", "prefill", "decode")), seed
    assert len(sets.cluster.client.list("v1", "Pod", sets.namespace)) == 3 * SETS, seed
