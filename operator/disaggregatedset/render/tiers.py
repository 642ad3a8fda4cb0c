"""From a set to the revisions of its tier groups, rendered: what a ControllerRevision keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from disaggregatedset.api import (
    KV_CACHE,
    KV_COORDINATOR,
    WEIGHTS,
    Accelerators,
    DisaggregatedSet,
    KVCoordinator,
    KVScope,
    Scaled,
    Tier,
)
from disaggregatedset.render import names
from disaggregatedset.render.placement import placed
from disaggregatedset.render.pods import claim_spec, pod_template
from disaggregatedset.render.revisions import COMPUTE, HASH_VERSION, Revisions, revisions

#: Tier groups: what rolls together, in the order in which a set comes up.
GROUPS: Final[Mapping[str, Tier]] = {
    WEIGHTS: Tier.WEIGHTS,
    KV_COORDINATOR: Tier.KV_CACHE,
    KV_CACHE: Tier.KV_CACHE,
    COMPUTE: Tier.COMPUTE,
}


_HOST_VARIABLES: Final = {
    WEIGHTS: "DSET_WEIGHTS_HOST",
    KV_CACHE: "DSET_KV_CACHE_HOST",
    KV_COORDINATOR: "DSET_KV_COORDINATOR_HOST",
}


@dataclass(frozen=True, slots=True)
class RenderedRole:
    """The pods of a role in one revision.

    Attributes
    ----------
    template
        The PodTemplateSpec of its Deployment.
    claim
        The spec of its ResourceClaimTemplate; None: its pods claim no accelerators.
    """

    template: Mapping[str, Any]
    claim: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class TierRevision:
    """One revision of a tier group, rendered once and applied verbatim from then on.

    Attributes
    ----------
    group
        The tier group.
    revision, model_revision
        The revision, and that of the model that it belongs to.
    compute_revision
        The compute revision that it is kept for, where it is kept for one: a KV cache with ``scope: Revision``.
    needs
        Identity of each tier group that its pods are told to use.
    roles
        The pods of each role.
    """

    group: str
    revision: str
    model_revision: str
    compute_revision: str | None
    needs: Mapping[str, str]
    roles: Mapping[str, RenderedRole]

    @property
    def identity(self) -> str:
        """What its Services go by: a model or a compute revision; compute moves as one, so it has none."""
        return "" if self.group == COMPUTE else self.compute_revision or self.model_revision

    @property
    def tier(self) -> Tier:
        """The tier that the group belongs to."""
        return GROUPS[self.group]

    def data(self) -> dict[str, Any]:
        """Return what a ControllerRevision stores."""
        return {
            "hashVersion": HASH_VERSION,
            "group": self.group,
            "revision": self.revision,
            "modelRevision": self.model_revision,
            **({"computeRevision": self.compute_revision} if self.compute_revision else {}),
            "needs": dict(self.needs),
            "roles": {
                name: {"template": role.template} | ({"claim": role.claim} if role.claim is not None else {})
                for name, role in self.roles.items()
            },
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> TierRevision:
        """Read what :meth:`data` returned."""
        return cls(
            group=data["group"],
            revision=data["revision"],
            model_revision=data["modelRevision"],
            compute_revision=data.get("computeRevision"),
            needs=data["needs"],
            roles={name: RenderedRole(role["template"], role.get("claim")) for name, role in data["roles"].items()},
        )


def role_service(set_name: str, role: str, revision: TierRevision) -> str:
    """Name the Service that clients of a role use: by identity for weights and KV, else one for all revisions."""
    return names.child_name(set_name, role, *filter(None, [revision.identity]))


def rendered_tiers(dset: DisaggregatedSet) -> dict[str, TierRevision]:
    """Render the revisions that a set asks for, by tier group, in the order in which they come up."""
    wanted = revisions(dset.spec)
    return {
        group: TierRevision(
            group,
            wanted.groups[group],
            wanted.model,
            _compute_revision(dset, group, wanted),
            _needs(dset, group, wanted),
            {name: _role(dset, group, name, role, wanted) for name, role in _roles(dset, group)},
        )
        for group in GROUPS
        if group in wanted.groups
    }


def _compute_revision(dset: DisaggregatedSet, group: str, wanted: Revisions) -> str | None:
    kv = dset.spec.kv_cache
    scoped = kv is not None and kv.scope is KVScope.REVISION and GROUPS[group] is Tier.KV_CACHE
    return wanted.groups[COMPUTE] if scoped else None


def _needs(dset: DisaggregatedSet, group: str, wanted: Revisions) -> dict[str, str]:
    servers = {COMPUTE: (WEIGHTS, KV_CACHE, KV_COORDINATOR), KV_CACHE: (KV_COORDINATOR,)}.get(group, ())
    return {
        server: _compute_revision(dset, server, wanted) or wanted.model for server in servers if server in wanted.groups
    }


def _roles(dset: DisaggregatedSet, group: str) -> list[tuple[str, Scaled | KVCoordinator]]:
    kv = dset.spec.kv_cache
    match group:
        case "weights" if dset.spec.weights is not None:
            return [(WEIGHTS, dset.spec.weights)]
        case "kv-cache" if kv is not None:
            return [(KV_CACHE, kv)]
        case "kv-coordinator" if kv is not None and kv.coordinator is not None:
            return [(KV_COORDINATOR, kv.coordinator)]
        case _:
            return [(role.name, role) for role in dset.spec.compute.roles]


def _role(
    dset: DisaggregatedSet, group: str, name: str, role: Scaled | KVCoordinator, wanted: Revisions
) -> RenderedRole:
    set_name = dset.metadata.name
    revision = wanted.groups[group]
    accelerators: Accelerators | None = getattr(role, "accelerators", None)
    labels = names.labels(
        set_name,
        tier=GROUPS[group],
        role=name,
        revision=revision,
        model_revision=wanted.model,
        compute_revision=_compute_revision(dset, group, wanted),
    )
    if group == COMPUTE:
        labels |= {
            names.SET_UID_LABEL: dset.metadata.uid,
            "llm-d.ai/role": name,
            "llm-d.ai/model": names.label_value(dset.spec.model.name),
            "llm-d.ai/inference-serving": "true",
        }
    template = pod_template(
        role.template,
        labels=labels,
        environment=_environment(dset, group, name, wanted),
        accelerators=accelerators,
        claim_template=names.child_name(set_name, name, revision),
    )
    placement = dset.spec.compute.placement if group == COMPUTE else None
    if placement is not None:
        template = placed(template, placement, set_name=set_name, set_uid=dset.metadata.uid, revision=revision)
    return RenderedRole(template, claim_spec(accelerators) if accelerators is not None else None)


def _environment(dset: DisaggregatedSet, group: str, role: str, wanted: Revisions) -> dict[str, str]:
    model = dset.spec.model
    environment = {
        "DSET_SET": dset.metadata.name,
        "DSET_TIER": GROUPS[group].value,
        "DSET_ROLE": role,
        "DSET_REVISION": wanted.groups[group],
        "DSET_MODEL_REVISION": wanted.model,
        "DSET_MODEL_NAME": model.name,
        "DSET_MODEL_SOURCE": model.source,
    }
    if model.revision is not None:
        environment["DSET_MODEL_SOURCE_REVISION"] = model.revision
    for server, identity in _needs(dset, group, wanted).items():
        service = names.child_name(dset.metadata.name, server, identity)
        environment[_HOST_VARIABLES[server]] = f"{service}.{dset.metadata.namespace}.svc"
    return environment
