"""The DisaggregatedSet as pydantic models: the source of the CRD."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from disaggregatedset.api.accelerators import POD_CLAIM_NAME, Accelerators
from disaggregatedset.api.base import (
    API_VERSION,
    DNS_LABEL,
    KV_CACHE,
    KV_COORDINATOR,
    WEIGHTS,
    IntOrPercent,
    Model,
    Replicas,
    rule,
    rules,
)
from disaggregatedset.api.kubernetes_types import MARK
from disaggregatedset.api.placement import Placement
from disaggregatedset.api.routing import Routing
from disaggregatedset.api.scaling import ScaleDown, Scaling, follow_rules
from disaggregatedset.api.status import DisaggregatedSetStatus

KIND = "DisaggregatedSet"

#: Longest sum of the lengths of a set's and a role's name: ``<set>-<role>-<revision>`` names a Service, so it has at
#: most 63 characters, 10 of which are two hyphens and the revision.
MAX_NAMES = 53

#: Keys of labels that the operator sets on pods, so that a template can't.
RESERVED_LABELS = (
    *(f"app.kubernetes.io/{key}" for key in ("name", "instance", "component", "part-of", "managed-by")),
    *(f"llm-d.ai/{key}" for key in ("role", "model", "inference-serving")),
)
RESERVED_LABEL_PREFIX = "disaggregatedset.dev/"

_reserved = ", ".join(f"'{key}'" for key in RESERVED_LABELS)

#: A PodTemplateSpec, kept as it was written: the CRD types it in full, and models would drop fields that are newer than
#: they are.
PodTemplate = Annotated[
    dict[str, Any],
    Field(
        description="The pods: a PodTemplateSpec. The operator adds labels, the environment variables DSET_* and the "
        "claim of accelerators.",
        json_schema_extra=rules(
            rule(
                "!has(self.metadata) || !has(self.metadata.labels) || self.metadata.labels.all(key, "
                f"!key.startsWith('{RESERVED_LABEL_PREFIX}') && !(key in [{_reserved}]))",
                f"the operator sets the labels {RESERVED_LABEL_PREFIX}*, app.kubernetes.io/{{name,instance,component,"
                "part-of,managed-by} and llm-d.ai/{role,model,inference-serving}: remove them",
                field=".metadata.labels",
            ),
            rule(
                "!has(self.spec.restartPolicy) || self.spec.restartPolicy == 'Always'",
                "pods of a Deployment always restart: remove restartPolicy, or set Always",
                field=".spec.restartPolicy",
            ),
            rule(
                "!has(self.spec.activeDeadlineSeconds)",
                "pods of a Deployment have no deadline: remove activeDeadlineSeconds",
                field=".spec.activeDeadlineSeconds",
            ),
            rule(
                "!has(self.spec.ephemeralContainers)",
                "ephemeral containers can only be added to running pods (kubectl debug): use initContainers with "
                "restartPolicy: Always for sidecars",
                field=".spec.ephemeralContainers",
            ),
            **{MARK: "pod_template"},
        ),
    ),
]

_CLAIM_NAME_IS_FREE = rule(
    "!has(self.accelerators) || !has(self.template.spec.resourceClaims) || "
    f"!self.template.spec.resourceClaims.exists(c, c.name == '{POD_CLAIM_NAME}')",
    f"the claim that accelerators makes is called {POD_CLAIM_NAME}: give this one another name",
    field=".template.spec.resourceClaims",
)
_CLAIM_CONTAINERS_EXIST = rule(
    "!has(self.accelerators) || !has(self.accelerators.containers) || self.accelerators.containers.all(n, "
    "self.template.spec.containers.exists(c, c.name == n) || "
    "(has(self.template.spec.initContainers) && self.template.spec.initContainers.exists(c, c.name == n)))",
    "each must be the name of a container or init container of the template: correct it, or remove "
    "accelerators.containers to give the devices to the first container",
    field=".accelerators.containers",
)


class ModelSpec(Model):
    """The model that is served."""

    name: str = Field(min_length=1, max_length=253, description="The name that clients ask for.")
    source: str = Field(
        max_length=2048,
        description="Where the weights come from: any URI, for example hf://org/model.",
        json_schema_extra=rules(
            rule(
                "self.matches('^[a-zA-Z][a-zA-Z0-9+.-]*:.')",
                "must be a URI with a scheme, for example hf://meta-llama/Llama-3.1-8B-Instruct",
            )
        ),
    )
    revision: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        description="Commit, tag or digest of the source; absent: whatever it serves.",
    )


class Disruption(Model):
    """What evictions may do to the pods of a role; becomes a PodDisruptionBudget over all its revisions."""

    max_unavailable: IntOrPercent = Field(
        1, description="How many pods, or what percentage of them, may be missing because of evictions; 1 if absent."
    )


class RoleRollout(Model):
    """How far a rollout may go above and below the pods that are desired."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!((type(self.maxSurge) == int ? self.maxSurge == 0 : self.maxSurge == '0%') && "
                "(type(self.maxUnavailable) == int ? self.maxUnavailable == 0 : self.maxUnavailable == '0%'))",
                "maxSurge and maxUnavailable are both 0, so nothing could ever move: raise one of them",
            )
        )
    )

    max_surge: IntOrPercent = Field(
        1, description="How many pods, or what percentage of them (rounded up), may be there beyond those desired."
    )
    max_unavailable: IntOrPercent = Field(
        0,
        description="How many pods, or what percentage of them (rounded down), may be missing. Where both round to 0, "
        "it is 1.",
    )


