"""An operator that may look after some namespaces only, with the permissions that this takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.wait import wait_for
from e2e.operator import Operator, install_crds
from tests.integration.sets import Sets, spec

ACCOUNT = "system:serviceaccount:system:operator"
RULES = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: operator-everywhere}
rules:
- {apiGroups: [resource.k8s.io], resources: [deviceclasses], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: operator-everywhere}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: operator-everywhere}
subjects: [{kind: ServiceAccount, name: operator, namespace: system}]
"""
BINDING = """
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: operator, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: operator, namespace: system}]
"""


@pytest.fixture
def audited(cluster_binaries: None, tmp_path: Path) -> Iterator[Cluster]:
    with EmbeddedCluster(audit_log=tmp_path / "audit.log") as cluster:
        cluster.add_nodes(1)
        install_crds(cluster)
        yield cluster


def _namespace(cluster: Cluster, name: str) -> None:
    cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.client.wait("v1", "ServiceAccount", "default", name, bool)


def _refused(audit_log: Path) -> list[str]:
    lines = [json.loads(line) for line in audit_log.read_text().splitlines() if ACCOUNT in line]
    return sorted({f"{e['verb']} {e['requestURI']}" for e in lines if e["responseStatus"]["code"] == 403})


def test_sets_of_some_namespaces_with_permissions_there(audited: Cluster, tmp_path: Path) -> None:
    for name in ("system", "one", "two", "other"):
        _namespace(audited, name)
    audited.apply(RULES)
    for name in ("one", "two"):
        audited.apply(BINDING.replace("NAMESPACE", name))
    config = audited.service_account_kubeconfig("system", "operator")
    with Operator(config, tmp_path / "operator.log", ["--namespaces=one,two"]):
        sets = {name: Sets(audited, name) for name in ("one", "two", "other")}
        for of in sets.values():
            of.apply("a", spec())
        for name in ("one", "two"):
            sets[name].wait_available("a")
        # Nobody has looked at this one, although it was there before another change was seen.
        sets["one"].apply("b", spec())
        sets["one"].wait_available("b")
        assert "status" not in sets["other"].get("a")
        child = audited.client.list("apps/v1", "Deployment", "two")[0]["metadata"]["name"]
        audited.client.delete("apps/v1", "Deployment", child, "two")
        wait_for("it to be made anew", lambda: audited.client.find("apps/v1", "Deployment", child, "two"))
    assert audited.audit_log is not None
    assert _refused(audited.audit_log) == []
