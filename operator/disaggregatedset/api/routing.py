"""How requests find the engines: the part of an InferencePool that a user decides."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from disaggregatedset.api.base import DNSLabel, Model, rule, rules

_Port = Annotated[int, Field(ge=1, le=65535, json_schema_extra={"format": "int32"})]


class FailureMode(StrEnum):
    """What a gateway does while the endpoint picker does not answer."""

    FAIL_OPEN = "FailOpen"
    FAIL_CLOSE = "FailClose"


class Port(Model):
    """A port."""

    number: _Port = Field(description="Its number.")


class EndpointPickerRef(Model):
    """The endpoint picker that a gateway asks which pod shall serve a request."""

    group: str = Field(
        "",
        max_length=253,
        description="Its API group; empty, as for a Service, if absent.",
        json_schema_extra=rules(
            rule(
                "self == '' || !format.dns1123Subdomain().validate(self).hasValue()",
                "must be an API group, for example apps, without a version; empty for a Service",
            )
        ),
    )
    kind: str = Field(
        "Service",
        max_length=63,
        description="Its kind; Service if absent.",
        json_schema_extra=rules(
            rule("self.matches('^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$')", "must be a kind, for example Service")
        ),
    )
    name: DNSLabel = Field(description="Its name, in the namespace of the set.")
    port: Port = Field(
        Port(number=9002),
        description="The port that it listens on; 9002 if absent.",
        json_schema_extra={"default": {"number": 9002}},
    )
    failure_mode: FailureMode = Field(
        FailureMode.FAIL_CLOSE,
        description="While it does not answer, FailClose refuses requests; FailOpen sends them to any pod of the pool.",
    )


class InferencePool(Model):
    """An InferencePool (inference.networking.k8s.io/v1) over exactly the compute pods; it has the name of the set."""

    target_ports: list[Port] = Field(
        min_length=1,
        max_length=8,
        description="The ports of the engines that requests are sent to.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["number"]},
    )
    endpoint_picker_ref: EndpointPickerRef = Field(
        description="The endpoint picker that a gateway asks which pod shall serve a request."
    )


class Routing(Model):
    """What routes requests to the engines, beside the Services that each role has."""

    inference_pool: InferencePool | None = Field(
        None, description="Makes an InferencePool over the compute pods, for gateways and their endpoint pickers."
    )
