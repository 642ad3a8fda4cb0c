"""What a real API server makes of the CRD, and what kubectl then says to people."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from disaggregatedset.api import GROUP, ConditionType, DisaggregatedSet, DisaggregatedSetStatus
from disaggregatedset.api.crd import RESOURCES
from e2e.cluster.base import Cluster
from tests.api.bounds import beyond_bounds
from tests.api.cases import Rejected, accepted, changed, compact, load, rejected

pytestmark = pytest.mark.cluster


def _create(server: Cluster, namespace: str, obj: dict[str, Any]) -> CompletedProcess[str]:
    return server.kubectl("create", "--namespace", namespace, "-f", "-", stdin=json.dumps(obj), check=False)


def _try(server: Cluster, obj: dict[str, Any]) -> CompletedProcess[str]:
    return server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(obj), check=False)


def _get(server: Cluster, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.kubectl("get", "dset", name, "-n", namespace, "-o", "json").stdout)
    return found


def _assert_says(stderr: str, field: str, message: str) -> None:
    """Assert that kubectl blames the field and says the message, whatever it quotes between."""
    wanted = rf"(^|\* |: ){re.escape(field)}: ([^\n]*[: ])?{re.escape(message)}"
    assert re.search(wanted, stderr, re.MULTILINE), stderr


def test_crds_are_accepted_without_warnings(server: Cluster, installing: str) -> None:
    names = [f"{resource.plural}.{GROUP}" for resource in RESOURCES]
    assert installing == " ".join(
        f"customresourcedefinition.apiextensions.k8s.io/{name} serverside-applied" for name in names
    )
    for name in names:
        crd = json.loads(server.kubectl("get", "crd", name, "-o", "json").stdout)
        conditions = {condition["type"]: condition["status"] for condition in crd["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize("name", accepted())
def test_accepted_cases_are_stored_as_written(server: Cluster, namespace: str, name: str) -> None:
    obj = accepted()[name]
    answer = _create(server, namespace, obj)
    assert (answer.returncode, answer.stderr) == (0, "")
    stored = _get(server, namespace, obj["metadata"]["name"])
    # Defaults appear outside of pod templates only, and the models know the same ones.
    parsed = DisaggregatedSet.model_validate(changed(obj, {"metadata.namespace": namespace}))
    assert stored["spec"] == parsed.spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_base_is_accepted(server: Cluster) -> None:
    answer = _try(server, load("base.yaml"))
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("case", rejected(), ids=lambda case: case.name)
def test_rejected_cases_say_why(server: Cluster, case: Rejected) -> None:
    answer = _try(server, case.object())
    assert answer.returncode != 0
    _assert_says(answer.stderr, case.field, case.message)


@pytest.mark.parametrize("case", list(beyond_bounds()), ids=lambda case: case.name)
def test_every_bound_of_the_schema_holds(server: Cluster, case: Rejected) -> None:
    answer = _try(server, case.object())
    assert answer.returncode != 0
    _assert_says(answer.stderr, case.field, case.message)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        (name, role["name"])
        for name, obj in accepted().items()
        for role in obj["spec"]["compute"]["roles"]
        if role.get("scaling", {}).get("mode") == "HPA"
    ],
)
def test_an_autoscaler_takes_what_a_set_may_say(server: Cluster, name: str, role: str) -> None:
    roles = {each["name"]: each for each in accepted()[name]["spec"]["compute"]["roles"]}
    spec = {
        key: value
        for key, value in roles[role]["scaling"].items()
        # Whether it scales to zero is up to the cluster's feature gate HPAScaleToZero.
        if key != "mode" and (key, value) != ("minReplicas", 0)
    }
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {"scaleTargetRef": {"apiVersion": f"{GROUP}/v1alpha1", "kind": "RoleScaler", "name": "any"}, **spec},
    }
    answer = _try(server, autoscaler)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_apply_names_a_misspelled_field(server: Cluster, namespace: str) -> None:
    obj = changed(load("base.yaml"), {"spec.compute.roles[0].template.spec": {"contianers": [{"name": "engine"}]}})
    for flags in ([], ["--server-side"]):
        answer = server.kubectl("apply", *flags, "-n", namespace, "-f", "-", stdin=json.dumps(obj), check=False)
        assert answer.returncode != 0
        assert re.search(r"spec\.compute\.roles(\[0\])?.*\.template\.spec\.contianers", answer.stderr), answer.stderr


def _explain(server: Cluster, field: str) -> str:
    return " ".join(server.kubectl("explain", field).stdout.split())


def test_explain_reads_well(server: Cluster) -> None:
    text = _explain(server, "dset.spec.compute.roles.accelerators")
    assert "DESCRIPTION: Devices that each pod claims through DRA. FIELDS:" in text
    for sentence in (
        "requests <[]Object> -required- The devices that each pod claims.",
        "constraints <[]Object> What the devices must have in common, for example the PCIe root of a GPU and its NIC.",
        "containers <[]string> Containers and init containers that see the devices; absent: the first container.",
        "config <[]Object> Configuration for the drivers.",
    ):
        assert sentence in text
    text = _explain(server, "dset.spec.rollout")
    assert "onFailure <string> enum: Rollback, Hold Rollback: capacity returns to the last good revision" in text
    assert "template <Object> -required- The pods: a PodTemplateSpec." in _explain(server, "dset.spec.weights")
    text = _explain(server, "dset.spec.compute.roles.scaling")
    assert "mode <string> enum: Static, External, HPA, Follow Static: replicas of the set." in text
    assert (
        "minReplicas <integer> The fewest pods; absent: none, and 1 for mode HPA, where 0 needs Kubernetes 1.37" in text
    )
    text = _explain(server, "dset.spec.routing.inferencePool.endpointPickerRef")
    assert "failureMode <string> enum: FailOpen, FailClose While it does not answer, FailClose refuses requests" in text
    assert "averageUtilization <integer>" in _explain(
        server, "dset.spec.weights.scaling.metrics.containerResource.target"
    )
    assert "imagePullPolicy <string>" in _explain(server, "dset.spec.weights.template.spec.containers")


def test_columns_short_name_and_category(server: Cluster, namespace: str) -> None:
    answer = _create(server, namespace, changed(accepted()["minimal"], {"metadata.name": "shown"}))
    assert answer.returncode == 0, answer.stderr
    now = "2026-01-01T00:00:00Z"
    status = {
        "modelRevision": "0123456789",
        "summary": {
            "weights": "1/2",
            "kvCache": "3/3",
            "compute": "4/6",
            "roles": "engine 4/6",
            "rollout": "compute: RollingBack",
        },
        "conditions": [
            {"type": "Available", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": now},
            {"type": "Accepted", "status": "False", "reason": "NameConflict", "message": "", "lastTransitionTime": now},
        ],
    }
    patch = ["--subresource=status", "--type=merge", "-p", compact({"status": status})]
    server.kubectl("patch", "dset", "shown", "-n", namespace, *patch)

    def columns(*arguments: str) -> list[list[str]]:
        lines = server.kubectl("get", *arguments, "-n", namespace).stdout.splitlines()
        return [re.split(r"\s{2,}", line.strip()) for line in lines]

    usual = ["NAME", "MODEL", "WEIGHTS", "KV", "COMPUTE", "ROLLOUT", "AVAILABLE", "AGE"]
    header, row = columns("dset")
    assert header == usual
    assert row[:-1] == ["shown", "Qwen/Qwen3-0.6B", "1/2", "3/3", "4/6", "compute: RollingBack", "True"]
    header, row = columns("inference", "-o", "wide")
    assert header == [*usual, "ACCEPTED", "ROLES", "MODEL-REVISION"]
    assert row[-3:] == ["NameConflict", "engine 4/6", "0123456789"]


def _unset(model: BaseModel) -> Iterator[str]:
    """List the fields that a model, or one within it, has no value for."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if value is None:
            yield name
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, BaseModel):
                yield from _unset(part)


