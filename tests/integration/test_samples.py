"""Every sample becomes Available as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from e2e.operator import ROOT
from tests.integration.sets import Sets

SAMPLES = sorted((ROOT / "deploy" / "samples").glob("*.yaml"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_sample_becomes_available(sets: Sets, sample: Path) -> None:
    said = sets.cluster.kubectl("apply", "-n", sets.namespace, "-f", str(sample))
    assert "Warning" not in said.stderr
    for obj in yaml.safe_load_all(sample.read_text()):
        sets.wait_available(obj["metadata"]["name"])
