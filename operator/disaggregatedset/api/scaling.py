"""Who decides how many pods a role has, and the RoleScaler: what people and autoscalers scale a role by."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from disaggregatedset.api.base import (
    API_VERSION,
    KV_CACHE,
    MAX_REPLICAS,
    WEIGHTS,
    Count,
    Model,
    Replicas,
    rule,
    rules,
)
from disaggregatedset.api.kubernetes_types import MARK
from disaggregatedset.api.status import Condition

ROLE_SCALER_KIND = "RoleScaler"

#: Between ten roles, eight of compute and two of other tiers, there are at most nine steps to one that follows nobody.
_MOST_STEPS = 9


class ScalingMode(StrEnum):
    """Who decides how many pods a role has."""

    STATIC = "Static"
    EXTERNAL = "External"
    HPA = "HPA"
    FOLLOW = "Follow"


class Follow(Model):
    """Scales a role in proportion to another."""

    role: str = Field(
        min_length=1,
        max_length=63,
        description=f"The role that decides: a compute role, {WEIGHTS} or {KV_CACHE}.",
    )
    ratio: str = Field(
        max_length=9,
        description='Pods of this role for pods of the other, rounded up: "1:4" is one for every four.',
        json_schema_extra=rules(
            rule(
                "self.matches('^[1-9][0-9]{0,3}:[1-9][0-9]{0,3}$')",
                'must be two numbers from 1 to 9999 with a colon between them, in quotes, for example "1:4"',
            )
        ),
    )

    def of(self, replicas: int) -> int:
        """Return how many pods belong to so many of the role that decides: no more than any role may have."""
        mine, others = map(int, self.ratio.split(":"))
        return min(-(-replicas * mine // others), MAX_REPLICAS)


_SOURCES = ("resource", "containerResource", "pods", "object", "external")
_given = ", ".join(f"'{source[0].upper()}{source[1:]}': has(self.{source})" for source in _SOURCES)

Metric = Annotated[
    dict[str, Any],
    Field(
        json_schema_extra=rules(
            rule(
                f"[{{{_given}}}].all(given, given.all(type, given[type] == (type == self.type)))",
                f"type says which one of {', '.join(_SOURCES[:-1])} and {_SOURCES[-1]} to set (type Pods: pods): set "
                "that one and no other",
            ),
            **{MARK: "metric"},
        )
    ),
]


class Scaling(Model):
    """Who decides how many pods a role has, and within which bounds."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "(self.mode == 'Follow') == has(self.follow)",
                "mode Follow and follow belong together: set both, or neither",
                field=".follow",
            ),
            rule(
                "self.mode != 'HPA' || (has(self.metrics) && has(self.maxReplicas) && self.maxReplicas > 0)",
                "mode HPA needs metrics, and maxReplicas of 1 or more: set both, or another mode",
                field=".mode",
            ),
            rule(
                "self.mode != 'HPA' || !has(self.metrics) || !has(self.minReplicas) || self.minReplicas > 0 || "
                "self.metrics.exists(m, m.type in ['Object', 'External'])",
                "to scale to 0 and back, mode HPA needs a metric that there is without pods: add one of type Object or "
                "External, or set minReplicas to 1 or more",
                field=".minReplicas",
            ),
            rule(
                "self.mode == 'HPA' || (!has(self.metrics) && !has(self.behavior))",
                "metrics and behavior are for mode HPA: remove them, or set mode HPA",
                field=".mode",
            ),
            rule(
                "self.mode != 'Static' || (!has(self.minReplicas) && !has(self.maxReplicas))",
                "mode Static has no bounds, replicas says how many pods there are: remove minReplicas and maxReplicas, "
                "or set mode External, HPA or Follow",
                field=".mode",
            ),
            rule(
                "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                "minReplicas must not be more than maxReplicas: lower it, or raise maxReplicas",
                field=".minReplicas",
            ),
        )
    )

    mode: ScalingMode = Field(
        ScalingMode.STATIC,
        description="Static: replicas of the set. External: whoever scales the RoleScaler: kubectl scale, an HPA of "
        "yours, KEDA. HPA: a HorizontalPodAutoscaler that the operator makes. Follow: another role.",
    )
    min_replicas: Replicas | None = Field(
        None,
        description="The fewest pods; absent: none, and 1 for mode HPA, where 0 needs Kubernetes 1.37 or the feature "
        "gate HPAScaleToZero.",
    )
    max_replicas: Replicas | None = Field(None, description="The most pods; absent: any number.")
    metrics: list[Metric] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="What the HorizontalPodAutoscaler scales by: metrics as in autoscaling/v2.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    behavior: dict[str, Any] | None = Field(
        None,
        description="How fast the HorizontalPodAutoscaler scales up and down: behavior as in autoscaling/v2.",
        json_schema_extra={MARK: "scaling_behavior"},
    )
    follow: Follow | None = Field(None, description="The role that this one is scaled with.")

    @property
    def decided_elsewhere(self) -> bool:
        """Whether the number of pods is that of the RoleScaler, and not worked out from the set."""
        return self.mode in {ScalingMode.EXTERNAL, ScalingMode.HPA}


