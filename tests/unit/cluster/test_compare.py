"""What a live object lacks of a manifest."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disaggregatedset.cluster.compare import missing


@pytest.mark.parametrize(
    ("wanted", "live", "lacks"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, ["a.c"]),
        ({"a": {"b": 1}}, {}, ["a.b"]),
        ({"a": {"b": 1}}, {"a": "text"}, ["a"]),
        # The API server leaves empty values out.
        ({"a": {}, "b": [], "c": "", "d": None, "e": False}, {}, []),
        ({"a": 0}, {"a": 1}, ["a"]),
        ({"spec": {"nodeSelector": {}}}, {"spec": {}}, []),
        # Quantities are equal by value, where there are quantities.
        (
            {"limits": {"cpu": 8, "memory": "1024Mi", "nvidia.com/gpu": 1}},
            {"limits": {"cpu": "8", "memory": "1Gi", "nvidia.com/gpu": "1"}},
            [],
        ),
        ({"limits": {"cpu": "0.5"}}, {"limits": {"cpu": "500m"}}, []),
        ({"limits": {"cpu": 1.5}}, {"limits": {"cpu": "1500m"}}, []),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "2"}}, ["limits.cpu"]),
        ({"v": {"sizeLimit": "1024Mi"}}, {"v": {"sizeLimit": "1Gi"}}, []),
        (
            {"exactly": {"capacity": {"requests": {"shares": 2}}}},
            {"exactly": {"capacity": {"requests": {"shares": "2"}}}},
            [],
        ),
        ({"target": {"averageValue": "0.5"}}, {"target": {"averageValue": "500m"}}, []),
        ({"target": {"value": "1000"}}, {"target": {"value": "1k"}}, []),
        ({"target": {"value": 30}}, {"target": {"value": "30"}}, []),
        ({"target": {"averageValue": "0.5"}}, {"target": {"averageValue": "0.6"}}, ["target.averageValue"]),
        (
            {"metrics": [{"type": "Pods", "pods": {"target": {"averageValue": "0.5"}}}]},
            {"metrics": [{"type": "Pods", "pods": {"target": {"averageValue": "500m"}}}]},
            [],
        ),
        ({"behavior": {"scaleUp": {"tolerance": "0.05"}}}, {"behavior": {"scaleUp": {"tolerance": "50m"}}}, []),
        ({"behavior": {"scaleDown": {"tolerance": 0.1}}}, {"behavior": {"scaleDown": {"tolerance": "100m"}}}, []),
        # Elsewhere, fields of these names are what they are.
        ({"metric": {"value": "0.5"}}, {"metric": {"value": "500m"}}, ["metric.value"]),
        ({"tolerance": "0.5"}, {"tolerance": "500m"}, ["tolerance"]),
        (
            {"env": [{"name": "VERSION", "value": "1.10"}]},
            {"env": [{"name": "VERSION", "value": "1.1"}]},
            ["env[VERSION].value"],
        ),
        ({"labels": {"version": "1k"}}, {"labels": {"version": "1000"}}, ["labels.version"]),
        ({"a": True}, {"a": "true"}, ["a"]),
        # Lists that merge, by the keys of their entries and in any order.
        ({"c": [{"name": "x", "i": 1}]}, {"c": [{"name": "y"}, {"name": "x", "i": 1, "more": 2}]}, []),
        ({"c": [{"name": "x", "i": 1}]}, {"c": [{"name": "x", "i": 2}]}, ["c[x].i"]),
        ({"c": [{"name": "x"}]}, {"c": [{"name": "y"}]}, ["c[x]"]),
        ({"p": [{"containerPort": 1}]}, {"p": [{"containerPort": 1, "protocol": "TCP"}]}, []),
        ({"p": [{"containerPort": 1, "protocol": "UDP"}]}, {"p": [{"containerPort": 1, "protocol": "TCP"}]}, ["p[1]"]),
        (
            {"p": [{"port": 1}, {"port": 1, "protocol": "UDP"}]},
            {"p": [{"port": 1, "protocol": "UDP"}, {"port": 1, "protocol": "TCP"}]},
            [],
        ),
        ({"o": [{"uid": "1"}]}, {"o": [{"uid": "2"}, {"uid": "1"}]}, []),
        # All others: whole, and in their order.
        ({"args": ["a", "b"]}, {"args": ["a", "b"]}, []),
        ({"args": ["a", "b"]}, {"args": ["b", "a"]}, ["args[0]", "args[1]"]),
        ({"args": ["a"]}, {"args": ["a", "b"]}, ["args"]),
        ({"args": ["a"]}, {}, ["args"]),
        (
            {"env": [{"name": "x", "value": "1"}, {"name": "x", "value": "2"}]},
            {"env": [{"name": "x", "value": "1"}]},
            ["env"],
        ),
        ({"parameters": {"rules": [{"name": {"deep": 1}}]}}, {"parameters": {"rules": [{"name": {"deep": 1}}]}}, []),
        ({"c": [{"name": "x"}]}, {"c": [{"name": ["odd"]}, {"name": "x"}]}, []),
        # Maps that are replaced as a whole: one more entry is another selector.
        ({"selector": {"a": "b"}}, {"selector": {"a": "b", "c": "d"}}, ["selector"]),
    ],
)
def test_what_is_missing(wanted: Any, live: Any, lacks: list[str]) -> None:
    assert list(missing(wanted, live)) == lacks


_TEXT = st.text("ab1.kMi-eEsN", max_size=4)
_NAMES = st.sampled_from(["a", "b", "limits", "name", "env", "selector", "uid", "port"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(0, 2) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=10,
)


@given(_VALUES)
def test_nothing_is_missing_of_itself(value: Any) -> None:
    assert list(missing(value, copy.deepcopy(value))) == []


@given(_VALUES, _VALUES)
def test_any_two_values_can_be_compared(one: Any, other: Any) -> None:
    list(missing(one, other))


_LEAVES = st.integers(1, 9) | st.text("xyz", min_size=1, max_size=3) | st.just(True)
_MANIFESTS = st.dictionaries(
    _NAMES,
    st.recursive(
        _LEAVES,
        lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(_NAMES, inner, min_size=1, max_size=3),
        max_leaves=8,
    ),
    min_size=1,
    max_size=3,
)


def _without_one_leaf(value: Any) -> Iterator[Any]:
    """Return the value without one of its leaves, for each of them."""
    if isinstance(value, dict):
        for key, child in value.items():
            rest = {k: v for k, v in value.items() if k != key}
            yield from ({**rest, key: less} for less in _without_one_leaf(child))
            if not isinstance(child, dict | list):
                yield rest
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from ([*value[:index], less, *value[index + 1 :]] for less in _without_one_leaf(child))
            if not isinstance(child, dict | list):
                yield [*value[:index], *value[index + 1 :]]


@given(_MANIFESTS)
def test_whatever_leaf_is_removed_it_is_missed(manifest: dict[str, Any]) -> None:
    for less in _without_one_leaf(manifest):
        assert list(missing(manifest, less)) != [], less


@given(_MANIFESTS, st.dictionaries(st.just("ours-not"), _LEAVES, min_size=1))
def test_what_others_add_is_not_missed(manifest: dict[str, Any], more: dict[str, Any]) -> None:
    assert list(missing(manifest, manifest | more)) == []
