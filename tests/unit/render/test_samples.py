"""The revisions of the samples, which no release may change by accident."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from disaggregatedset.api.crd import custom_resource_definition
from disaggregatedset.render import revisions as hashing
from disaggregatedset.render.revisions import revisions
from tests.unit.builders import HERE, parse

SAMPLES = HERE.parents[1] / "deploy" / "samples"
WRITTEN_DOWN: dict[str, dict[str, str]] = yaml.safe_load((HERE / "render" / "samples.yaml").read_text())
Object = dict[str, Any]

WHAT_IT_DOES = """

The revisions of deploy/samples/{name}.yaml have changed: {changed}.

What that does to users: when they upgrade the operator, every set of theirs that has such a tier gets a new revision
of it, and all its pods are replaced - with compute, all GPUs, in all namespaces, at about the same time - though nobody
has changed a set.

What to do:
- You have only changed the sample itself: write its new revisions into tests/unit/render/samples.yaml.
- You have added or changed a field that should not replace pods: leave it out of the hash (render/revisions.py), or
  see to it that a set that doesn't use it hashes as before.
- You have given a field of what is hashed a default in the CRD, ours or with a newer Kubernetes' pod template: the API
  server fills it into every set. Take the default out of the CRD, or leave the field out of the hash.
- You mean it: raise HASH_VERSION in render/revisions.py, say so in CHANGELOG.md under "Upgrading", and write the new
  revisions into tests/unit/render/samples.yaml.
"""


def _stored(name: str) -> Object:
    """Return a sample as the API server stores it."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    sample: Object = yaml.safe_load((SAMPLES / f"{name}.yaml").read_text())
    return sample | {"spec": _defaulted(schema["properties"]["spec"], sample["spec"])}


def _defaulted(schema: Object, value: Any) -> Any:
    """Fill in the defaults of the CRD, and those of what they fill in."""
    if isinstance(value, list):
        return [_defaulted(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    filled = {name: copy.deepcopy(child["default"]) for name, child in properties.items() if "default" in child} | value
    return {name: _defaulted(properties.get(name, {}), child) for name, child in filled.items()}


def _revisions(sample: Object) -> dict[str, str]:
    made = revisions(parse(sample).spec)
    return {"model": made.model} | dict(made.groups)


def _assert_unchanged(name: str) -> None:
    expected, made = WRITTEN_DOWN[name], _revisions(_stored(name))
    changed = ", ".join(
        f"{group} from {expected.get(group, 'none')} to {made.get(group, 'none')}"
        for group in dict.fromkeys([*expected, *made])
        if expected.get(group) != made.get(group)
    )
    if changed:
        pytest.fail(WHAT_IT_DOES.format(name=name, changed=changed), pytrace=False)


def test_every_sample_is_written_down() -> None:
    assert WRITTEN_DOWN.keys() == {path.stem for path in SAMPLES.glob("*.yaml")}


@pytest.mark.parametrize("name", WRITTEN_DOWN)
def test_the_revisions_of_a_sample(name: str) -> None:
    _assert_unchanged(name)


def test_samples_are_hashed_as_they_are_stored() -> None:
    stored = _stored("llama")["spec"]
    assert stored["rollout"]["progressDeadlineSeconds"] == 600
    assert stored["weights"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] == "TCP"


def test_a_change_says_what_it_does_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "HASH_VERSION", 2)
    with pytest.raises(pytest.fail.Exception) as failed:
        _assert_unchanged("llama")
    said = str(failed.value)
    assert f"weights from {WRITTEN_DOWN['llama']['weights']} to " in said
    for words in ("all GPUs", "raise HASH_VERSION", "leave it out of the hash"):
        assert words in said


@pytest.mark.parametrize("where", ["ours", "the pod template's"])
def test_a_new_default_of_the_crd_is_noticed(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    crd = custom_resource_definition()
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    role = spec["compute"]["properties"]["roles"]["items"]["properties"]
    if where == "ours":
        role["accelerators"]["properties"]["requests"]["items"]["properties"]["count"]["default"] = 1
    else:
        role["template"]["properties"]["spec"]["properties"]["restartPolicy"]["default"] = "Always"
    monkeypatch.setattr(f"{__name__}.custom_resource_definition", lambda: crd)
    with pytest.raises(pytest.fail.Exception, match="compute from"):
        _assert_unchanged("llama")