class Scaled(Model):
    """What every role has: pods, how many of them, with which devices."""

    replicas: Replicas = Field(
        1,
        description="How many pods; 1 if absent. With scaling.mode External and HPA only the first number, with Follow "
        "none.",
    )
    scaling: Scaling = Field(
        default_factory=Scaling,
        description="Who decides how many pods there are.",
        json_schema_extra={"default": {"mode": "Static"}},
    )
    accelerators: Accelerators | None = Field(None, description="Devices that each pod claims through DRA.")
    rollout: RoleRollout = Field(
        default_factory=RoleRollout,
        description="How far a rollout may go above and below the pods that are desired.",
        json_schema_extra={"default": {"maxSurge": 1, "maxUnavailable": 0}},
    )
    disruption: Disruption = Field(
        default_factory=Disruption,
        description="What evictions, of a node that is drained for example, may do to the pods.",
        json_schema_extra={"default": {}},
    )
    template: PodTemplate


_SCALED_RULES = rules(_CLAIM_NAME_IS_FREE, _CLAIM_CONTAINERS_EXIST)


class Weights(Scaled):
    """The tier that keeps the model's weights close to the engines."""

    model_config = ConfigDict(json_schema_extra=_SCALED_RULES)


class KVCoordinator(Model):
    """The one master that some KV stores need, such as Mooncake's."""

    template: PodTemplate


class KVScope(StrEnum):
    """Who shares a KV cache."""

    MODEL = "Model"
    REVISION = "Revision"


class KVCache(Scaled):
    """The tier that keeps KV blocks between requests and across restarts of the engines."""

    model_config = ConfigDict(json_schema_extra=_SCALED_RULES)

    scope: KVScope = Field(
        KVScope.MODEL,
        description="Model: all compute revisions of a model share it. Revision: each compute revision has its own; "
        "for engine flags that change the layout of KV blocks.",
    )
    coordinator: KVCoordinator | None = Field(
        None, description="The one master that some stores need (Mooncake); it starts before the stores."
    )
    required: bool = Field(
        True, description="Whether compute waits for the KV cache to be ready before it starts; true if absent."
    )
    scale_down: ScaleDown = Field(
        default_factory=ScaleDown,
        description="How fast the tier shrinks: each pod that goes takes its part of the cache with it.",
        json_schema_extra={"default": {}},
    )


class ComputeRole(Scaled):
    """Engines that do one part of inference, such as prefill or decode."""

    model_config = ConfigDict(json_schema_extra=_SCALED_RULES)

    name: str = Field(
        max_length=MAX_NAMES - 1,
        description="Name of the role, for example prefill or decode; part of the names of its pods.",
        json_schema_extra=rules(
            DNS_LABEL,
            rule(
                f"!(self in ['{WEIGHTS}', '{KV_CACHE}', '{KV_COORDINATOR}'])",
                f"{WEIGHTS}, {KV_CACHE} and {KV_COORDINATOR} are the roles of other tiers: choose another name",
            ),
        ),
    )
    allow_zero: bool = Field(
        False,
        description="Whether the role may have no pods while others have some: the set can serve without it; false if "
        "absent.",
    )


_SURELY_ZERO = (
    "(r.scaling.mode == 'Static' ? r.replicas == 0 : has(r.scaling.maxReplicas) && r.scaling.maxReplicas == 0)"
)
_SURELY_MORE = "r.scaling.mode == 'Static' ? r.replicas > 0 : has(r.scaling.minReplicas) && r.scaling.minReplicas > 0"


