"""Sets and the children that they must have, as folders of YAML.

What all children have in common is checked once and left out of the expected output, so that it can be read: the owner,
and the pods in ControllerRevisions, which are those of the Deployments and ResourceClaimTemplates.

To add a case, write ``cases/<case>/set.yaml`` and run this file with ``REWRITE_EXPECTED=1``; read what it wrote.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from disaggregatedset.api import DisaggregatedSet
from disaggregatedset.reconcile.desired import autoscalers, stages
from disaggregatedset.render import TierRevision, inference_pool, rendered_tiers
from tests.unit.builders import HERE, World, parse, read, starting

CASES = HERE / "render" / "cases"


class _Dumper(yaml.SafeDumper):
    """YAML that repeats itself rather than using anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _children(dset: DisaggregatedSet) -> Iterator[dict[str, Any]]:
    """Everything that a new set is given, in the order in which it is written; what scales it as soon as it may."""
    world = World(dset)
    written = stages(dset, world.tiers, world.scales, world.view(), starting(world))
    yield from (manifest for _, manifest in [*written.records, *written.supporting])
    yield from (manifest for _, manifest in [*written.planned, *written.scalers])
    yield from autoscalers(dset).values()
    if (pool := inference_pool(dset)) is not None:
        yield pool


def _without_what_is_common(dset: DisaggregatedSet, children: list[dict[str, Any]]) -> list[dict[str, Any]]:
    owner = {"apiVersion": "disaggregatedset.dev/v1alpha1", "kind": "DisaggregatedSet", "name": dset.metadata.name}
    owner |= {"uid": dset.metadata.uid, "controller": True, "blockOwnerDeletion": False}
    children = copy.deepcopy(children)
    pods: dict[str, dict[str, Any]] = {}
    for child in children:
        assert child["metadata"].pop("ownerReferences") == [owner]
        assert child["metadata"].pop("namespace") == dset.metadata.namespace
        field = {"Deployment": "template", "ResourceClaimTemplate": "claim"}.get(child["kind"])
        if field is not None:
            spec = child["spec"]["template"] if field == "template" else child["spec"]["spec"]
            pods.setdefault(child["metadata"]["name"], {})[field] = spec
    for child in children:
        if child["kind"] == "ControllerRevision":
            revision = child["data"]["revision"]
            for role, kept in child["data"]["roles"].items():
                assert kept == pods[f"{dset.metadata.name}-{role}-{revision}"]
            child["data"]["roles"] = sorted(child["data"]["roles"])
    return children


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_children(case: str) -> None:
    dset = parse(read(f"render/cases/{case}/set.yaml"))
    children = _without_what_is_common(dset, list(_children(dset)))
    expected = CASES / case / "children.yaml"
    if os.environ.get("REWRITE_EXPECTED"):
        expected.write_text(yaml.dump_all(children, Dumper=_Dumper, sort_keys=False, width=120))
    assert children == list(yaml.safe_load_all(expected.read_text()))


def test_what_is_stored_of_a_revision_comes_back() -> None:
    for case in CASES.iterdir():
        for tier in rendered_tiers(parse(read(f"render/cases/{case.name}/set.yaml"))).values():
            assert TierRevision.from_data(json.loads(json.dumps(tier.data()))) == tier


def test_rendering_leaves_the_set_alone() -> None:
    for case in CASES.iterdir():
        dset = parse(read(f"render/cases/{case.name}/set.yaml"))
        before = dset.model_copy(deep=True)
        list(_children(dset))
        assert dset == before
