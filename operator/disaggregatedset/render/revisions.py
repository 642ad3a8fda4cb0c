"""Revisions: a hash per tier group over what, when changed, makes its pods different (design, section 4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from disaggregatedset.api import (
    KV_CACHE,
    KV_COORDINATOR,
    WEIGHTS,
    DisaggregatedSetSpec,
    KVCoordinator,
    KVScope,
    Placement,
    Scaled,
)

#: Part of every hash and of every ControllerRevision. A change of it, as of anything that is hashed, rolls the pods of
#: every user at the upgrade of the operator.
HASH_VERSION: Final = 1

#: The tier group of the engines; every other one has the name of its one role.
COMPUTE: Final = "compute"

_LENGTH: Final = 8
# Kubernetes' own choice for generated names (k8s.io/apimachinery/pkg/util/rand): no vowels, hence no words, and nothing
# that YAML could read as a number with an exponent.
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"


def digest(value: Any) -> str:
    """Hash a JSON value.

    Parameters
    ----------
    value
        Anything that JSON can express; the order of keys does not matter.

    Returns
    -------
    str
        8 characters (38 bits) that may be part of a DNS label.
    """
    canonical = json.dumps(
        {"hashVersion": HASH_VERSION, "value": value}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    number = int.from_bytes(hashlib.sha256(canonical.encode()).digest(), "big")
    letters = []
    for _ in range(_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


@dataclass(frozen=True, slots=True)
class Revisions:
    """The revisions that a spec asks for.

    Attributes
    ----------
    model
        Of ``spec.model``.
    groups
        Of each tier group that the spec has: ``weights``, ``kv-coordinator``, ``kv-cache``, ``compute``.
    """

    model: str
    groups: Mapping[str, str]


def _pods(scaled: Scaled | KVCoordinator) -> dict[str, Any]:
    # As stored: no field in here has a default, so what a newer release could default never changes a hash.
    return scaled.model_dump(by_alias=True, exclude_unset=True, include={"accelerators", "template"})


def _placement(placement: Placement) -> dict[str, Any]:
    # By value: what is left out and what is written as its default make the same pods.
    return {"topologyKey": placement.topology_key, "policy": placement.policy, "exclusive": placement.exclusive}


def revisions(spec: DisaggregatedSetSpec) -> Revisions:
    """Compute the revisions of a spec.

    Replicas, scaling, rollout and disruption settings are never part of one. Whether there is a weights tier, a KV
    cache and a coordinator is, for the pods that are told about them.
    """
    model = digest(spec.model.model_dump(by_alias=True, exclude_unset=True))
    kv = spec.kv_cache
    coordinator = kv is not None and kv.coordinator is not None
    groups: dict[str, str] = {}
    compute = digest(
        {
            "roles": {role.name: _pods(role) for role in spec.compute.roles},
            "weights": spec.weights is not None,
            "kvCache": kv.scope if kv is not None else None,
            "coordinator": coordinator,
            "model": model,
            **({"placement": _placement(spec.compute.placement)} if spec.compute.placement else {}),
        }
    )
    if spec.weights is not None:
        groups[WEIGHTS] = digest({"pods": _pods(spec.weights), "model": model})
    if kv is not None:
        of = {"model": model, "compute": compute if kv.scope is KVScope.REVISION else None}
        if kv.coordinator is not None:
            groups[KV_COORDINATOR] = digest({"pods": _pods(kv.coordinator), **of})
        groups[KV_CACHE] = digest({"pods": _pods(kv), "coordinator": coordinator, **of})
    groups[COMPUTE] = compute
    return Revisions(model, groups)
