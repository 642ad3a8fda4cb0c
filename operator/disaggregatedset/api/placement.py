"""Where the pods of a compute revision run."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from disaggregatedset.api.base import Model, rule, rules


class PlacementPolicy(StrEnum):
    """What to do where a topology domain has no room for all pods."""

    PREFERRED = "Preferred"
    REQUIRED = "Required"


class Placement(Model):
    """Keeps the pods of a compute revision in one topology domain: a rack, a zone, an NVLink domain."""

    topology_key: str = Field(
        min_length=1,
        max_length=317,
        description="The label of nodes whose value names their domain, for example topology.kubernetes.io/zone.",
        json_schema_extra=rules(
            rule(
                "!format.qualifiedName().validate(self).hasValue()",
                "must be the key of a label of nodes, for example topology.kubernetes.io/zone",
            )
        ),
    )
    policy: PlacementPolicy = Field(
        PlacementPolicy.PREFERRED,
        description="Preferred: pods that find no room in the domain run elsewhere. Required: they wait for room.",
    )
    exclusive: bool = Field(
        False,
        description="Whether compute pods of other sets are kept out of the domain, whatever the policy; false if "
        "absent.",
    )
