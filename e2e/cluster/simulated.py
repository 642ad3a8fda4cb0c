"""Nodes without a kubelet, and the devices that a DRA driver would publish for them."""

from collections.abc import Iterator
from ipaddress import ip_network
from itertools import count
from typing import Any

DRIVER_VERSION = "1.2.3"
GPU_DRIVER = "gpu.example.com"
NIC_DRIVER = "nic.example.com"
PCIE_ROOT = "resource.kubernetes.io/pcieRoot"
"""The attribute by which devices of different drivers can be matched."""

Object = dict[str, Any]

_NODE_NETWORK = ip_network("10.0.0.0/16")


def free_names(prefix: str, nodes: list[Object]) -> Iterator[tuple[str, str]]:
    """Return names and addresses that none of the given nodes has."""
    # A node's name is one of its addresses.
    taken = {address["address"] for node in nodes for address in node["status"]["addresses"]}
    names = (f"{prefix}-{number}" for number in count())
    addresses = (str(address) for address in _NODE_NETWORK.hosts())
    return zip(
        (name for name in names if name not in taken),
        (address for address in addresses if address not in taken),
        strict=False,
    )


def node(name: str, address: str, *, cpu: str, memory: str, pods: int, labels: dict[str, str]) -> Object:
    """Return a node that kwok takes care of.

    Parameters
    ----------
    name, address
        Its name and its IP address.
    cpu, memory, pods
        What it has room for.
    labels
        Labels beside the ones that a kubelet sets.
    """
    room = {"cpu": cpu, "memory": memory, "pods": str(pods), "ephemeral-storage": "1Ti"}
    standard = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": standard | labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {"capacity": room, "allocatable": room, "addresses": addresses},
    }


def device_classes() -> list[Object]:
    """Return a DeviceClass for each driver, of the driver's name."""
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": driver},
            "spec": {"selectors": [{"cel": {"expression": f"device.driver == '{driver}'"}}]},
        }
        for driver in (GPU_DRIVER, NIC_DRIVER)
    ]


def resource_slices(node_name: str, node_uid: str, devices_per_kind: int, generation: int) -> list[Object]:
    """Return the ResourceSlices of a node: a pool of GPUs, and a pool with a NIC on the PCIe root of each.

    Parameters
    ----------
    node_name, node_uid
        The node; the slices go when it goes.
    devices_per_kind
        How many GPUs, and how many NICs.
    generation
        Number of the pool's state; greater than that of any earlier one.
    """
    devices = {
        GPU_DRIVER: [_gpu(node_name, index) for index in range(devices_per_kind)],
        NIC_DRIVER: [_nic(index) for index in range(devices_per_kind)],
    }
    owner = {"apiVersion": "v1", "kind": "Node", "name": node_name, "uid": node_uid}
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": f"{node_name}-{driver}", "ownerReferences": [owner]},
            "spec": {
                "driver": driver,
                "nodeName": node_name,
                "pool": {"name": node_name, "generation": generation, "resourceSliceCount": 1},
                "devices": devices[driver],
            },
        }
        for driver in (GPU_DRIVER, NIC_DRIVER)
    ]


def _gpu(node_name: str, index: int) -> Object:
    return {
        "name": f"gpu-{index}",
        "attributes": {
            "type": {"string": "gpu"},
            "index": {"int": index},
            "uuid": {"string": f"GPU-{node_name}-{index}"},
            "productName": {"string": "Example H100 80GB"},
            "brand": {"string": "Example"},
            "architecture": {"string": "Hopper"},
            "driverVersion": {"version": DRIVER_VERSION},
            PCIE_ROOT: {"string": _pcie_root(index)},
        },
        "capacity": {"memory": {"value": "80Gi"}},
    }


def _nic(index: int) -> Object:
    return {
        "name": f"nic-{index}",
        "attributes": {
            "type": {"string": "nic"},
            "index": {"int": index},
            "rdma": {"bool": True},
            "driverVersion": {"version": DRIVER_VERSION},
            PCIE_ROOT: {"string": _pcie_root(index)},
        },
        "capacity": {"bandwidth": {"value": "400G"}},
    }


def _pcie_root(index: int) -> str:
    return f"pci0000:{index:02x}"
