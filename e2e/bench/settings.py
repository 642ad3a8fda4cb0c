"""How to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure.

    Attributes
    ----------
    stock_qps
        Whether controller manager and scheduler keep their default limits on requests per second.
    rest_seconds
        How long to look at the operator at rest; 0: not at all.
    kubernetes
        The cluster's version; None: the default.
    directory
        Where logs and profiles go.
    profile
        Whether to profile the operator.
    """

    stock_qps: bool
    rest_seconds: float
    kubernetes: str | None
    directory: Path
    profile: bool

    def log_of(self, phase: str, sets: int) -> Path:
        """Return where the operator's log of a phase with so many sets goes."""
        return self.directory / f"operator-{phase}-{sets}.log"

    def profile_of(self, phase: str, sets: int) -> Path | None:
        """Return where the profile of a phase with so many sets goes; None: there is none."""
        return self.directory / f"profile-{phase}-{sets}.txt" if self.profile else None
