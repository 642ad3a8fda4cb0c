"""What waits for what when tiers roll together, and what stays for whom."""

from __future__ import annotations

from collections.abc import Callable

from e2e.cluster.client import Object
from e2e.cluster.wait import wait_for
from tests.integration.recorder import Count, Key, Recording
from tests.integration.rolling import NAME, recorded, role, start, wait_rolled
from tests.integration.sets import LABEL, Sets, changed, compute, spec, template

COMPUTE = ("prefill", "decode")
SLOWLY = "2s"  # for which there is something to be seen, however busy the machine


def _spec(*, servers: str = "500ms", engines: str = "500ms") -> Object:
    """All tiers, by when pods of weights and KV, and those of compute, turn ready."""
    return spec(
        weights=role(2, template=template("weights:1", ready_after=servers)),
        kvCache=role(2, template=template("kv:1", ready_after=servers)),
        compute=compute(**{name: role(2, template=template("engine:1", ready_after=engines)) for name in COMPUTE}),
    )


def _when(recording: Recording, true: Callable[[dict[Key, Count]], bool]) -> list[int]:
    return [number for number, instant in enumerate(recording.instants) if true(dict(instant.counts))]


def _sum(counts: dict[Key, Count], what: str, roles: tuple[str, ...], revisions: set[str]) -> int:
    return sum(getattr(c, what) for key, c in counts.items() if key.role in roles and key.revision in revisions)


def _revisions(sets: Sets) -> dict[str, set[str]]:
    """The revisions that have Deployments, by role."""
    found: dict[str, set[str]] = {}
    for deployment in sets.deployments(NAME):
        labels = deployment["metadata"]["labels"]
        found.setdefault(labels[f"{LABEL}/role"], set()).add(labels[f"{LABEL}/revision"])
    return found


def _environment(pod: Object) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in pod["spec"]["containers"][0]["env"]}


def _serving(sets: Sets) -> dict[str, set[str]]:
    """Names of the pods that each Service leads to."""
    found: dict[str, set[str]] = {}
    for piece in sets.cluster.client.list("discovery.k8s.io/v1", "EndpointSlice", sets.namespace):
        pods = found.setdefault(piece["metadata"]["labels"]["kubernetes.io/service-name"], set())
        pods |= {e["targetRef"]["name"] for e in piece.get("endpoints") or []}
    return found


def _hosts_lead_to_own(sets: Sets, variable: str, role: str, label: str) -> bool:
    """Whether compute pods are told two Services, and each leads to all pods of a role of its own ``label`` only."""
    servers, serving = sets.children("v1", "Pod", NAME, role=role), _serving(sets)
    told = set()
    for pod in sets.children("v1", "Pod", NAME, tier="compute"):
        service = _environment(pod)[variable].split(".")[0]
        mine = pod["metadata"]["labels"][f"{LABEL}/{label.removeprefix('compute-')}"]
        own = {p["metadata"]["name"] for p in servers if p["metadata"]["labels"][f"{LABEL}/{label}"] == mine}
        if not own or serving.get(service) != own:
            return False
        told.add(service)
    return len(told) == 2


def test_a_new_model(sets: Sets) -> None:
    """New weights and KV, then compute, then old weights and KV; each revision finds its own by name meanwhile."""
    made = _spec(engines=SLOWLY)
    start(sets, made)
    old = _revisions(sets)
    with recorded(sets) as recorder:
        sets.apply(NAME, changed(made, lambda s: s["model"].update(revision="2")))
        wait_for("compute of both models", lambda: all(len(_revisions(sets)[role]) == 2 for role in COMPUTE))
        new = {name: both - old[name] for name, both in _revisions(sets).items()}
        wait_for(
            "compute of both models to find its own weights and KV",
            lambda: (
                _hosts_lead_to_own(sets, "DSET_WEIGHTS_HOST", "weights", "model-revision")
                and _hosts_lead_to_own(sets, "DSET_KV_CACHE_HOST", "kv-cache", "model-revision")
            ),
        )
        wait_rolled(sets)
        wait_for("old weights and KV to go", lambda: _revisions(sets) == new)
    recording = recorder.recording
    compute_starts = _when(recording, lambda c: _sum(c, "asked", COMPUTE, new["prefill"]) > 0)[0]
    for tier in ("weights", "kv-cache"):
        assert _when(recording, lambda c, t=tier: _sum(c, "serving", (t,), new[t]) == 2)[0] < compute_starts
    compute_ends = _when(recording, lambda c: _sum(c, "serving", COMPUTE, old["prefill"]) > 0)[-1]
    for tier in ("weights", "kv-cache"):
        assert _when(recording, lambda c, t=tier: _sum(c, "serving", (t,), old[t]) < 2)[0] > compute_ends
        assert _when(recording, lambda c, t=tier: _sum(c, "asked", (t,), old[t]) < 2)[0] > compute_ends
    wait_for("only its own Service to be left", lambda: len(sets.children("v1", "Service", NAME, role="weights")) == 1)


