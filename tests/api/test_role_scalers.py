"""RoleScalers on a real API server: what people and autoscalers scale a role by."""

from __future__ import annotations

import json
import re
from subprocess import CompletedProcess
from typing import Any

import pytest

from e2e.cluster.base import Cluster
from tests.api.cases import changed, compact, load

pytestmark = pytest.mark.cluster

_OPERATOR = ["--server-side", "--field-manager=operator"]
_STATIC = {"spec.minReplicas": None, "spec.maxReplicas": None}
_FOLLOW = {**_STATIC, "spec.mode": "Follow"}
_EXTERNAL = {"spec.mode": "External", "spec.fixedReplicas": None}
_HPA = {**_EXTERNAL, "spec.mode": "HPA"}

_IN_THE_SET = (
    "the DisaggregatedSet decides how many pods this role has (scaling.mode Static): change replicas there, or set "
    "scaling.mode External there to scale it here"
)
_WITH_ANOTHER = (
    "the DisaggregatedSet decides how many pods this role has (scaling.mode Follow): scale the role that it follows, "
    "or set scaling.mode External there to scale it here"
)


def _apply(server: Cluster, namespace: str, changes: dict[str, Any]) -> CompletedProcess[str]:
    stdin = compact(changed(load("role-scaler.yaml"), changes))
    return server.kubectl("apply", *_OPERATOR, "-n", namespace, "-f", "-", stdin=stdin, check=False)


def _made(server: Cluster, namespace: str, changes: dict[str, Any]) -> None:
    answer = _apply(server, namespace, changes)
    assert answer.returncode == 0, answer.stderr


def _scale(server: Cluster, namespace: str, replicas: int) -> CompletedProcess[str]:
    return server.kubectl("scale", "dscale/llama-decode", f"--replicas={replicas}", "-n", namespace, check=False)


def _replicas(server: Cluster, namespace: str) -> int:
    found = server.kubectl("get", "dscale", "llama-decode", "-n", namespace, "-o", "json").stdout
    replicas: int = json.loads(found)["spec"]["replicas"]
    return replicas


def _set_status(server: Cluster, namespace: str, status: dict[str, Any]) -> None:
    patch = ["--subresource=status", "--type=merge", "-p", compact({"status": status})]
    server.kubectl("patch", "dscale", "llama-decode", "-n", namespace, *patch)


@pytest.mark.parametrize(("mode", "message"), [(_STATIC, _IN_THE_SET), (_FOLLOW, _WITH_ANOTHER)])
def test_scaling_says_what_to_do_where_the_set_decides(
    server: Cluster, namespace: str, mode: dict[str, Any], message: str
) -> None:
    _made(server, namespace, mode)
    for replicas in (0, 5):
        answer = _scale(server, namespace, replicas)
        assert answer.returncode != 0
        said = (
            f'The RoleScaler "llama-decode" is invalid: spec.replicas: Invalid value: ([^\n]*: )?{re.escape(message)}'
        )
        assert re.fullmatch(said, answer.stderr.strip())
    assert _replicas(server, namespace) == 3
    assert _scale(server, namespace, 3).returncode == 0, "what is so may be said"


def test_an_edit_says_what_to_do_where_the_set_decides(server: Cluster, namespace: str) -> None:
    _made(server, namespace, _STATIC)
    patch = ["--type=merge", "-p", compact({"spec": {"replicas": 5}})]
    answer = server.kubectl("patch", "dscale", "llama-decode", "-n", namespace, *patch, check=False)
    assert answer.returncode != 0
    assert _IN_THE_SET in answer.stderr


@pytest.mark.parametrize("mode", [_EXTERNAL, _HPA])
def test_scaling_where_others_decide(server: Cluster, namespace: str, mode: dict[str, Any]) -> None:
    """Also beyond the bounds, which the status tells of: an HPA may have others."""
    _made(server, namespace, mode)
    for replicas in (5, 0, 100_000):
        answer = _scale(server, namespace, replicas)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert answer.stdout.strip() == "rolescaler.disaggregatedset.dev/llama-decode scaled"
        assert _replicas(server, namespace) == replicas
    answer = _scale(server, namespace, 100_001)
    assert answer.returncode != 0
    assert "should be less than or equal to 100000" in answer.stderr