class Compute(Model):
    """The engines; all roles change revision together."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!self.roles.exists(r, !r.allowZero && {_SURELY_ZERO}) || !self.roles.exists(r, {_SURELY_MORE})",
                "a role has 0 replicas while others have more (by replicas or the bounds of scaling), so nothing could "
                "be served: scale all roles to 0 or none, or set allowZero on a role that the set can serve without",
                field=".roles",
            )
        )
    )

    roles: list[ComputeRole] = Field(
        min_length=1,
        max_length=8,
        description="The roles that inference is split into, each scaling on its own.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    placement: Placement | None = Field(
        None, description="Keeps the pods of a compute revision close to each other; absent: anywhere."
    )


class OnFailure(StrEnum):
    """What a failed rollout does."""

    ROLLBACK = "Rollback"
    HOLD = "Hold"


class WhenExhausted(StrEnum):
    """What a rollout does while its new pods find no devices."""

    DRAIN_FIRST = "DrainFirst"
    WAIT = "Wait"


class Rollout(Model):
    """How changes of the set roll out."""

    paused: bool = Field(False, description="Whether rollouts stop where they are; scaling and repairs go on.")
    progress_deadline_seconds: int = Field(
        600, ge=1, le=2_147_483_647, description="After how many seconds without progress a rollout has failed."
    )
    on_failure: OnFailure = Field(
        OnFailure.ROLLBACK,
        description="Rollback: capacity returns to the last good revision, and the failed one is not tried again until "
        "it changes or annotation disaggregatedset.dev/retry gets a new value. Hold: the rollout stops where it is.",
    )
    when_exhausted: WhenExhausted = Field(
        WhenExhausted.DRAIN_FIRST,
        description="While new pods find no devices, DrainFirst lets roles of two or more pods miss one to make room; "
        "Wait waits until devices are free.",
    )
    revision_history_limit: int = Field(
        5, ge=0, le=100, description="How many unused revisions of each tier are kept to go back to."
    )


class DisaggregatedSetSpec(Model):
    """What is wanted: a model, and the tiers that serve it."""

    model_config = ConfigDict(json_schema_extra=rules(*follow_rules()))

    model: ModelSpec = Field(description="The model that is served; a change of it rolls every tier.")
    weights: Weights | None = Field(
        None, description="The weights tier; absent: the engines load weights by themselves."
    )
    kv_cache: KVCache | None = Field(None, description="The KV cache tier; absent: the engines keep KV to themselves.")
    compute: Compute = Field(description="The compute tier: the engines.")
    routing: Routing | None = Field(None, description="How requests find the engines; absent: by Services alone.")
    rollout: Rollout = Field(
        default_factory=Rollout, description="How changes roll out.", json_schema_extra={"default": {}}
    )


class ObjectMeta(Model):
    """The metadata that the operator reads."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 0
    annotations: dict[str, str] = Field(default_factory=dict)


class DisaggregatedSet(Model):
    """A language model served from weights, KV cache and compute that scale on their own."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.metadata.name.matches('^[a-z][-a-z0-9]*$')",
                "the name of a set becomes part of names of Services: it must consist of lower-case letters, digits "
                "and '-', and start with a letter",
                field=".metadata.name",
            ),
            rule(
                f"self.spec.compute.roles.all(r, size(self.metadata.name) + size(r.name) <= {MAX_NAMES})",
                f"the names of the set and of each role in spec.compute.roles have together at most {MAX_NAMES} "
                "characters, because <set>-<role>-<revision> names Services: shorten one of them",
                field=".metadata.name",
            ),
            rule(
                f"!has(self.spec.weights) || size(self.metadata.name) <= {MAX_NAMES - len(WEIGHTS)}",
                f"the name of a set with spec.weights has at most {MAX_NAMES - len(WEIGHTS)} characters, because "
                f"<set>-{WEIGHTS}-<revision> names Services: shorten it",
                field=".metadata.name",
            ),
            rule(
                f"!has(self.spec.kvCache) || size(self.metadata.name) <= {MAX_NAMES - len(KV_CACHE)}",
                f"the name of a set with spec.kvCache has at most {MAX_NAMES - len(KV_CACHE)} characters, because "
                f"<set>-{KV_CACHE}-<revision> names Services: shorten it",
                field=".metadata.name",
            ),
            rule(
                "!has(self.spec.kvCache) || !has(self.spec.kvCache.coordinator) || "
                f"size(self.metadata.name) <= {MAX_NAMES - len(KV_COORDINATOR)}",
                f"the name of a set with spec.kvCache.coordinator has at most {MAX_NAMES - len(KV_COORDINATOR)} "
                f"characters, because <set>-{KV_COORDINATOR}-<revision> names Services: shorten it",
                field=".metadata.name",
            ),
        )
    )

    api_version: str = API_VERSION
    kind: str = KIND
    metadata: ObjectMeta
    spec: DisaggregatedSetSpec
    status: DisaggregatedSetStatus | None = None
