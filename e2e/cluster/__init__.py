"""Kubernetes clusters for tests, the demo and the benchmark."""

from e2e.cluster.base import Cluster
from e2e.cluster.behaviours import behave
from e2e.cluster.client import ApiError, Client, Object
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.wait import wait_for

__all__ = ["ApiError", "Client", "Cluster", "ClusterError", "EmbeddedCluster", "Object", "behave", "wait_for"]
