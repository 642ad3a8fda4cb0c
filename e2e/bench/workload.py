"""What is created: sets for the operator, and for the floor the same children without their sets. Pure."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

import yaml

from disaggregatedset.api import DisaggregatedSet
from disaggregatedset.reconcile.desired import stages
from disaggregatedset.reconcile.scaling import Pods, Scales, desired_pods, scales
from disaggregatedset.reconcile.view import CHILD_KINDS, View
from disaggregatedset.render import TierRevision, rendered_tiers
from disaggregatedset.rollout import Outcome, Phase, Plan, State, Write
from e2e.cluster import Object

NAMESPACE: Final = "bench"
DEVICE_CLASS: Final = "gpu.example.com"

_PODS_PER_NODE: Final = 200
_DEVICES_PER_NODE: Final = 100
_FEWEST_NODES: Final = 3


@dataclass(frozen=True, slots=True)
class Workload:
    """How many sets of what size.

    Attributes
    ----------
    sets
        How many sets.
    weights, prefill, decode
        Replicas of their roles.
    devices
        Whether each pod of prefill and decode claims a device.
    """

    sets: int
    weights: int = 1
    prefill: int = 1
    decode: int = 1
    devices: bool = False

    @property
    def pods(self) -> int:
        """Pods of all sets."""
        return self.sets * (self.weights + self.prefill + self.decode)

    @property
    def claims(self) -> int:
        """Devices that all sets claim."""
        return self.sets * (self.prefill + self.decode) if self.devices else 0

    @property
    def nodes(self) -> int:
        """Nodes on which all pods fit, without crowding any."""
        return max(_FEWEST_NODES, math.ceil(self.pods / _PODS_PER_NODE), math.ceil(self.claims / _DEVICES_PER_NODE))

    @property
    def devices_per_node(self) -> int:
        """Devices that each node must have, with a few to spare so that the scheduler needn't search for the last."""
        return math.ceil(self.claims / self.nodes * 1.2)

    def manifests(self) -> list[Object]:
        """Return the sets."""
        base = _base()
        base["spec"]["weights"]["replicas"] = self.weights
        for role, replicas in zip(base["spec"]["compute"]["roles"], (self.prefill, self.decode), strict=True):
            role["replicas"] = replicas
            if self.devices:
                role["accelerators"] = {"requests": [{"name": "gpu", "deviceClassName": DEVICE_CLASS}]}
        return [_named(base, f"set-{number:04}") for number in range(self.sets)]


#: The roles of the sets that roll, all of compute: they move in lockstep.
_ROLLING_ROLES: Final = ("encode", "prefill", "decode")
_ROLLING_REPLICAS: Final = 2
_SURGE: Final = 1
_NEXT_IMAGE: Final = "vllm/vllm-openai:v0.11.1"


@dataclass(frozen=True, slots=True)
class RollingWorkload:
    """Sets of three compute roles of two replicas each, surge 1, unavailable 0, that roll to another image.

    Attributes
    ----------
    sets
        How many sets.
    """

    sets: int

    @property
    def nodes(self) -> int:
        """Nodes on which all pods fit, those of a surge included."""
        pods = self.sets * len(_ROLLING_ROLES) * (_ROLLING_REPLICAS + _SURGE)
        return max(_FEWEST_NODES, math.ceil(pods / _PODS_PER_NODE))

    @property
    def devices_per_node(self) -> int:
        """None: the Deployment controller alone would do the same with devices."""
        return 0

    def manifests(self) -> list[Object]:
        """Return the sets."""
        base = _base()
        del base["spec"]["weights"]
        engine = base["spec"]["compute"]["roles"][0]["template"]
        (container,) = engine["spec"]["containers"]
        container["env"] = [v for v in container["env"] if "DSET_WEIGHTS_HOST" not in v.get("value", "")]
        limits = {"maxSurge": _SURGE, "maxUnavailable": 0}
        base["spec"]["compute"]["roles"] = [
            {"name": role, "replicas": _ROLLING_REPLICAS, "rollout": limits, "template": engine}
            for role in _ROLLING_ROLES
        ]
        return [_named(base, f"set-{number:04}") for number in range(self.sets)]

    def patch(self) -> Object:
        """Return the change of a set's image, of all roles at once, as a JSON merge patch."""
        roles = copy.deepcopy(RollingWorkload(1).manifests()[0]["spec"]["compute"]["roles"])
        for role in roles:
            role["template"]["spec"]["containers"][0]["image"] = _NEXT_IMAGE
        return {"spec": {"compute": {"roles": roles}}}

    def deployments(self) -> list[Object]:
        """Return as many plain Deployments as the sets have, with the same pods, for the floor."""
        made = [child for manifest in self.manifests() for child in children(manifest) if child["kind"] == "Deployment"]
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": _SURGE, "maxUnavailable": 0}}
        for deployment in made:
            deployment["spec"]["strategy"] = rolling
            # The operator keeps no ReplicaSets, as its Deployments never change; deleting some would cost the floor.
            deployment["spec"].pop("revisionHistoryLimit", None)
        return made


