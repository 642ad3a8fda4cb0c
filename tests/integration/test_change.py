"""A change of one tier replaces the pods of that tier only."""

from __future__ import annotations

from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from tests.integration.sets import Sets, changed, compute, role, spec, template

SPEC = spec(
    weights={"template": template("weights:1")},
    kvCache={"coordinator": {"template": template("master:1")}, "replicas": 2, "template": template("kv:1")},
    compute=compute(prefill={"template": template("engine:1")}, decode={"template": template("engine:1")}),
)
ROLES = ("weights", "kv-coordinator", "kv-cache", "prefill", "decode")


def _pods(sets: Sets) -> dict[str, set[str]]:
    return {name: {p["metadata"]["uid"] for p in sets.children("v1", "Pod", "llama", role=name)} for name in ROLES}


def _replaced(sets: Sets, spec: Object) -> set[str]:
    """Apply a spec and return the roles all of whose pods were replaced; no role may have some replaced only."""
    before = _pods(sets)
    sets.apply("llama", spec)
    sets.wait_available("llama")
    wait_for("one Deployment for each role", lambda: len(sets.deployments("llama")) == len(ROLES))
    wait_for("old pods to go", lambda: all(len(p) == len(before[name]) for name, p in _pods(sets).items()))
    after = _pods(sets)
    assert all(after[name] == before[name] or not after[name] & before[name] for name in ROLES)
    return {name for name in ROLES if after[name] != before[name]}


def test_each_tier_rolls_alone(sets: Sets) -> None:
    sets.apply("llama", SPEC)
    sets.wait_available("llama")

    kv = changed(SPEC, lambda s: s["kvCache"].update(template=template("kv:2")))
    assert _replaced(sets, kv) == {"kv-cache"}
    coordinator = changed(kv, lambda s: s["kvCache"]["coordinator"].update(template=template("master:2")))
    assert _replaced(sets, coordinator) == {"kv-coordinator"}
    weights = changed(coordinator, lambda s: s["weights"].update(template=template("weights:2")))
    assert _replaced(sets, weights) == {"weights"}
    decode = changed(weights, lambda s: s["compute"]["roles"][1].update(template=template("engine:2")))
    assert _replaced(sets, decode) == {"prefill", "decode"}
    disruption = changed(decode, lambda s: s["weights"].update(disruption={"maxUnavailable": "50%"}))
    assert _replaced(sets, disruption) == set()
    model = changed(disruption, lambda s: s["model"].update(revision="2"))
    assert _replaced(sets, model) == set(ROLES)


def test_scaling_replaces_no_pod(sets: Sets) -> None:
    sets.apply("llama", SPEC)
    sets.wait_available("llama")
    before = _pods(sets)
    sets.apply("llama", changed(SPEC, lambda s: s["compute"]["roles"][1].update(replicas=3)))
    status = sets.wait_available("llama")
    assert role(status, "decode")["ready"] == 3
    after = _pods(sets)
    assert before["decode"] < after["decode"]
    assert {name: pods for name, pods in after.items() if name != "decode"} == {
        name: pods for name, pods in before.items() if name != "decode"
    }
    sets.wait_event("llama", "from 1 to 3")


def test_a_tier_that_is_taken_out_goes(sets: Sets) -> None:
    sets.apply("llama", SPEC)
    sets.wait_available("llama")
    sets.apply("llama", changed(SPEC, lambda s: (s.pop("weights"), s.pop("kvCache"))))
    sets.wait_available("llama")
    wait_for(
        "the children of weights and KV cache to go",
        lambda: (
            not any(
                sets.children(*kind, "llama", tier=tier)
                for tier in ("weights", "kvCache")
                for kind in (("apps/v1", "Deployment"), ("v1", "Service"), ("policy/v1", "PodDisruptionBudget"))
            )
        ),
    )
