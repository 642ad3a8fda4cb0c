import subprocess

import pytest

from e2e.cluster import ApiError, Client, Cluster, ClusterError, binaries, wait_for
from tests.cluster.manifests import deployment, has_ready, is_ready, pod

pytestmark = pytest.mark.cluster


def test_kubectl_works(cluster: Cluster) -> None:
    nodes = cluster.kubectl("get", "nodes", "--output=name").stdout.split()
    assert {"node/node-0", "node/node-1", "node/node-2"} <= set(nodes)


def test_kubectl_tells_why_it_failed(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r'kubectl get pod nobody: .*pods "nobody" not found'):
        cluster.kubectl("get", "pod", "nobody")
    assert cluster.kubectl("get", "pod", "nobody", check=False).returncode == 1


def test_admin_kubeconfig_works_by_itself(cluster: Cluster) -> None:
    command = [binaries.kubectl(), f"--kubeconfig={cluster.kubeconfig}", "auth", "can-i", "*", "*", "--all-namespaces"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "yes"


def test_apply_takes_yaml_and_objects(cluster: Cluster, namespace: str) -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "namespace": namespace}}
    second = (
        f"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: two, namespace: {namespace}}}\ndata: {{key: value}}\n"
    )
    cluster.apply([config_map])
    assert cluster.apply(second)[0]["data"] == {"key": "value"}
    names = {each["metadata"]["name"] for each in cluster.client.list("v1", "ConfigMap", namespace)}
    assert {"one", "two"} <= names


def test_rbac_denies_a_fresh_service_account_and_allows_what_it_is_granted(cluster: Cluster, namespace: str) -> None:
    client = Client(cluster.service_account_kubeconfig(namespace, "default"))

    def may_list() -> bool:
        try:
            return client.list("v1", "Pod", namespace) == []
        except ApiError as error:
            if error.status != 403:
                raise
            return False

    try:
        with pytest.raises(ApiError, match=r"system:serviceaccount:.*cannot list resource") as denied:
            client.list("v1", "Pod", namespace)
        assert denied.value.status == 403
        cluster.kubectl(
            "create",
            "rolebinding",
            "view",
            "--clusterrole=view",
            f"--serviceaccount={namespace}:default",
            "-n",
            namespace,
        )
        # The API server learns of a binding as everybody does, a moment later.
        wait_for("the binding to take effect", may_list)
    finally:
        client.close()


def test_a_deployment_becomes_ready(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("web", namespace, 5))
    cluster.client.wait("apps/v1", "Deployment", "web", namespace, has_ready(5))
    pods = cluster.client.list("v1", "Pod", namespace, labels="app=web")
    addresses = {each["status"]["podIP"] for each in pods}
    assert len(addresses) == 5


def test_init_containers_complete_and_sidecars_keep_running(cluster: Cluster, namespace: str) -> None:
    init = {"name": "init", "image": "init:v1"}
    sidecar = {"name": "sidecar", "image": "sidecar:v1", "restartPolicy": "Always"}
    cluster.apply(pod("initialized", namespace, initContainers=[init, sidecar]))
    ready = cluster.client.wait("v1", "Pod", "initialized", namespace, is_ready)
    completed, running = ready["status"]["initContainerStatuses"]
    assert completed["state"]["terminated"]["reason"] == "Completed"
    assert running["started"]
    assert "running" in running["state"]


def test_a_job_completes(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "job", "once", "--image=job:v1", "-n", namespace)
    cluster.client.wait("batch/v1", "Job", "once", namespace, lambda job: job.get("status", {}).get("succeeded") == 1)


def test_a_node_comes_and_goes_with_its_pods_and_devices(cluster: Cluster, namespace: str) -> None:
    [node] = cluster.add_nodes(1, devices=1, labels={"role": "spare"}, prefix="spare")
    cluster.apply(pod("on-spare", namespace, nodeSelector={"role": "spare"}))
    cluster.client.wait("v1", "Pod", "on-spare", namespace, is_ready)
    cluster.remove_node(node)
    assert cluster.client.find("v1", "Pod", "on-spare", namespace) is None
    slices = cluster.client.list("resource.k8s.io/v1", "ResourceSlice")
    assert node not in {each["spec"]["nodeName"] for each in slices}
