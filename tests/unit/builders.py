"""Sets and their children for tests, each with only what a test says about it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from disaggregatedset.api import DisaggregatedSet
from disaggregatedset.cluster import objects
from disaggregatedset.reconcile.desired import known_revisions, tier_inputs
from disaggregatedset.reconcile.diagnose import Diagnoses
from disaggregatedset.reconcile.memory import recall
from disaggregatedset.reconcile.scaling import Scales, asked_for, desired_pods, scales, seen_of_cache
from disaggregatedset.reconcile.view import CHILD_KINDS, View
from disaggregatedset.render import (
    COMPUTE,
    TierRevision,
    claim_template,
    controller_revision,
    deployment,
    rendered_tiers,
)
from disaggregatedset.rollout import (
    Observed,
    OnFailure,
    Outcome,
    Phase,
    Plan,
    Policy,
    Running,
    Spec,
    State,
    Tier,
    WhenExhausted,
    Write,
    plan_set,
)

HERE = Path(__file__).parent
NOW = datetime(2026, 1, 2, tzinfo=UTC)
Object = dict[str, Any]

#: A set with all tiers; tests override parts of its spec.
FULL = """
model: {name: llama, source: hf://llama}
weights: {replicas: 2, template: {spec: {containers: [{name: weights, image: weights}]}}}
kvCache:
  replicas: 3
  coordinator: {template: {spec: {containers: [{name: master, image: master}]}}}
  template: {spec: {containers: [{name: store, image: store}]}}
compute:
  roles:
  - name: prefill
    replicas: 1
    accelerators: {requests: [{name: gpu, deviceClassName: gpu.example.com}]}
    template: {spec: {containers: [{name: engine, image: engine}]}}
  - name: decode
    replicas: 2
    template: {spec: {containers: [{name: engine, image: engine}]}}
"""


@functools.cache
def _read(path: Path) -> str:
    return json.dumps(list(yaml.safe_load_all(path.read_text())))


def read(path: str) -> Any:
    """Read a YAML file of one document beside the tests."""
    return json.loads(_read(HERE / path))[0]


def full_spec() -> Object:
    """Return the spec of a set with all tiers."""
    spec: Object = yaml.safe_load(FULL)
    return spec


def parse(obj: Object) -> DisaggregatedSet:
    """Parse a set as the API server would give it to the operator."""
    metadata = {"namespace": "inference", "uid": "uid-of-set", "generation": 1, "resourceVersion": "1"} | obj[
        "metadata"
    ]
    return DisaggregatedSet.model_validate(obj | {"metadata": metadata})


def make_set(spec: Object | None = None, name: str = "llama", **more: Any) -> DisaggregatedSet:
    """Make a set."""
    return parse({"metadata": {"name": name}, "spec": full_spec() if spec is None else spec, **more})


def observed(asked: int, ready: int | None = None, replicas: int | None = None, *, current: bool = True) -> Observed:
    """Observe a Deployment: by default, with all that it asks for."""
    return Observed(
        asked=asked,
        ready=asked if ready is None else ready,
        replicas=asked if replicas is None else replicas,
        current=current,
    )


def live(manifest: Object, **metadata: Any) -> Object:
    """Make of a manifest what the API server would have stored."""
    stored = {"uid": f"uid-{manifest['metadata']['name']}", "resourceVersion": "1", "generation": 1} | metadata
    return manifest | {"metadata": manifest["metadata"] | stored}


def other(tier: TierRevision, revision: str, **more: Any) -> TierRevision:
    """Make another revision of a tier group, with the same roles."""
    return replace(tier, revision=revision, **more)


class World:
    """A set with children, as a view would show it."""

    def __init__(self, dset: DisaggregatedSet) -> None:
        self.dset = dset
        self.tiers = rendered_tiers(dset)
        self.running: list[Running] = []
        self.history: dict[tuple[str, str], tuple[TierRevision, int]] = {}
        self.children: dict[objects.Kind, list[Object]] = {kind: [] for kind in CHILD_KINDS}

    @property
    def inputs(self) -> dict[str, Tier]:
        return tier_inputs(self.dset, self.tiers, self.scales)

    @property
    def scales(self) -> Scales:
        seen = self.view()
        return scales(self.dset, asked_for(seen), seen_of_cache(seen, Diagnoses()), NOW)

    def keep(self, tier: TierRevision, number: int = 1) -> World:
        """Add the ControllerRevision of a revision."""
        self.history[tier.group, tier.revision] = (tier, number)
        self.children[objects.CONTROLLER_REVISION].append(live(controller_revision(self.dset, tier, number)))
        return self

    def run(self, tier: TierRevision, role: str, seen: Observed, *, kept: bool = True) -> World:
        """Add the Deployment of a role, and its claim template."""
        if kept and (tier.group, tier.revision) not in self.history:
            self.keep(tier)
        self.running.append(Running(tier.group, role, tier.revision, tier.identity, seen))
        self.children[objects.DEPLOYMENT].append(live(deployment(self.dset, tier, role, seen.asked or 0)))
        if (claim := claim_template(self.dset, tier, role)) is not None:
            self.children[objects.CLAIM_TEMPLATE].append(live(claim))
        return self

    def run_all(self, **seen: Observed) -> World:
        """Add Deployments of all wanted revisions, by default with all that is desired."""
        for group, roles in desired_pods(self.scales).items():
            for role, desired in roles.items():
                self.run(self.tiers[group], role, seen.get(role.replace("-", "_"), observed(desired)))
        return self

    def good(self) -> dict[str, State]:
        """Remember the wanted revisions as the last good ones."""
        return {group: State(good=tier.revision) for group, tier in self.tiers.items()}

    def view(self, **more: Any) -> View:
        return View(children=self.children, running=self.running, history=self.history, **more)

    def plan(
        self, states: Mapping[str, State] | None = None, *, now: datetime = NOW, retry: str = ""
    ) -> dict[str, Outcome]:
        """Plan the set as the reconciler does, from what its status remembers unless that is given."""
        rollout = self.dset.spec.rollout
        policy = Policy(
            rollout.paused,
            timedelta(seconds=rollout.progress_deadline_seconds),
            OnFailure(rollout.on_failure.value),
        )
        generation = self.dset.metadata.generation
        spec = Spec(policy, WhenExhausted(rollout.when_exhausted.value), retry, generation, now)
        known = known_revisions(self.tiers, self.view())
        remembered = recall(self.dset.status) if states is None else states
        return plan_set(self.inputs, known, self.running, remembered, spec, last=COMPUTE)


def starting(world: World) -> dict[str, Outcome]:
    """Make the plan that would create all Deployments of a set at once."""
    outcomes = {}
    for group, roles in desired_pods(world.scales).items():
        revision = world.tiers[group].revision
        writes = tuple(Write(role, revision, replicas, "") for role, replicas in roles.items())
        outcomes[group] = Outcome(revision, Plan(writes, (), done=False, phase=Phase.PROGRESSING, message=""), State())
    return outcomes
