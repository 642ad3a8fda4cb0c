"""Pod templates: the user's, with labels, environment and the claim of accelerators put in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from disaggregatedset.api import POD_CLAIM_NAME, Accelerators
from disaggregatedset.api.accelerators import DeviceRequest, DeviceSubRequest


def pod_template(
    template: Mapping[str, Any],
    *,
    labels: Mapping[str, str],
    environment: Mapping[str, str],
    accelerators: Accelerators | None,
    claim_template: str,
) -> dict[str, Any]:
    """Render a pod template.

    Parameters
    ----------
    template
        The user's PodTemplateSpec; it is not changed.
    labels
        Put over the template's own (the CRD refuses templates that set one of them).
    environment
        Put before each container's own variables, so that ``$(DSET_...)`` works in them and in args; a variable that
        the container sets itself is left out.
    accelerators
        Devices; None: the pods claim none.
    claim_template
        Name of the ResourceClaimTemplate of ``accelerators``.
    """
    metadata = dict(template.get("metadata") or {})
    metadata["labels"] = dict(metadata.get("labels") or {}) | dict(labels)
    spec = dict(template["spec"])
    claiming: set[str] = set()
    if accelerators is not None:
        claiming = set(accelerators.containers or [spec["containers"][0]["name"]])
        claim = {"name": POD_CLAIM_NAME, "resourceClaimTemplateName": claim_template}
        spec["resourceClaims"] = [*(spec.get("resourceClaims") or []), claim]
    for field in ("initContainers", "containers"):
        if spec.get(field):
            spec[field] = [_container(c, environment, claims=c["name"] in claiming) for c in spec[field]]
    return dict(template) | {"metadata": metadata, "spec": spec}


def _container(container: Mapping[str, Any], environment: Mapping[str, str], *, claims: bool) -> dict[str, Any]:
    own = container.get("env") or []
    taken = {variable["name"] for variable in own}
    put_in = [{"name": name, "value": value} for name, value in environment.items() if name not in taken]
    rendered = dict(container) | {"env": [*put_in, *own]}
    if claims:
        resources = dict(container.get("resources") or {})
        resources["claims"] = [*(resources.get("claims") or []), {"name": POD_CLAIM_NAME}]
        rendered["resources"] = resources
    return rendered


def claim_spec(accelerators: Accelerators) -> dict[str, Any]:
    """Compile ``accelerators`` to the spec of a ResourceClaim (``resource.k8s.io/v1``)."""
    devices: dict[str, Any] = {"requests": [_request(request) for request in accelerators.requests]}
    for field in ("constraints", "config"):
        if entries := getattr(accelerators, field):
            devices[field] = [entry.model_dump(by_alias=True, exclude_unset=True) for entry in entries]
    return {"devices": devices}


def _request(request: DeviceRequest) -> dict[str, Any]:
    if request.first_available is not None:
        return {"name": request.name, "firstAvailable": [_wish(sub) for sub in request.first_available]}
    exactly = _wish(request)
    del exactly["name"]
    return {"name": request.name, "exactly": exactly}


def _wish(request: DeviceRequest | DeviceSubRequest) -> dict[str, Any]:
    wish = request.model_dump(by_alias=True, exclude_none=True, mode="json")
    if request.selectors is not None:
        wish["selectors"] = [{"cel": {"expression": expression}} for expression in request.selectors]
    return wish


def service_ports(templates: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the ports of a Service over pods of some templates: those of containers and of native sidecars."""
    containers: list[Mapping[str, Any]] = []
    for template in templates:
        spec = template["spec"]
        containers += spec["containers"]
        containers += [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    ports: dict[tuple[int, str], dict[str, Any]] = {}
    for port in _container_ports(containers):
        protocol = port.get("protocol") or "TCP"
        number = port["containerPort"]
        if (number, protocol) not in ports:
            ports[number, protocol] = {"name": port.get("name"), "port": number, "protocol": protocol}
    given = {port["name"] for port in ports.values()}
    names: set[str] = set()
    for (number, protocol), port in ports.items():
        name = port["name"]
        if name is None or name in names:  # containers may share a port's name, ports of a Service may not
            name = f"{protocol.lower()}-{number}"
            while name in given:
                name += "-x"
        names.add(name)
        port |= {"name": name, "targetPort": number}
    return list(ports.values())


def _container_ports(containers: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    return (port for container in containers for port in container.get("ports") or [])
