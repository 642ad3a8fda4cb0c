"""What all models of the API share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr
from pydantic.alias_generators import to_camel

GROUP = "disaggregatedset.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

#: Roles of the tiers that are one role each, which no compute role may be called.
WEIGHTS, KV_CACHE, KV_COORDINATOR = "weights", "kv-cache", "kv-coordinator"

#: More pods than any cluster runs, so that sums of them stay far from any integer's end.
MAX_REPLICAS = 100_000


class Model(BaseModel):
    """A part of a custom resource: camelCase on the wire, immutable here.

    Unknown fields are ignored, not refused: the CRD of a newer release may know more than this process.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


def rule(expression: str, message: str, *, field: str | None = None) -> dict[str, str]:
    """Write a CEL validation rule as the CRD wants it.

    Parameters
    ----------
    expression
        CEL over ``self``; true means valid.
    message
        What is wrong and what to do. kubectl prints the path of the field before it.
    field
        Path of the field that is to blame, from ``self`` (``.spec.containers``); ``self`` if absent.
    """
    validation = {"rule": expression, "message": message}
    if field is not None:
        validation["fieldPath"] = field
    return validation


def rules(*validations: dict[str, str], **extra: Any) -> dict[str, Any]:
    """Build the ``json_schema_extra`` that carries CEL rules and other ``x-kubernetes-*`` keys into the CRD."""
    return {"x-kubernetes-validations": list(validations), **extra}


def _count_or_percent(value: int | str) -> int | str:
    if value < 0 if isinstance(value, int) else not (value.endswith("%") and value[:-1].isdecimal()):
        raise ValueError(f"{value!r} is neither a number of 0 or more nor a percentage such as '25%'")
    return value


#: A number of pods, or a percentage of them ("25%").
IntOrPercent = Annotated[
    StrictInt | Annotated[StrictStr, Field(max_length=32)],
    AfterValidator(_count_or_percent),
    Field(
        json_schema_extra=rules(
            rule(
                "type(self) == int ? self >= 0 : self.matches('^(100|[0-9]{1,2})%$')",
                "must be a number of pods (0 or more) or a percentage from 0% to 100%",
            )
        )
    ),
]

#: The number of pods or other things of a role.
Count = Annotated[int, Field(ge=0, le=2**31 - 1, json_schema_extra={"format": "int32"})]

#: The number of pods that a role is to have. (A field that lowers the maximum of Count would keep that of Count.)
Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS, json_schema_extra={"format": "int32"})]

DNS_LABEL = rule(
    "!format.dns1123Label().validate(self).hasValue()",
    "must be lower-case letters, digits and '-', and start and end with a letter or digit",
)

#: A name as in RFC 1123, for things that become part of DNS names or are referred to by name.
DNSLabel = Annotated[str, Field(max_length=63, json_schema_extra=rules(DNS_LABEL))]