class ScaleDown(Model):
    """How fast a tier shrinks that loses data when it does."""

    max_step: int = Field(
        1,
        ge=1,
        le=MAX_REPLICAS,
        description="How many pods go at once; 1 if absent.",
        json_schema_extra={"format": "int32"},
    )
    period_seconds: int = Field(
        300,
        ge=1,
        le=86400,
        description="How many seconds pass between two steps; 300 if absent.",
        json_schema_extra={"format": "int32"},
    )


def follow_rules() -> Iterator[dict[str, str]]:
    """Return the rules of a spec about roles that follow others: they exist, and nobody follows himself."""
    single = {WEIGHTS: "self.weights", KV_CACHE: "self.kvCache"}
    names = " + ".join(
        ["self.compute.roles.map(r, r.name)", *(f"(has({tier}) ? ['{name}'] : [])" for name, tier in single.items())]
    )
    exists = (
        f"must be one of the set's roles: the name of a compute role, or {WEIGHTS} or {KV_CACHE} where the set has "
        "that tier"
    )
    yield rule(
        f"self.compute.roles.all(r, !has(r.scaling.follow) || r.scaling.follow.role in ({names}))",
        f"scaling.follow.role of each role {exists}",
        field=".compute.roles",
    )
    for tier in single.values():
        yield rule(
            f"!has({tier}) || !has({tier}.scaling.follow) || {tier}.scaling.follow.role in ({names})",
            exists,
            field=f"{tier.removeprefix('self')}.scaling.follow.role",
        )
    pairs = " + ".join(
        [
            "self.compute.roles.filter(r, has(r.scaling.follow)).map(r, [r.name, r.scaling.follow.role])",
            *(
                f"(has({tier}) && has({tier}.scaling.follow) ? [['{name}', {tier}.scaling.follow.role]] : [])"
                for name, tier in single.items()
            ),
        ]
    )
    # CEL has no recursion: from every role that follows, go as many steps as there can be roles, to nobody ('').
    step = ".map(name, (pairs.filter(p, p[0] == name).map(p, p[1]) + [''])[0])"
    yield rule(
        f"[{pairs}].all(pairs, pairs.all(pair, [pair[1]]{step * _MOST_STEPS}[0] == ''))",
        "roles follow themselves or each other in a circle (scaling.follow), so that none of them decides: set another "
        "scaling.mode for one of them",
    )


class RoleScalerSpec(Model):
    """How many pods a role should have."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            {
                "rule": "!has(self.fixedReplicas) || self.replicas == self.fixedReplicas",
                "messageExpression": "'the DisaggregatedSet decides how many pods this role has (scaling.mode ' + "
                "self.mode + '): ' + (self.mode == 'Follow' ? 'scale the role that it follows' : 'change replicas "
                "there') + ', or set scaling.mode External there to scale it here'",
                "message": "the DisaggregatedSet decides how many pods this role has: change it there",
                "fieldPath": ".replicas",
            }
        )
    )

    role: str = Field(max_length=63, description="The role that is scaled.")
    mode: ScalingMode = Field(description="Who decides: scaling.mode of the role. The operator keeps it as in the set.")
    replicas: Replicas = Field(
        description="How many pods are asked for; with mode External and HPA whoever scales this sets it.",
    )
    fixed_replicas: Replicas | None = Field(
        None, description="How many pods the set says there are, where it decides (mode Static and Follow)."
    )
    min_replicas: Replicas | None = Field(
        None, description="The fewest pods that there will be, whatever is asked for."
    )
    max_replicas: Replicas | None = Field(None, description="The most pods that there will be, whatever is asked for.")


class RoleScalerStatus(Model):
    """What became of it."""

    observed_generation: int | None = Field(None, description="The generation that the status is about.")
    replicas: Count | None = Field(None, description="How many pods the role has, in all its revisions.")
    desired_replicas: Count | None = Field(None, description="How many pods it should have, within the bounds.")
    selector: str | None = Field(None, description="Selects the role's pods, in all its revisions.")
    conditions: list[Condition] | None = Field(
        None,
        max_length=8,
        description="Conditions, named as those of HorizontalPodAutoscalers: ScalingActive, ScalingLimited.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class RoleScaler(Model):
    """Scales one role of a DisaggregatedSet, in all its revisions: made by the operator, scaled by you."""

    api_version: str = API_VERSION
    kind: str = ROLE_SCALER_KIND
    spec: RoleScalerSpec
    status: RoleScalerStatus | None = None
