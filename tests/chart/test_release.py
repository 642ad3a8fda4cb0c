"""A release's life on a real API server: install, test, upgrade, rollback, uninstall, and what each leaves."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from e2e.cluster.base import Cluster
from e2e.cluster.client import ApiError, Object, has_condition
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.wait import wait_for
from tests.chart.charts import CHART, NAMESPACE, RELEASE, ROOT, HelmError, helm, key, render

pytestmark = pytest.mark.cluster

_EXTENSIONS = "apiextensions.k8s.io/v1"
_API = "disaggregatedset.dev/v1alpha1"
_SETS = "disaggregatedsets.disaggregatedset.dev"
_SCALERS = "rolescalers.disaggregatedset.dev"
# What an API server stores of one object, less what Helm's own metadata takes.
_MOST_OF_A_SECRET = 1024 * 1024


class Releases:
    """Releases in a cluster that no other test uses, for their CRDs are deleted."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = cluster.client

    def helm(self, command: str, *arguments: str, **values: object) -> str:
        """Run Helm in the release's namespace."""
        return helm(
            command,
            *arguments,
            f"--namespace={NAMESPACE}",
            values=values if command in {"install", "upgrade"} else None,
            kubeconfig=self.cluster.kubeconfig,
        )

    def install(self, *arguments: str, name: str = RELEASE, chart: Path = CHART, **values: object) -> None:
        self.helm("install", name, str(chart), "--create-namespace", *arguments, **values)

    def upgrade(self, *arguments: str, chart: Path = CHART, **values: object) -> None:
        self.helm("upgrade", RELEASE, str(chart), *arguments, **values)

    def crd(self, name: str) -> Object | None:
        return self.client.find(_EXTENSIONS, "CustomResourceDefinition", name)

    def wait_served(self) -> None:
        for name in (_SETS, _SCALERS):
            self.client.wait(_EXTENSIONS, "CustomResourceDefinition", name, None, has_condition("Established"))
        wait_for("sets to be served", lambda: self.cluster.kubectl("get", "dset", check=False).returncode == 0)

    def apply_set(self) -> Object:
        """Apply a sample, as a user would have before an upgrade."""
        sample = yaml.safe_load((ROOT / "deploy" / "samples" / "compute-only.yaml").read_text())
        sample["metadata"]["namespace"] = "default"
        return self._patiently(lambda: [self.client.apply(sample)])[0]

    def sets(self) -> list[Object]:
        return self._patiently(lambda: self.client.list(_API, "DisaggregatedSet", "default"))

    def _patiently(self, ask: Callable[[], list[Object]]) -> list[Object]:
        """Ask again while the API server prepares the storage of a CRD that has just come or changed."""
        answers: list[list[Object]] = []

        def answered() -> bool:
            try:
                answers.append(ask())
            except ApiError as error:
                if error.status != 429:
                    raise
            return bool(answers)

        wait_for("the CRD's storage", answered)
        return answers[0]

    def left(self, values: Object | None = None) -> set[str]:
        """Return which of the objects that a release consists of exist."""
        return {
            key(obj)
            for obj in render(values, crds=True)
            if self.client.find(
                obj["apiVersion"], obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace")
            )
        }


@pytest.fixture(scope="module")
def own_cluster(cluster_binaries: None) -> Iterator[Cluster]:
    with EmbeddedCluster() as cluster:
        cluster.add_nodes(2)
        yield cluster


@pytest.fixture
def releases(own_cluster: Cluster) -> Iterator[Releases]:
    yield Releases(own_cluster)
    for name in helm("list", "--short", f"--namespace={NAMESPACE}", kubeconfig=own_cluster.kubeconfig).split():
        helm("uninstall", name, f"--namespace={NAMESPACE}", kubeconfig=own_cluster.kubeconfig)
    for crd in (_SETS, _SCALERS):
        if own_cluster.client.find(_EXTENSIONS, "CustomResourceDefinition", crd):
            own_cluster.client.delete(_EXTENSIONS, "CustomResourceDefinition", crd)
            own_cluster.client.wait_gone(_EXTENSIONS, "CustomResourceDefinition", crd)


def _without_hooks(objects: list[Object]) -> set[str]:
    return {key(obj) for obj in objects if "helm.sh/hook" not in (obj["metadata"].get("annotations") or {})}


def test_install_test_and_uninstall(releases: Releases) -> None:
    releases.install("--wait", "--timeout=2m")
    releases.wait_served()
    assert releases.left() == _without_hooks(render(crds=True))
    deployment = releases.client.get("apps/v1", "Deployment", RELEASE, NAMESPACE)
    assert deployment["status"]["readyReplicas"] == 2
    assert "Succeeded" in releases.helm("test", RELEASE)
    # Nothing of the test is left.
    assert releases.client.list("batch/v1", "Job", NAMESPACE) == []

    (secret,) = releases.client.list("v1", "Secret", NAMESPACE, labels="owner=helm")
    size = len(secret["data"]["release"])
    assert size < _MOST_OF_A_SECRET / 2, f"a release takes {size:,} bytes"

    existing = releases.apply_set()
    releases.helm("uninstall", RELEASE, "--wait")
    assert releases.left() == {f"CustomResourceDefinition/{name}" for name in (_SETS, _SCALERS)}
    assert [obj["metadata"]["uid"] for obj in releases.sets()] == [existing["metadata"]["uid"]]

    # A later release of the same name takes the CRDs over again, and finds the sets.
    releases.install()
    assert [obj["metadata"]["uid"] for obj in releases.sets()] == [existing["metadata"]["uid"]]


