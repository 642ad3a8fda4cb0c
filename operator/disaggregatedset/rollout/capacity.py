"""What a compute revision can serve."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction


def coherent_capacity(desired: Mapping[str, int], ready: Mapping[str, int]) -> Fraction:
    """Compute the coherent capacity of a revision: the smallest, over the roles that desire any, of ready / desired.

    Parameters
    ----------
    desired
        Pods wanted, by role.
    ready
        Pods of the revision that are ready, by role.

    Returns
    -------
    Fraction
        At most 1; 1 where nothing is desired.
    """
    return min((Fraction(min(ready.get(r, 0), n), n) for r, n in desired.items() if n), default=Fraction(1))
