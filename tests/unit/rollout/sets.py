"""Sets as the planner of all tiers sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from disaggregatedset.rollout import Observed, Revision, Role, Running, State, Tier
from tests.unit.builders import observed

GROUPS = ("weights", "kv-coordinator", "kv-cache", "compute")
SERVERS = GROUPS[:-1]
PODS = {"weights": 1, "kv-coordinator": 1, "kv-cache": 1, "prefill": 1, "decode": 2}


@dataclass(frozen=True)
class Set:
    """A set at one moment of its life: revisions are called by number, identities by the model or compute revision."""

    model: str = "m1"
    compute: str = "c1"
    own: Mapping[str, str] = field(default_factory=dict)
    """Names of revisions that a change of the tier alone has made."""
    weights: bool = True
    kv: bool = True
    coordinator: bool = True
    required: bool = True
    scoped: bool = False
    roles: tuple[str, ...] = ("prefill", "decode")
    pods: Mapping[str, int] = field(default_factory=dict)
    rollout: tuple[int, int] = (1, 0)

    @property
    def groups(self) -> list[str]:
        there = {"weights": self.weights, "kv-coordinator": self.kv and self.coordinator, "kv-cache": self.kv}
        return [group for group in GROUPS if there.get(group, True)]

    def identity(self, group: str) -> str:
        if group == "compute":
            return ""
        return f"of {self.compute if self.scoped and group != 'weights' else self.model}"

    def revision(self, group: str) -> Revision:
        if group == "compute":
            needs = {other: self.identity(other) for other in self.groups if other != "compute"}
            return Revision(self.compute, "", needs, self.roles)
        needs = {}
        if group == "kv-cache" and self.coordinator:
            needs = {"kv-coordinator": self.identity("kv-coordinator")}
        name = f"{group} {self.own.get(group, '')}{self.identity(group)}"
        return Revision(name, self.identity(group), needs, (group,))

    @property
    def revisions(self) -> dict[tuple[str, str], Revision]:
        return {(group, self.revision(group).name): self.revision(group) for group in self.groups}

    @property
    def tiers(self) -> dict[str, Tier]:
        waits_for = {
            "kv-cache": ["kv-coordinator"],
            "compute": ["weights", *(["kv-cache"] if self.required else [])],
        }
        numbers = PODS | self.pods
        return {
            group: Tier(
                self.revision(group),
                {role: Role(role, numbers[role], *self.rollout) for role in self.revision(group).roles},
                tuple(other for other in waits_for.get(group, ()) if other in self.groups),
                recreate=group == "kv-coordinator",
            )
            for group in self.groups
        }

    def run(self, *groups: str, **seen: Observed) -> list[Running]:
        """Run tiers, by default all with all that is desired."""
        numbers = PODS | self.pods
        return [
            Running(
                group,
                role,
                self.revision(group).name,
                self.identity(group),
                seen.get(role, seen.get("every", observed(numbers[role]))),
            )
            for group in groups or self.groups
            for role in self.revision(group).roles
        ]

    @property
    def good(self) -> dict[str, State]:
        return {group: State(self.revision(group).name) for group in self.groups}
