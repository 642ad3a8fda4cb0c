"""The status of a DisaggregatedSet as pydantic models."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from disaggregatedset.api.base import Count, Model


class Tier(StrEnum):
    """The parts of inference that are kept apart."""

    WEIGHTS = "weights"
    KV_CACHE = "kvCache"
    COMPUTE = "compute"


class ConditionType(StrEnum):
    """Conditions of a set; Routed only where it asks for a route."""

    ACCEPTED = "Accepted"
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    ACCELERATORS_ALLOCATED = "AcceleratorsAllocated"
    ROUTED = "Routed"


class Condition(Model):
    """A condition as in ``metav1.Condition``."""

    type: str = Field(max_length=316, description="What the condition is about.")
    status: str = Field(description="True, False or Unknown.", json_schema_extra={"enum": ["True", "False", "Unknown"]})
    observed_generation: int | None = Field(None, ge=0, description="The generation that the condition was set for.")
    last_transition_time: str = Field(
        description="When status last changed.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Why, in one word for machines.",
    )
    message: str = Field(max_length=32768, description="Why, in words for people.")


class ClaimsStatus(Model):
    """Claims of the pods of a role."""

    allocated: Count = Field(description="Claims that have their devices.")
    pending: Count = Field(description="Claims that wait for devices.")


class ScaleDownStatus(Model):
    """Where a role is that shrinks step by step."""

    replicas: Count = Field(description="How many pods it is to have until the next step.")
    last_step_at: str | None = Field(
        None, description="When it last took one.", json_schema_extra={"format": "date-time"}
    )


class RoleStatus(Model):
    """What is there of a role, over all its revisions."""

    name: str = Field(description="Name of the role.")
    tier: Tier = Field(description="The tier that the role belongs to.")
    desired: Count = Field(description="How many pods are wanted.")
    replicas: Count = Field(description="How many pods there are.")
    ready: Count = Field(description="How many pods are ready.")
    updated: Count = Field(description="How many pods are of the wanted revision.")
    revision: str = Field(description="The wanted revision.")
    claims: ClaimsStatus | None = Field(None, description="Claims of the role's pods, where it has accelerators.")
    message: str | None = Field(None, max_length=4096, description="What keeps the role from being as wanted.")
    scale_down: ScaleDownStatus | None = Field(
        None, description="Where a role is on its way down that may only shrink step by step."
    )


class RolloutStatus(Model):
    """A rollout that runs."""

    group: str = Field(description="What rolls: weights, kv-coordinator, kv-cache or compute.")
    from_revision: str | None = Field(None, alias="from", description="The revision that was there when it began.")
    to: str = Field(description="The revision that it goes to.")
    phase: str = Field(description="Where it stands: Progressing, WaitingForDevices, RollingBack, Paused or Held.")
    message: str | None = Field(None, max_length=4096, description="What it waits for.")
    old_replicas: dict[str, int] | None = Field(
        None, description="Pods that were desired when it began, by role: what its guarantees are measured by."
    )
    generation: int = Field(description="The generation of the set that progress was seen in.")
    progress: int = Field(description="Pods of the new revision that are ready, less those of others that are wanted.")
    started_at: str = Field(description="When it began.", json_schema_extra={"format": "date-time"})
    last_progress_at: str = Field(
        description="When it last got closer to its end.", json_schema_extra={"format": "date-time"}
    )
    waiting_since: str | None = Field(
        None, description="Since when the deadline's clock stands still.", json_schema_extra={"format": "date-time"}
    )


class FailedRevision(Model):
    """A revision that failed, and is not tried again."""

    group: str = Field(description="What it is a revision of: weights, kv-coordinator, kv-cache or compute.")
    revision: str = Field(description="The revision.")
    reason: str = Field(description="Why, in one word for machines.")
    message: str = Field(max_length=4096, description="Why, in the words of a pod, a claim or the scheduler.")
    failed_at: str = Field(description="When.", json_schema_extra={"format": "date-time"})
    retry: str | None = Field(None, description="The value that annotation disaggregatedset.dev/retry had then.")
    rollback_failed: bool | None = Field(None, description="Whether going back to the last good revision failed too.")


class Summary(Model):
    """Short strings for the columns of ``kubectl get``."""

    weights: str | None = Field(None, description="ready/desired of the weights tier.")
    kv_cache: str | None = Field(None, description="ready/desired of the KV cache tier.")
    compute: str | None = Field(None, description="ready/desired of the compute tier.")
    roles: str | None = Field(None, description="ready/desired of each role.")
    rollout: str | None = Field(None, description="The phase of the rollouts that run.")


class DisaggregatedSetStatus(Model):
    """What there is, as the operator last saw it."""

    observed_generation: int | None = Field(None, description="The generation that the status is about.")
    model_revision: str | None = Field(
        None, description="Hash of spec.model: what the weights and the KV cache are kept by."
    )
    summary: Summary | None = Field(None, description="Short strings for the columns of kubectl get.")
    roles: list[RoleStatus] | None = Field(
        None,
        max_length=16,
        description="The roles of all tiers.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    rollouts: list[RolloutStatus] | None = Field(
        None,
        max_length=4,
        description="The rollouts that run.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["group"]},
    )
    failed_revisions: list[FailedRevision] | None = Field(
        None,
        max_length=4,
        description="The wanted revisions that failed.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["group"]},
    )
    good_revisions: dict[str, str] | None = Field(
        None, description="The last good revision of each tier group: the last one whose rollout ended."
    )
    conditions: list[Condition] | None = Field(
        None,
        max_length=16,
        description="Conditions: Accepted, Available, Progressing, Degraded, AcceleratorsAllocated, and Routed where "
        "spec.routing asks for something.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
