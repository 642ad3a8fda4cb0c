"""From apply to Available: order of the tiers, children, devices, status."""

from __future__ import annotations

from e2e.cluster.base import Cluster
from e2e.cluster.wait import wait_for
from tests.integration.rolling import NAME, misbehave
from tests.integration.sets import LABEL, Sets, compute, condition, gpus, role, spec, template

TIERS = spec(
    weights={"replicas": 2, "template": template(behaviour="never-ready")},
    kvCache={"replicas": 2, "template": template(behaviour="never-ready")},
    compute=compute(prefill={"accelerators": gpus()}, decode={"replicas": 2, "accelerators": gpus()}),
)


def test_all_tiers_come_up_in_order(sets: Sets) -> None:
    sets.apply(NAME, TIERS)
    waits = "waits until weights and kv-cache are ready"
    waiting = sets.wait(NAME, lambda s: role(s, "decode").get("message") == waits)
    assert condition(waiting, "Progressing")["reason"] == "Starting"
    assert condition(waiting, "Available")["status"] == "False"
    wait_for("weights and KV", lambda: len(sets.children("v1", "Pod", NAME)) == 4)
    assert sets.deployments(NAME, tier="compute") == []

    misbehave(sets, None)
    sets.wait_available(NAME)
    # Claims are counted by other events than pods.
    status = sets.wait(NAME, lambda s: condition(s, "AcceleratorsAllocated")["status"] == "True")
    assert {r["name"]: (r["ready"], r["desired"], r["updated"]) for r in status["roles"]} == {
        "weights": (2, 2, 2), "kv-cache": (2, 2, 2), "prefill": (1, 1, 1), "decode": (2, 2, 2),
    }  # fmt: skip
    assert status["summary"] == {
        "weights": "2/2", "kvCache": "2/2", "compute": "3/3",
        "roles": "weights 2/2, kv-cache 2/2, prefill 1/1, decode 2/2",
    }  # fmt: skip
    assert role(status, "decode")["claims"] == {"allocated": 2, "pending": 0}
    assert {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]} == {
        "Accepted": ("True", "Accepted"),
        "Available": ("True", "AllRolesReady"),
        "Progressing": ("False", "Complete"),
        "Degraded": ("False", "AsExpected"),
        "AcceleratorsAllocated": ("True", "Allocated"),
    }
    ready = {kind: _became_ready(sets, kind) for kind in ("weights", "kvCache", "compute")}
    assert max(ready["weights"][1], ready["kvCache"][1]) <= ready["compute"][0]
    sets.wait_event(NAME, "Available: AllRolesReady")


def _became_ready(sets: Sets, tier: str) -> tuple[str, str]:
    """When the first pod of a tier was created, and when the last one became ready."""
    pods = sets.children("v1", "Pod", NAME, tier=tier)
    ready = [c["lastTransitionTime"] for p in pods for c in p["status"]["conditions"] if c["type"] == "Ready"]
    return min(p["metadata"]["creationTimestamp"] for p in pods), max(ready)


def test_compute_alone(sets: Sets) -> None:
    sets.apply("bare", spec())
    status = sets.wait_available("bare")
    assert [r["name"] for r in status["roles"]] == ["prefill", "decode"]
    assert condition(status, "AcceleratorsAllocated")["reason"] == "NotRequested"
    assert "weights" not in status["summary"]


def test_optional_kv_cache_is_not_waited_for(sets: Sets) -> None:
    sets.apply("opt", spec(kvCache={"required": False, "template": template(behaviour="never-ready")}))
    status = sets.wait("opt", lambda s: condition(s, "Available")["status"] == "True")
    assert role(status, "kv-cache")["ready"] == 0


