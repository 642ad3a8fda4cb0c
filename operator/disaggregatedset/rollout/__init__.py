"""Pure: from what is desired and what is observed to the writes to make now."""

from disaggregatedset.rollout.order import GroupPlan, Running, Wanted, plan_set
from disaggregatedset.rollout.planner import (
    Group,
    Observed,
    Plan,
    Remove,
    Scale,
    coherent_capacity,
    is_ready,
    plan,
)

__all__ = [
    "Group",
    "GroupPlan",
    "Observed",
    "Plan",
    "Remove",
    "Running",
    "Scale",
    "Wanted",
    "coherent_capacity",
    "is_ready",
    "plan",
    "plan_set",
]