def test_a_new_model_that_changes_back_before_compute_moves(sets: Sets) -> None:
    made = _spec(servers=SLOWLY)
    start(sets, made)
    old = _revisions(sets)
    before = {d["metadata"]["name"]: d["metadata"]["uid"] for d in sets.deployments(NAME)}
    with recorded(sets) as recorder:
        sets.apply(NAME, changed(made, lambda s: s["model"].update(revision="2")))
        wait_for("new weights", lambda: len(_revisions(sets)["weights"]) == 2)
        sets.apply(NAME, made)
        wait_rolled(sets)
        wait_for("new weights to go", lambda: _revisions(sets) == old)
    assert {d["metadata"]["name"]: d["metadata"]["uid"] for d in sets.deployments(NAME)} == before
    assert {key.revision for i in recorder.recording.instants for key in i.counts if not key.identity} == old["decode"]


def test_only_the_kv_image(sets: Sets) -> None:
    made = _spec()
    start(sets, made)
    before = {d["metadata"]["name"]: d["metadata"]["generation"] for d in sets.deployments(NAME)}
    with recorded(sets) as recorder:
        sets.apply(NAME, changed(made, lambda s: s["kvCache"].update(template=template("kv:2", ready_after="500ms"))))
        wait_rolled(sets)
        wait_for("the old KV revision to go", lambda: len(_revisions(sets)["kv-cache"]) == 1)
    after = {d["metadata"]["name"]: d["metadata"]["generation"] for d in sets.deployments(NAME)}
    assert {n: g for n, g in after.items() if "kv-cache" not in n} == {
        n: g for n, g in before.items() if "kv-cache" not in n
    }
    assert min(recorder.recording.ready("kv-cache")) == 2
    assert max(recorder.recording.total("kv-cache")) == 3
    assert {n for n in after if "kv-cache" in n}.isdisjoint(before)


def test_kv_of_each_compute_revision(sets: Sets) -> None:
    """``scope: Revision``: each compute revision has its own KV, finds it by name, and takes it along when it goes."""
    scoped = changed(_spec(engines=SLOWLY), lambda s: (s.pop("weights"), s["kvCache"].update(scope="Revision")))
    start(sets, scoped)
    old = _revisions(sets)
    with recorded(sets) as recorder:
        engine = template("engine:2", ready_after=SLOWLY)
        sets.apply(NAME, changed(scoped, lambda s: s["compute"]["roles"][0].update(template=engine)))
        wait_for("compute of both revisions", lambda: all(len(_revisions(sets)[role]) == 2 for role in COMPUTE))
        new = {name: both - old[name] for name, both in _revisions(sets).items()}
        wait_for(
            "compute of both revisions to find its own KV",
            lambda: _hosts_lead_to_own(sets, "DSET_KV_CACHE_HOST", "kv-cache", "compute-revision"),
        )
        services = {s["metadata"]["name"]: s for s in sets.children("v1", "Service", NAME, role="kv-cache")}
        assert services.keys() == {f"{NAME}-kv-cache-{v}" for v in old["decode"] | new["decode"]}
        for name, service in services.items():
            assert name.endswith(service["spec"]["selector"][f"{LABEL}/compute-revision"])
        wait_rolled(sets)
        wait_for("old KV to go", lambda: _revisions(sets) == new)
    recording = recorder.recording
    kv = ("kv-cache",)
    compute_starts = _when(recording, lambda c: _sum(c, "asked", COMPUTE, new["prefill"]) > 0)[0]
    assert _when(recording, lambda c: _sum(c, "serving", kv, new["kv-cache"]) == 2)[0] < compute_starts
    compute_ends = _when(recording, lambda c: _sum(c, "serving", COMPUTE, old["prefill"]) > 0)[-1]
    assert _when(recording, lambda c: _sum(c, "asked", kv, old["kv-cache"]) < 2)[0] > compute_ends
    wait_for(
        "only its own KV Service to be left",
        lambda: (
            {s["metadata"]["name"] for s in sets.children("v1", "Service", NAME, role="kv-cache")}
            == {f"{NAME}-kv-cache-{v}" for v in new["decode"]}
        ),
    )
