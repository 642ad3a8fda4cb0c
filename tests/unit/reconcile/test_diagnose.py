"""What is said about pods that are not ready."""

from __future__ import annotations

from typing import Any

import pytest

from disaggregatedset.reconcile.diagnose import Cause, Diagnoses, Diagnosis, diagnose, diagnose_set
from disaggregatedset.render import REVISION_LABEL, ROLE_LABEL
from tests.unit.builders import read

Object = dict[str, Any]


def _pod(status: Any, role: str = "decode", revision: str = "r1", **metadata: Any) -> Object:
    labels = {ROLE_LABEL: role, REVISION_LABEL: revision}
    return {"metadata": {"name": "p", "labels": labels, **metadata}, "status": status}


CASES = {case["name"]: case for case in read("reconcile/diagnose.yaml")}
READY, DEVICES, PULL, STARTING = (
    CASES[n]["status"] for n in ("ready", "no device is free", "image pull", "just created")
)


@pytest.mark.parametrize("name", CASES)
def test_one_pod(name: str) -> None:
    case = CASES[name]
    cause = None if case["cause"] is None else Cause(case["cause"])
    expected = None if cause is None else Diagnosis(cause, case["message"], {cause: 1})
    assert diagnose([_pod(case["status"])], total=4) == expected


def test_every_cause_has_a_case() -> None:
    assert {case["cause"] for case in CASES.values()} - {None} == {cause.value for cause in Cause}


def test_pods_are_grouped_by_cause_worst_first() -> None:
    pods = [_pod(status) for status in (STARTING, DEVICES, READY, DEVICES, PULL)]
    found = diagnose(pods, total=5)
    assert found is not None
    assert found.cause is Cause.IMAGE_PULL
    assert found.counts == {Cause.IMAGE_PULL: 1, Cause.DEVICES_EXHAUSTED: 2, Cause.STARTING: 1}
    assert [part.split(":")[0] for part in found.message.split("; ")] == [
        "1 of 5 pods can't pull their image",
        "2 of 5 pods wait for devices",
        "1 of 5 pods are starting",
    ]


def test_the_most_common_words_speak_for_a_cause() -> None:
    def waits(words: str) -> Object:
        return _pod({"conditions": [{"type": "PodScheduled", "status": "False", "message": words}]})

    found = diagnose([waits("rare"), waits("common"), waits("common")], total=3)
    assert found == Diagnosis(Cause.UNSCHEDULABLE, "3 of 3 pods can't be scheduled: common", {Cause.UNSCHEDULABLE: 3})


def test_long_words_are_cut() -> None:
    status = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "x" * 5000}]}
    found = diagnose([_pod(status)], total=1)
    assert found is not None
    assert len(found.message) < 700


def test_pods_that_are_going_are_not_counted() -> None:
    assert diagnose([_pod(PULL, deletionTimestamp="2026-01-01T00:00:00Z")], total=1) is None
    assert diagnose([], total=1) is None


DESIRED = {"weights": {"weights": 2}, "compute": {"prefill": 1, "decode": 3}}


def test_roles() -> None:
    pods = [_pod(PULL, "decode"), _pod(READY, "prefill"), _pod(DEVICES, "weights"), _pod(PULL, "unknown")]
    found = diagnose_set(pods, [], DESIRED).roles
    assert {role: d.cause for role, d in found.items()} == {
        "weights": Cause.DEVICES_EXHAUSTED,
        "decode": Cause.IMAGE_PULL,
    }
    assert found["decode"].message.startswith("1 of 3 pods")


def test_revisions_of_a_role() -> None:
    """A rollout fails by what its own revision's pods suffer from, whatever else goes on."""
    pods = [_pod(READY), _pod(DEVICES), _pod(PULL, revision="r2"), _pod(PULL, revision="r2"), _pod(STARTING, "prefill")]
    found = diagnose_set(pods, [], DESIRED)
    assert {key: (d.cause, d.counts) for key, d in found.revisions.items()} == {
        ("decode", "r1"): (Cause.DEVICES_EXHAUSTED, {Cause.DEVICES_EXHAUSTED: 1}),
        ("decode", "r2"): (Cause.IMAGE_PULL, {Cause.IMAGE_PULL: 2}),
        ("prefill", "r1"): (Cause.STARTING, {Cause.STARTING: 1}),
    }
    assert found.revisions["decode", "r2"].message.startswith("2 of 2 pods"), "of those of the revision"
    assert found.roles["decode"].counts == {Cause.DEVICES_EXHAUSTED: 1, Cause.IMAGE_PULL: 2}


def test_a_pod_that_only_pretends_to_be_of_the_set_is_passed_over() -> None:
    stranger = {"metadata": {"name": "p", "labels": {}}, "status": PULL}
    assert diagnose_set([stranger], [], DESIRED).roles == {}


def _deployment(role: str, **condition: Any) -> Object:
    labels = {ROLE_LABEL: role, REVISION_LABEL: "r1"}
    return {"metadata": {"labels": labels}, "status": {"conditions": [condition]}}


def test_pods_that_cannot_even_be_created() -> None:
    quota = _deployment("decode", type="ReplicaFailure", status="True", message="exceeded quota: gpus")
    over = _deployment("prefill", type="ReplicaFailure", status="False", message="exceeded quota")
    fine = _deployment("prefill", type="Progressing", status="True", message="fine")
    found = diagnose_set([], [quota, over, fine, {"metadata": {"labels": {ROLE_LABEL: "x"}}}], {})
    rejected = Diagnosis(Cause.REJECTED, "pods are rejected: exceeded quota: gpus")
    assert found == Diagnoses({"decode": rejected}, {("decode", "r1"): rejected})


def test_a_long_rejection_is_cut_so_that_a_status_can_be_made_of_it() -> None:
    webhook = _deployment("decode", type="ReplicaFailure", status="True", message="denied the request: " + "x" * 9000)
    assert len(diagnose_set([], [webhook], {}).roles["decode"].message) < 700


def test_what_waiting_helps_against_is_no_failure() -> None:
    assert {cause for cause in Cause if not cause.failing} == {Cause.STARTING, Cause.NOT_READY}
