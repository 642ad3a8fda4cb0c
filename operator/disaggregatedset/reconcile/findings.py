"""All that is found out about a set in one reconcile: what its status is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from disaggregatedset.reconcile.diagnose import Diagnoses
from disaggregatedset.reconcile.scaling import Desired, Scales, desired_pods
from disaggregatedset.reconcile.view import View
from disaggregatedset.render import TierRevision
from disaggregatedset.rollout import Outcome, Role, resolve


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Whether a spec can be carried out, and if not, why, in the API server's or our words."""

    reason: str = "Accepted"
    message: str = "the spec is valid"

    @property
    def accepted(self) -> bool:
        """Whether it can."""
        return self.reason == "Accepted"


ACCEPTED = Acceptance()


@dataclass(frozen=True, slots=True)
class Routed:
    """What became of the InferencePool."""

    reason: str
    message: str

    @property
    def done(self) -> bool:
        """Whether it is as the set asks for."""
        return self.reason == "InferencePoolReady"


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a status is made of.

    Attributes
    ----------
    acceptance
        Whether the spec can be carried out.
    tiers
        The wanted revisions by tier group.
    scales
        How many pods each role should have, by tier group and role.
    roles
        The live numbers of each role.
    optional
        Roles that the set can serve without.
    can_be_zero
        Compute roles that may be at 0 while others are not.
    view
        The children.
    outcomes
        What is done with the tier groups.
    diagnoses
        Why pods are not ready.
    routed
        What became of the InferencePool; None: none is asked for.
    """

    acceptance: Acceptance
    tiers: Mapping[str, TierRevision]
    scales: Scales
    roles: Mapping[str, Role]
    optional: frozenset[str]
    can_be_zero: frozenset[str]
    view: View
    outcomes: Mapping[str, Outcome]
    diagnoses: Diagnoses
    routed: Routed | None = None

    @property
    def desired(self) -> Desired:
        """Pods wanted, by tier group and role."""
        return desired_pods(self.scales)

    @property
    def unavailable(self) -> dict[str, int]:
        """How many pods of each role may be missing."""
        return {name: resolve(role)[1] for name, role in self.roles.items()}
