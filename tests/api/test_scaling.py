"""What the models of scaling work out."""

from __future__ import annotations

from itertools import product

import pytest

from disaggregatedset.api import Scaling, ScalingMode
from disaggregatedset.api.base import MAX_REPLICAS
from disaggregatedset.api.scaling import Follow


def test_following_gives_the_fewest_pods_that_keep_the_ratio() -> None:
    for mine, others, replicas in product(range(1, 13), range(1, 13), range(41)):
        fewest = next(n for n in range(41 * 12 + 1) if n * others >= replicas * mine)
        assert Follow(role="decode", ratio=f"{mine}:{others}").of(replicas) == fewest


@pytest.mark.parametrize(
    ("ratio", "replicas", "expected"),
    [
        ("1:4", 0, 0),
        ("1:4", 1, 1),
        ("1:4", 4, 1),
        ("1:4", 5, 2),
        ("3:2", 3, 5),
        ("1:9999", MAX_REPLICAS, 11),
        ("9999:9998", 9998, 9999),
        ("9999:1", 10, 99_990),
    ],
)
def test_following(ratio: str, replicas: int, expected: int) -> None:
    assert Follow(role="decode", ratio=ratio).of(replicas) == expected


@pytest.mark.parametrize("replicas", [11, MAX_REPLICAS])
def test_following_ends_where_no_role_may_have_more(replicas: int) -> None:
    """Else no RoleScaler could say it."""
    assert Follow(role="decode", ratio="9999:1").of(replicas) == MAX_REPLICAS


def test_following_never_shrinks_when_what_is_followed_grows() -> None:
    for mine, others in product(range(1, 13), range(1, 13)):
        follow = Follow(role="decode", ratio=f"{mine}:{others}")
        counts = [follow.of(replicas) for replicas in range(41)]
        assert counts == sorted(counts)


def test_modes_in_which_the_role_scaler_decides() -> None:
    assert {mode for mode in ScalingMode if Scaling(mode=mode).decided_elsewhere} == {
        ScalingMode.EXTERNAL,
        ScalingMode.HPA,
    }
    assert not Scaling().decided_elsewhere