def test_stores_wait_for_their_coordinator(sets: Sets) -> None:
    kv = {"coordinator": {"template": template(behaviour="never-ready")}, "template": template()}
    sets.apply(NAME, spec(kvCache=kv))
    sets.wait(NAME, lambda s: role(s, "kv-cache").get("message") == "waits until kv-coordinator is ready")
    wait_for("the coordinator", lambda: sets.children("v1", "Pod", NAME))
    assert sets.deployments(NAME, role="kv-cache") == []

    misbehave(sets, None)
    status = sets.wait_available(NAME)
    model = status["modelRevision"]
    (store,) = sets.deployments(NAME, role="kv-cache")
    environment = {e["name"]: e.get("value") for e in store["spec"]["template"]["spec"]["containers"][0]["env"]}
    host = f"{NAME}-kv-coordinator-{model}.{sets.namespace}.svc"
    assert environment["DSET_KV_COORDINATOR_HOST"] == host


def test_services_reach_the_pods_of_their_role_only(sets: Sets, cluster: Cluster) -> None:
    sets.apply("svc", spec(weights={"replicas": 2, "template": template()}))
    sets.wait_available("svc")
    for service in sets.children("v1", "Service", "svc"):
        name, labels = service["metadata"]["name"], service["metadata"]["labels"]

        pods = {p["metadata"]["name"] for p in sets.children("v1", "Pod", "svc", role=labels[f"{LABEL}/role"])}

        def reaches_them(name: str = name, pods: set[str] = pods) -> bool:
            found = cluster.client.list(
                "discovery.k8s.io/v1", "EndpointSlice", sets.namespace, labels=f"kubernetes.io/service-name={name}"
            )
            return {e["targetRef"]["name"] for piece in found for e in piece.get("endpoints") or []} == pods

        assert pods
        wait_for(f"{name} to reach {', '.join(pods)} and no other", reaches_them)


def test_nothing_of_kopf_and_no_finalizer(sets: Sets) -> None:
    sets.apply("clean", spec())
    sets.wait_available("clean")
    for child in [sets.get("clean"), *sets.all_children("clean").values()]:
        assert "finalizers" not in child["metadata"]
        assert not [name for name in child["metadata"].get("annotations") or {} if "kopf" in name]


def test_pods_that_ask_for_more_devices_than_there_are(sets: Sets, cluster: Cluster) -> None:
    (node,) = cluster.add_nodes(1, devices=0, prefix="more")
    try:
        wanted = compute(prefill={}, decode={"replicas": 9, "accelerators": gpus()})
        sets.apply("hungry", spec(compute=wanted))
        # Claims of an earlier test may still be there at first, and devices are there before pods are ready.
        told = "8 of 9 claims have their devices; decode: 1 of 9 pods wait for devices"
        status = sets.wait(
            "hungry",
            lambda s: (
                condition(s, "AcceleratorsAllocated")["message"].startswith(told)
                and (role(s, "prefill")["ready"], role(s, "decode")["ready"]) == (1, 8)
            ),
        )
        assert condition(status, "AcceleratorsAllocated")["status"] == "False"
        assert "cannot allocate all claims" in role(status, "decode")["message"]
        assert condition(status, "Degraded")["reason"] == "DevicesExhausted"
        sets.wait_event("hungry", "DevicesExhausted")

        cluster.set_devices(node, 1)
        sets.wait_available("hungry")
        sets.wait("hungry", lambda s: condition(s, "AcceleratorsAllocated")["status"] == "True")
    finally:
        cluster.remove_node(node)


def test_causes_are_told_apart(sets: Sets) -> None:
    behaviours = {"crash": "crash-loop", "pull": "image-pull-failure", "probe": "never-ready"}
    roles = {name: {"template": template(behaviour=b)} for name, b in behaviours.items()}
    sets.apply("broken", spec(compute=compute(**roles, big={"template": _asks_for("1000")})))
    expected = {
        "crash": "1 of 1 pods crash: container engine ended with exit code 1",
        "pull": "1 of 1 pods can't pull their image: container engine:",
        "probe": "1 of 1 pods run but are not ready: container engine does not pass its readiness probe",
        "big": "1 of 1 pods can't be scheduled: 0/",
    }
    status = sets.wait("broken", lambda s: all(expected[r["name"]] in r.get("message", "") for r in s["roles"]))
    assert condition(status, "Degraded")["status"] == "True"
    assert condition(status, "Degraded")["reason"] == "ImagePull"


def _asks_for(cpus: str) -> dict[str, object]:
    made = template()
    made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpus}}
    return made