def test_a_status_with_everything_is_stored_as_written(server: Cluster, namespace: str) -> None:
    """An API server would drop what the schema of the status lacks, and the operator would forget it."""
    assert _create(server, namespace, changed(accepted()["minimal"], {"metadata.name": "full"})).returncode == 0
    now = "2026-01-01T00:00:00Z"
    status = {
        "observedGeneration": 3,
        "modelRevision": "m",
        "summary": {"weights": "1/2", "kvCache": "3/6", "compute": "4/6", "roles": "words", "rollout": "words"},
        "roles": [
            {
                "name": "kv-cache",
                "tier": "kvCache",
                "desired": 2,
                "replicas": 6,
                "ready": 5,
                "updated": 6,
                "revision": "k",
                "claims": {"allocated": 5, "pending": 1},
                "message": "words",
                "scaleDown": {"replicas": 5, "lastStepAt": now},
            }
        ],
        "conditions": [
            {
                "type": kind,
                "status": "Unknown",
                "observedGeneration": 3,
                "lastTransitionTime": now,
                "reason": "Words",
                "message": "words",
            }
            for kind in ConditionType
        ],
        "rollouts": [
            {
                "group": "compute",
                "from": "a",
                "to": "b",
                "phase": "RollingBack",
                "message": "words",
                "oldReplicas": {"prefill": 1, "decode": 100000},
                "generation": 3,
                "progress": -7,
                "startedAt": now,
                "lastProgressAt": now,
                "waitingSince": now,
            }
        ],
        "failedRevisions": [
            {
                "group": "compute",
                "revision": "b",
                "reason": "ImagePull",
                "message": "words",
                "failedAt": now,
                "retry": "1",
                "rollbackFailed": True,
            }
        ],
        "goodRevisions": {"compute": "a", "weights": "w"},
    }
    assert set(_unset(DisaggregatedSetStatus.model_validate(status))) == set(), "the test writes every field"
    patch = ["--subresource=status", "--type=merge", "-p", compact({"status": status})]
    server.kubectl("patch", "dset", "full", "-n", namespace, *patch)
    assert _get(server, namespace, "full")["status"] == status


def test_status_is_written_apart_from_spec(server: Cluster, namespace: str) -> None:
    obj = changed(accepted()["minimal"], {"status": {"modelRevision": "mine"}})
    assert _create(server, namespace, obj).returncode == 0
    assert "status" not in _get(server, namespace, "minimal")


def test_roles_of_several_managers_merge(server: Cluster, namespace: str) -> None:
    both = accepted()["native-sidecars"]
    prefill, decode = both["spec"]["compute"]["roles"]

    def apply(manager: str, spec: dict[str, Any]) -> None:
        obj = {**copy.deepcopy(both), "spec": spec}
        flags = ["--server-side", f"--field-manager={manager}", "-n", namespace, "-f", "-"]
        server.kubectl("apply", *flags, stdin=yaml.safe_dump(obj))

    def roles() -> list[str]:
        return [role["name"] for role in _get(server, namespace, "native-sidecars")["spec"]["compute"]["roles"]]

    apply("one", {"model": both["spec"]["model"], "compute": {"roles": [prefill]}})
    apply("other", {"compute": {"roles": [decode]}})
    assert roles() == ["prefill", "decode"]
    apply("other", {"compute": {"roles": [{**decode, "name": "encode"}]}})
    assert sorted(roles()) == ["encode", "prefill"]