def test_people_get_their_rights_by_kubernetes_own_roles(releases: Releases) -> None:
    releases.install()
    releases.wait_served()
    cluster = releases.cluster
    for role in ("view", "edit", "admin"):
        cluster.kubectl("create", "serviceaccount", role, "--namespace=default")
        arguments = (f"--clusterrole={role}", f"--serviceaccount=default:{role}", "--namespace=default")
        cluster.kubectl("create", "rolebinding", f"test-{role}", *arguments)

    def can(role: str, verb: str, resource: str, subresource: str = "") -> bool:
        user, part = f"--as=system:serviceaccount:default:{role}", f"--subresource={subresource}"
        asked = cluster.kubectl("auth", "can-i", verb, resource, part, "--namespace=default", user, check=False)
        return asked.stdout.strip() == "yes"

    wait_for("rights to be aggregated", lambda: can("admin", "delete", _SCALERS))
    rights = {
        role: {
            "read": can(role, "get", _SETS) and can(role, "list", _SCALERS) and can(role, "watch", _SETS),
            "write sets": can(role, "create", _SETS) and can(role, "patch", _SETS) and can(role, "delete", _SETS),
            "scale": can(role, "patch", _SCALERS, "scale"),
            "write scalers": can(role, "update", _SCALERS),
            "write status": can(role, "patch", _SETS, "status"),
        }
        for role in ("view", "edit", "admin")
    }
    everything = {"read": True, "write sets": True, "scale": True, "write scalers": True, "write status": False}
    assert rights == {
        "view": dict.fromkeys(everything, False) | {"read": True},
        "edit": everything | {"write scalers": False},
        "admin": everything,
    }


def _previous(directory: Path) -> Path:
    """Make a chart of an earlier version, whose CRD has another column and whose Deployment another image."""
    chart = directory / CHART.name
    shutil.copytree(CHART, chart)
    text = (chart / "Chart.yaml").read_text()
    (chart / "Chart.yaml").write_text(re.sub(r"(?m)^(version|appVersion): .*$", r"\1: 0.0.1", text))
    path = chart / "templates" / "crds" / f"{_SETS.partition('.')[2]}_disaggregatedsets.yaml"
    crd = path.read_text()
    assert "name: Rollout" in crd
    path.write_text(crd.replace("name: Rollout", "name: Rolling"))
    return chart


def _columns(crd: Object | None) -> list[str]:
    assert crd is not None
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


def _image(releases: Releases) -> str:
    deployment = releases.client.get("apps/v1", "Deployment", RELEASE, NAMESPACE)
    image: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


def test_upgrade_and_rollback_bring_the_crds_along_and_touch_no_set(releases: Releases, tmp_path: Path) -> None:
    releases.install(chart=_previous(tmp_path))
    releases.wait_served()
    before = releases.apply_set()
    assert "Rollout" not in _columns(releases.crd(_SETS))
    old = _image(releases)

    releases.upgrade(replicas=3)
    assert "Rollout" in _columns(releases.crd(_SETS))
    assert _image(releases) != old
    assert releases.client.get("apps/v1", "Deployment", RELEASE, NAMESPACE)["spec"]["replicas"] == 3
    assert releases.sets() == [before]

    releases.helm("rollback", RELEASE)
    assert "Rollout" not in _columns(releases.crd(_SETS))
    assert _image(releases) == old
    assert releases.client.get("apps/v1", "Deployment", RELEASE, NAMESPACE)["spec"]["replicas"] == 2
    assert releases.sets() == [before]


def test_crds_that_are_there_already_are_taken_over_only_on_request(releases: Releases) -> None:
    releases.cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    releases.wait_served()
    existing = releases.apply_set()
    with pytest.raises(HelmError, match="exists and cannot be imported into the current release"):
        releases.install()
    releases.install("--take-ownership")
    assert [obj["metadata"]["uid"] for obj in releases.sets()] == [existing["metadata"]["uid"]]


def test_without_keep_an_uninstall_takes_crds_and_sets_along(releases: Releases) -> None:
    releases.install()
    releases.wait_served()
    releases.apply_set()
    # keep is an annotation: it counts as it is when the uninstall comes.
    releases.upgrade(crds={"keep": False})
    releases.helm("uninstall", RELEASE)
    for name in (_SETS, _SCALERS):
        releases.client.wait_gone(_EXTENSIONS, "CustomResourceDefinition", name)
    assert releases.left() == set()


def test_a_wrong_value_is_refused_before_anything_changes(releases: Releases) -> None:
    with pytest.raises(HelmError, match="additional properties 'replica' not allowed"):
        releases.install(replica=3)
    assert releases.left() == set()
    assert releases.helm("list", "--all", "--short") == ""


def test_namespaces_are_watched_by_roles_in_them(releases: Releases) -> None:
    for name in ("team-a", "team-b"):
        releases.client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    values: Object = {"watch": {"namespaces": ["team-a", "team-b"]}}
    releases.install(**values)
    user = f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}"

    def can(verb: str, resource: str, namespace: str) -> bool:
        asked = releases.cluster.kubectl("auth", "can-i", verb, resource, f"--namespace={namespace}", user, check=False)
        return asked.stdout.strip() == "yes"

    assert can("create", "deployments.apps", "team-a")
    assert can("create", "deployments.apps", "team-b")
    assert not can("create", "deployments.apps", "default")
    assert not can("get", "secrets", "team-a")
    assert can("update", "leases.coordination.k8s.io/disaggregatedset", NAMESPACE)
    assert not can("update", "leases.coordination.k8s.io/other", NAMESPACE)
    assert not can("create", "leases.coordination.k8s.io", "team-a")
    releases.upgrade(watch={"namespaces": ["team-b"]})
    assert not can("create", "deployments.apps", "team-a")
    assert can("create", "deployments.apps", "team-b")
