"""Accelerators of a role, claimed through DRA (``resource.k8s.io/v1``)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StrictInt, StrictStr

from disaggregatedset.api.base import DNSLabel, Model, rule, rules

#: The name, in the pod, of the claim that ``accelerators`` becomes.
POD_CLAIM_NAME = "accelerators"

_DeviceClassName = Annotated[
    str,
    Field(
        max_length=253,
        json_schema_extra=rules(
            rule(
                "!format.dns1123Subdomain().validate(self).hasValue()",
                "must be the name of a DeviceClass, for example gpu.nvidia.com (kubectl get deviceclasses lists them)",
            )
        ),
    ),
]
_Selectors = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=10240)]],
    Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
]
_RequestNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=127)]],
    Field(min_length=1, max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"}),
]
_AttributeName = Annotated[
    str,
    Field(
        max_length=128,
        json_schema_extra=rules(
            rule(
                "self.matches('^[a-z0-9.-]+/[A-Za-z_][A-Za-z0-9_]*$')",
                "must be DOMAIN/NAME, for example resource.kubernetes.io/pcieRoot",
            )
        ),
    ),
]
_Quantity = Annotated[
    StrictInt | Annotated[StrictStr, Field(max_length=64)],
    Field(
        json_schema_extra=rules(
            rule(
                "isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('0')) >= 0",
                "must be a quantity of 0 or more, for example 10Gi",
            ),
        )
    ),
]


class AllocationMode(StrEnum):
    """How many of the matching devices a request takes."""

    EXACT_COUNT = "ExactCount"
    ALL = "All"


class DeviceToleration(Model):
    """Accept devices that carry a taint."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.value) || !has(self.operator) || self.operator != 'Exists'",
                "operator Exists takes no value: drop value, or use operator Equal",
                field=".value",
            ),
            rule(
                "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                "set key, or operator: Exists to tolerate every taint",
            ),
            rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "only effect NoExecute is tolerated for a time: set effect: NoExecute, or drop tolerationSeconds",
                field=".tolerationSeconds",
            ),
        )
    )

    key: str | None = Field(
        None, max_length=317, description="The taint's key; empty with operator Exists: every taint."
    )
    operator: str | None = Field(
        None, description="Exists or Equal (the default).", json_schema_extra={"enum": ["Exists", "Equal"]}
    )
    value: str | None = Field(None, max_length=63, description="The taint's value, with operator Equal.")
    effect: str | None = Field(
        None,
        description="The effect that is tolerated: NoSchedule or NoExecute; absent: both.",
        json_schema_extra={"enum": ["NoSchedule", "NoExecute"]},
    )
    toleration_seconds: int | None = Field(None, description="For how long a NoExecute taint is tolerated, in seconds.")


class DeviceCapacity(Model):
    """How much of a device's capacity is wanted, for devices that can be shared."""

    requests: dict[str, _Quantity] = Field(
        description="Quantity wanted by name of the capacity, for example memory: 10Gi.", min_length=1, max_length=32
    )


_COUNT_NOT_WITH_ALL = rule(
    "!(has(self.allocationMode) && self.allocationMode == 'All' && has(self.count))",
    "allocationMode: All takes all devices of a node: drop count, or use allocationMode: ExactCount",
    field=".count",
)


class _DeviceWish(Model):
    """What an exact request and each alternative of ``firstAvailable`` have in common."""

    count: int | None = Field(None, ge=1, description="How many devices; 1 if absent.")
    allocation_mode: AllocationMode | None = Field(
        None, description="ExactCount (the default) takes count devices; All takes every matching device of a node."
    )
    selectors: _Selectors | None = Field(
        None,
        description="CEL expressions that a device must all satisfy, "
        "for example device.attributes['gpu.nvidia.com'].productName.contains('H100').",
    )
    tolerations: list[DeviceToleration] | None = Field(
        None,
        max_length=16,
        description="Device taints that are tolerated.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    capacity: DeviceCapacity | None = Field(
        None, description="Capacity wanted of each device, for devices that can be shared."
    )


