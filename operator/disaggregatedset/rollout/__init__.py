"""Pure: from what is desired and what is observed to the writes to make now."""

from disaggregatedset.rollout.capacity import coherent_capacity
from disaggregatedset.rollout.lifecycle import Failure, OnFailure, Policy, Record, State, fail
from disaggregatedset.rollout.order import Outcome, Revision, Running, Spec, Tier, plan_set
from disaggregatedset.rollout.planner import (
    Deletion,
    Group,
    Observed,
    Phase,
    Plan,
    Role,
    WhenExhausted,
    Write,
    plan,
    resolve,
)

__all__ = [
    "Deletion",
    "Failure",
    "Group",
    "Observed",
    "OnFailure",
    "Outcome",
    "Phase",
    "Plan",
    "Policy",
    "Record",
    "Revision",
    "Role",
    "Running",
    "Spec",
    "State",
    "Tier",
    "WhenExhausted",
    "Write",
    "coherent_capacity",
    "fail",
    "plan",
    "plan_set",
    "resolve",
]