@dataclass(frozen=True, slots=True)
class FollowingWorkload:
    """Sets whose weights follow prefill, which follows decode, whose RoleScaler is scaled.

    Attributes
    ----------
    sets
        How many sets.
    decode
        Pods of decode before it is scaled.
    factor
        How many times as many there are after it.
    """

    sets: int
    decode: int = 4
    factor: int = 2

    @property
    def nodes(self) -> int:
        """Nodes on which all pods fit."""
        return max(_FEWEST_NODES, math.ceil(self.sets * sum(self.after().values()) / _PODS_PER_NODE))

    @property
    def devices_per_node(self) -> int:
        """None."""
        return 0

    def after(self) -> dict[str, int]:
        """Return the pods of each role when it has scaled."""
        decode = self.decode * self.factor
        return {"weights": decode // 4, "prefill": decode // 2, "decode": decode}

    def manifests(self) -> list[Object]:
        """Return the sets."""
        base = _base()
        prefill, decode = base["spec"]["compute"]["roles"]
        base["spec"]["weights"]["scaling"] = {"mode": "Follow", "follow": {"role": "prefill", "ratio": "1:2"}}
        prefill["scaling"] = {"mode": "Follow", "follow": {"role": "decode", "ratio": "1:2"}}
        decode |= {"replicas": self.decode, "scaling": {"mode": "External"}}
        return [_named(base, f"set-{number:04}") for number in range(self.sets)]


def deployment_patch(deployment: Object) -> Object:
    """Return the change of a plain Deployment's image as a JSON merge patch."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {"spec": {"template": {"spec": {"containers": [container | {"image": _NEXT_IMAGE}]}}}}


def _base() -> Object:
    base: Object = yaml.safe_load(resources.files(__package__).joinpath("set.yaml").read_text())
    return base


def _named(base: Object, name: str) -> Object:
    made = copy.deepcopy(base)
    made["metadata"] = {"name": name, "namespace": NAMESPACE}
    return made


def children(manifest: Object) -> list[Object]:
    """Return all children of a set when it is complete, as the operator renders them, but owned by nobody.

    An owner that doesn't exist would have the garbage collector delete them.
    """
    dset = DisaggregatedSet.model_validate(manifest)
    tiers = rendered_tiers(dset)
    nothing = View(children={kind: [] for kind in CHILD_KINDS}, running=[], history={})
    decided = scales(dset, {}, Pods(), datetime.now(UTC))
    outcomes = {group: _all_at_once(decided, tier) for group, tier in tiers.items()}
    made = stages(dset, tiers, decided, nothing, outcomes)
    return [
        _without_owner(child)
        for stage in (made.records, made.supporting, made.planned, made.scalers)
        for _, child in stage
    ]


def _all_at_once(decided: Scales, tier: TierRevision) -> Outcome:
    pods = desired_pods(decided)[tier.group]
    writes = tuple(Write(role, tier.revision, replicas, "") for role, replicas in pods.items())
    return Outcome(tier.revision, Plan(writes, (), done=False, phase=Phase.PROGRESSING, message=""), State())


def _without_owner(child: dict[str, Any]) -> Object:
    return {**child, "metadata": {k: v for k, v in child["metadata"].items() if k != "ownerReferences"}}


def kinds(objects: Iterable[Object]) -> dict[str, int]:
    """Count objects by kind."""
    return dict(sorted(Counter(obj["kind"] for obj in objects).items()))