def test_the_set_changes_its_number(server: Cluster, namespace: str) -> None:
    _made(server, namespace, _STATIC)
    _made(server, namespace, {**_STATIC, "spec.replicas": 5, "spec.fixedReplicas": 5})
    assert _replicas(server, namespace) == 5
    answer = _apply(server, namespace, {**_STATIC, "spec.replicas": 6, "spec.fixedReplicas": 5})
    assert answer.returncode != 0
    assert _IN_THE_SET in answer.stderr


def test_from_the_set_to_others_and_back(server: Cluster, namespace: str) -> None:
    """The number of whoever scales it stays, until the set takes it back."""
    _made(server, namespace, _STATIC)
    _made(server, namespace, _EXTERNAL)
    assert _scale(server, namespace, 7).returncode == 0
    _made(server, namespace, {**_EXTERNAL, "spec.replicas": None})
    assert _replicas(server, namespace) == 7
    answer = _apply(server, namespace, _STATIC)
    assert answer.returncode != 0, "kubectl scale owns the number"
    assert 'conflict with "kubectl" with subresource "scale"' in answer.stderr
    stdin = compact(changed(load("role-scaler.yaml"), _STATIC))
    server.kubectl("apply", *_OPERATOR, "--force-conflicts", "-n", namespace, "-f", "-", stdin=stdin)
    assert _replicas(server, namespace) == 3
    assert _scale(server, namespace, 7).returncode != 0


def test_a_number_that_nobody_has_taken_over_can_not_be_given_up(server: Cluster, namespace: str) -> None:
    """So it has to be handed over before the operator says no number any more."""
    _made(server, namespace, _STATIC)
    answer = _apply(server, namespace, {**_EXTERNAL, "spec.replicas": None})
    assert answer.returncode != 0
    assert "spec.replicas: Required value" in answer.stderr


def test_the_scale_subresource_has_what_autoscalers_need(server: Cluster, namespace: str) -> None:
    _made(server, namespace, _EXTERNAL)
    selector = "disaggregatedset.dev/name=llama,disaggregatedset.dev/role=decode"
    _set_status(server, namespace, {"replicas": 4, "desiredReplicas": 5, "selector": selector})
    found = server.kubectl("get", "dscale", "llama-decode", "-n", namespace, "--subresource=scale", "-o", "json").stdout
    scale = json.loads(found)
    assert (scale["apiVersion"], scale["kind"]) == ("autoscaling/v1", "Scale")
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 4, "selector": selector}


def test_columns_short_name_and_category(server: Cluster, namespace: str) -> None:
    _made(server, namespace, _EXTERNAL)
    condition = {
        "type": "ScalingLimited",
        "status": "True",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "TooManyReplicas",
        "message": "words",
    }
    status = {
        "observedGeneration": 1,
        "replicas": 4,
        "desiredReplicas": 8,
        "selector": "a=b",
        "conditions": [condition],
    }
    _set_status(server, namespace, status)
    assert _scale(server, namespace, 9).returncode == 0

    def columns(*arguments: str) -> list[list[str]]:
        lines = server.kubectl("get", *arguments, "-n", namespace).stdout.splitlines()
        return [re.split(r"\s{2,}", line.strip()) for line in lines]

    usual = ["NAME", "ROLE", "MODE", "DESIRED", "CURRENT", "AGE"]
    header, row = columns("dscale")
    assert header == usual
    assert row[:-1] == ["llama-decode", "decode", "External", "8", "4"]
    header, row = columns("inference", "-o", "wide")
    assert header == [*usual, "ASKED", "LIMITED"]
    assert row[-2:] == ["9", "TooManyReplicas"]
    found = server.kubectl("get", "rolescalers", "llama-decode", "-n", namespace, "-o", "json").stdout
    assert json.loads(found)["status"] == status


def test_explain_reads_well(server: Cluster) -> None:
    text = " ".join(server.kubectl("explain", "dscale.spec").stdout.split())
    for sentence in (
        "DESCRIPTION: How many pods a role should have. FIELDS:",
        "fixedReplicas <integer> How many pods the set says there are, where it decides (mode Static and Follow).",
        "mode <string> -required- enum: Static, External, HPA, Follow Who decides: scaling.mode of the role.",
        "replicas <integer> -required- How many pods are asked for; with mode External and HPA whoever scales this",
        "role <string> -required- The role that is scaled.",
    ):
        assert sentence in text
    text = " ".join(server.kubectl("explain", "dscale").stdout.split())
    assert "DESCRIPTION: Scales one role of a DisaggregatedSet, in all its revisions: made by the operator" in text
