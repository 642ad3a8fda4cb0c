"""Every name and label that any legal set leads to is one that the API server takes."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from disaggregatedset.api.disaggregatedset import MAX_NAMES
from disaggregatedset.cluster import objects
from disaggregatedset.reconcile.desired import stages
from disaggregatedset.render.names import label_value
from disaggregatedset.render.pods import service_ports
from tests.unit.builders import World, make_set, starting

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_CONTAINER = {"name": "c", "image": "c"}
_TEMPLATE = {"spec": {"containers": [_CONTAINER]}}
_GPU = {"requests": [{"name": "gpu", "deviceClassName": "gpu"}]}


@given(st.text())
def test_a_label_value_can_be_made_of_any_text(text: str) -> None:
    assert _LABEL_VALUE.fullmatch(label_value(text))
    assert len(label_value(text)) <= 63


@given(st.from_regex(_LABEL_VALUE, fullmatch=True).filter(lambda text: len(text) <= 63))
def test_a_label_value_stays_as_it_is(text: str) -> None:
    assert label_value(text) == text


def test_a_models_name_can_still_be_read() -> None:
    assert label_value("meta-llama/Llama-3.1-8B") == "meta-llama-Llama-3.1-8B"
    assert label_value("/" + "x" * 62 + "/y") == "x" * 62


@st.composite
def _legal_sets(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Sets whose names are as long as the rules of the CRD allow, or shorter."""
    weights, kv, coordinator = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    reserved = [
        name
        for name, there in (("weights", weights), ("kv-cache", kv), ("kv-coordinator", kv and coordinator))
        if there
    ]
    longest = MAX_NAMES - max((len(name) for name in reserved), default=1)
    length = draw(st.sampled_from([1, longest]) | st.integers(1, longest))
    name = draw(st.text("az09-", min_size=length, max_size=length).map(lambda t: ("a" + t[1:-1] + "z")[:length]))
    rest = MAX_NAMES - length
    lengths = draw(st.lists(st.sampled_from([1, rest]) | st.integers(1, rest), min_size=1, max_size=3))
    roles = {
        draw(st.text("a0-", min_size=n, max_size=n).map(lambda t: ("0" + t[1:-1] + "z")[-len(t) :])) for n in lengths
    }
    tier = {"template": _TEMPLATE, "accelerators": _GPU}
    spec: dict[str, Any] = {
        "model": {"name": draw(st.text(min_size=1, max_size=80)), "source": "hf://x"},
        "compute": {"roles": [{"name": role, **tier} for role in sorted(roles)]},
    }
    if weights:
        spec["weights"] = tier
    if kv:
        spec["kvCache"] = tier | ({"coordinator": {"template": _TEMPLATE}} if coordinator else {})
    return name, spec


@given(_legal_sets())
def test_names_and_labels_of_children_are_valid(legal: tuple[str, dict[str, Any]]) -> None:
    name, spec = legal
    world = World(make_set(spec, name))
    written = stages(world.dset, world.tiers, world.scales, world.view(), starting(world))
    deployments = [manifest for _, manifest in written.planned]
    children = [*written.records, *written.supporting, *((objects.DEPLOYMENT, manifest) for manifest in deployments)]
    for kind, manifest in children:
        metadata = manifest["metadata"]
        assert _DNS_1035.fullmatch(metadata["name"])
        if kind is not objects.CONTROLLER_REVISION:  # it names nothing that has to be a DNS label
            assert len(metadata["name"]) <= 63
        assert all(_LABEL_VALUE.fullmatch(value) and len(value) <= 63 for value in metadata["labels"].values())
    for manifest in deployments:
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        assert all(_LABEL_VALUE.fullmatch(value) and len(value) <= 63 for value in labels.values())
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
    named = [(kind, manifest["metadata"]["name"]) for kind, manifest in children]
    assert len(named) == len(set(named))


def _port(name: str | None, number: int, protocol: str | None) -> dict[str, Any]:
    fields = {"name": name, "containerPort": number, "protocol": protocol}
    return {field: value for field, value in fields.items() if value is not None}


_PORTS = st.lists(
    st.builds(
        _port,
        st.none() | st.sampled_from(["http", "tcp-1", "tcp-2", "udp-1"]),
        st.integers(1, 3),
        st.sampled_from([None, "TCP", "UDP"]),
    ),
    max_size=6,
)


@given(_PORTS, _PORTS, _PORTS)
def test_ports_of_a_service_are_valid(
    engine: list[dict[str, Any]], sidecar: list[dict[str, Any]], init: list[dict[str, Any]]
) -> None:
    containers = [_CONTAINER | {"ports": engine}, _CONTAINER]
    inits = [_CONTAINER | {"restartPolicy": "Always", "ports": sidecar}, _CONTAINER | {"ports": init}]
    ports = service_ports([{"spec": {"containers": containers, "initContainers": inits}}])
    opened = [(port["containerPort"], port.get("protocol", "TCP")) for port in [*engine, *sidecar]]
    assert [(port["port"], port["protocol"]) for port in ports] == list(dict.fromkeys(opened))
    assert all(port["targetPort"] == port["port"] for port in ports)
    names = [port["name"] for port in ports]
    assert len(set(names)) == len(names)
    assert all(_DNS_1035.fullmatch(name) for name in names)