class DeviceSubRequest(_DeviceWish):
    """One alternative of ``firstAvailable``."""

    model_config = ConfigDict(json_schema_extra=rules(_COUNT_NOT_WITH_ALL))

    name: DNSLabel = Field(
        description="Name of the alternative; constraints and config refer to it as NAME-OF-REQUEST/NAME."
    )
    device_class_name: _DeviceClassName = Field(description="The DeviceClass of this alternative.")


class DeviceRequest(_DeviceWish):
    """Devices of one kind: of one class, or of the first class of several that is available."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.deviceClassName) != has(self.firstAvailable)",
                "set exactly one of deviceClassName and firstAvailable",
            ),
            _COUNT_NOT_WITH_ALL,
            rule(
                "!has(self.firstAvailable) || !(has(self.count) || has(self.allocationMode) || has(self.selectors) || "
                "has(self.tolerations) || has(self.capacity) || has(self.adminAccess))",
                "beside firstAvailable there can't be count, allocationMode, selectors, tolerations, capacity or "
                "adminAccess: move them into its entries, and drop adminAccess, which no entry can have",
            ),
        )
    )

    name: DNSLabel = Field(description="Name of the request, unique within the role.")
    device_class_name: _DeviceClassName | None = Field(None, description="The DeviceClass that devices are taken from.")
    first_available: list[DeviceSubRequest] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="Alternatives in order of preference; the first that can be satisfied is used.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    admin_access: bool | None = Field(
        None,
        description="Access to devices in use by others, for monitoring; the namespace needs the label "
        'resource.kubernetes.io/admin-access: "true".',
    )


class DeviceConstraint(Model):
    """What the devices of several requests must have in common."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.matchAttribute) != has(self.distinctAttribute)",
                "set exactly one of matchAttribute and distinctAttribute",
            )
        )
    )

    requests: _RequestNames | None = Field(
        None, description="Names of the requests that are bound; absent: all of them."
    )
    match_attribute: _AttributeName | None = Field(
        None,
        description="All devices have the same value of this attribute, for example resource.kubernetes.io/pcieRoot.",
    )
    distinct_attribute: _AttributeName | None = Field(
        None, description="No two devices have the same value of this attribute."
    )


class OpaqueConfig(Model):
    """Parameters that only the driver understands."""

    driver: str = Field(min_length=1, max_length=63, description="Name of the DRA driver that the parameters are for.")
    parameters: dict[str, Any] = Field(
        description="An object of the driver's, with apiVersion and kind.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class DeviceConfig(Model):
    """Configuration that the driver applies when it prepares the devices."""

    requests: _RequestNames | None = Field(
        None, description="Names of the requests that it is for; absent: all of them."
    )
    opaque: OpaqueConfig = Field(description="Driver and parameters.")


def _names_requests(field: str) -> dict[str, str]:
    """Demand that the ``requests`` of each entry of a field exist.

    The names are collected once, as a list of lists: comparing entry by entry would exceed the API server's cost limit.
    """
    return rule(
        f"!has(self.{field}) || [self.requests.map(r, [r.name] + (has(r.firstAvailable) ? "
        f"r.firstAvailable.map(s, r.name + '/' + s.name) : []))].all(names, self.{field}.all(e, "
        "!has(e.requests) || e.requests.all(n, names.exists(some, n in some))))",
        f"{field} may only name entries of accelerators.requests, as NAME or, for one of its firstAvailable, as "
        "NAME/ALTERNATIVE: correct the name, or add the request",
        field=f".{field}",
    )


class Accelerators(Model):
    """The devices of each pod of a role; becomes one ResourceClaimTemplate per revision."""

    model_config = ConfigDict(json_schema_extra=rules(_names_requests("constraints"), _names_requests("config")))

    requests: list[DeviceRequest] = Field(
        min_length=1,
        max_length=32,
        description="The devices that each pod claims.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    constraints: list[DeviceConstraint] | None = Field(
        None,
        max_length=32,
        description="What the devices must have in common, for example the PCIe root of a GPU and its NIC.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    config: list[DeviceConfig] | None = Field(
        None,
        max_length=32,
        description="Configuration for the drivers.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    containers: list[DNSLabel] | None = Field(
        None,
        min_length=1,
        max_length=32,
        description="Containers and init containers that see the devices; absent: the first container.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
