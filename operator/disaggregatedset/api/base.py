"""What all models of the API share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr
from pydantic.alias_generators import to_camel

GROUP = "disaggregatedset.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class Model(BaseModel):
    """A part of a custom resource: camelCase on the wire, immutable here.

    Unknown fields are ignored, not refused: the CRD of a newer release may know more than this process.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


def rule(expression: str, message: str) -> dict[str, str]:
    """Write a CEL validation rule as the CRD wants it.

    Parameters
    ----------
    expression
        CEL over ``self``; true means valid.
    message
        Names the field and says what to do.
    """
    return {"rule": expression, "message": message}


def rules(*validations: dict[str, str], **extra: Any) -> dict[str, Any]:
    """Build the ``json_schema_extra`` that carries CEL rules and other ``x-kubernetes-*`` keys into the CRD."""
    return {"x-kubernetes-validations": list(validations), **extra}


def _count_or_percent(value: int | str) -> int | str:
    if isinstance(value, str) and not (value.endswith("%") and value[:-1].isdecimal()):
        raise ValueError(f"{value!r} is neither a number nor a percentage such as '25%'")
    return value


#: A number of pods, or a percentage of them ("25%").
IntOrPercent = Annotated[
    Annotated[StrictInt, Field(ge=0)] | StrictStr,
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

#: A name as in RFC 1123, for things that become part of DNS names or are referred to by name.
DNSLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
