"""How many steps rollouts take, as expected output.

A step is a plan with writes, after which all pods turn ready. Regenerate with ``PYTHONPATH=operator python -m
tests.rollout.test_steps`` and look at what changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.rollout.model import Model, Scenario, Shape, Spec
from tests.rollout.test_properties import steps

TABLE = Path(__file__).with_name("steps.yaml")
HEADER = """\
# Steps of a rollout of roles with these replicas, surge and unavailable. A step is a plan with writes, after which all
# pods turn ready. Regenerate: python -m tests.rollout.test_steps
"""
SETTINGS = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2), ("25%", "25%"), ("25%", "0%"), ("100%", "0%"))
REPLICAS = (
    *((1,), (2,), (4,), (8,), (100,)),
    *((1, 1), (1, 2), (1, 4), (2, 2), (4, 8), (5, 2), (7, 5), (16, 48), (100, 300)),
    *((1, 2, 4), (2, 4, 8), (3, 5, 7), (2, 2, 2, 2, 2, 2, 2, 2)),
)


def count(replicas: tuple[int, ...], surge: int | str, unavailable: int | str) -> int:
    roles = {f"role-{i}": Shape(number, surge, unavailable) for i, number in enumerate(replicas)}
    model = Model(Scenario((Spec("A", roles), Spec("B", roles))))
    return steps(model, model.change(model.start()))


def table() -> dict[str, dict[str, int]]:
    return {
        ":".join(map(str, replicas)): {f"{s}/{u}": count(replicas, s, u) for s, u in SETTINGS} for replicas in REPLICAS
    }


def render(steps_of: dict[str, Any]) -> str:
    return HEADER + "".join(
        f'"{replicas}": {{{", ".join(f"{key}: {number}" for key, number in row.items())}}}\n'
        for replicas, row in steps_of.items()
    )


def test_steps_are_as_expected() -> None:
    expected, actual = yaml.safe_load(TABLE.read_text()), table()
    assert actual == expected, "if that is meant: python -m tests.rollout.test_steps, and look at the difference"


if __name__ == "__main__":
    TABLE.write_text(render(table()))
