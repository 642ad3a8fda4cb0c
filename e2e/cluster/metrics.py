"""Stands in for a metrics adapter, so that autoscalers really scale, by values that a test sets."""

import asyncio
import datetime as dt
import ssl
import tempfile
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from e2e.cluster import pki
from e2e.cluster.base import Cluster
from e2e.cluster.client import Object, has_condition
from e2e.cluster.ports import LOOPBACK
from e2e.cluster.wait import wait_for

Quantity = float | str
"""A number, or a quantity such as ``250m`` or ``1Gi``."""

PodValue = Quantity | Callable[[Object], Quantity | None]
"""What each pod has, or a function that returns it for a pod; None is for a pod without."""

_EXTERNAL = "external.metrics.k8s.io/v1beta1"
_CUSTOM = "custom.metrics.k8s.io/v1beta2"
_RESOURCE = "metrics.k8s.io/v1beta1"
# Which metrics there are isn't known before somebody asks, but some clients fail at a group without resources.
_DISCOVERY: Mapping[str, Object] = {
    _EXTERNAL: {"name": "externalmetrics", "singularName": "", "kind": "ExternalMetricValueList"},
    _CUSTOM: {"name": "pods/metrics", "singularName": "", "kind": "MetricValueList"},
    _RESOURCE: {"name": "pods", "singularName": "pod", "kind": "PodMetrics"},
}
_SERVICE = {"name": "metrics-adapter", "namespace": "kube-system"}
_REGISTRATION = "apiregistration.k8s.io/v1"

_Answer = Callable[[str, str, str], Object | None]


class Metrics:
    """A metrics adapter that serves what a test tells it, through the cluster's API server.

    As a context manager it starts and stops, and must stop before the cluster. Each value belongs to a namespace, so
    that tests with namespaces of their own can share an adapter.

    Parameters
    ----------
    cluster
        The cluster, whose API server has to be on this machine.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._external: dict[tuple[str, str], dict[frozenset[tuple[str, str]], Quantity | None]] = {}
        self._pods: dict[tuple[str, str], PodValue | None] = {}
        self._usage: dict[tuple[str, str], PodValue | None] = {}
        self._ending = ExitStack()

    def set(self, namespace: str, metric: str, value: Quantity | None, labels: Mapping[str, str] | None = None) -> None:
        """Set an External metric.

        Parameters
        ----------
        namespace
            The autoscaler's.
        metric
            Its name.
        value
            Its value; None removes it.
        labels
            By these, a metric can have several values. An autoscaler goes by the sum of those that have the
            ``matchLabels`` of its selector; other selectors aren't supported.
        """
        known = self._external.get((namespace, metric), {})
        self._external[namespace, metric] = {**known, frozenset((labels or {}).items()): value}

    def set_pods(self, namespace: str, metric: str, value: PodValue | None) -> None:
        """Set a Pods metric for all running pods of a namespace; None removes it."""
        self._pods[namespace, metric] = value

    def set_usage(self, namespace: str, resource: str, value: PodValue | None) -> None:
        """Set a Resource metric, ``cpu`` or ``memory``, for all running pods of a namespace; None removes it.

        The value is what each container uses, so that a utilization doesn't depend on how many there are.
        """
        self._usage[namespace, resource] = value

    def __enter__(self) -> Self:
        with ExitStack() as ending:
            port = self._serve(ending)
            ending.callback(self._unregister)
            self._register(port)
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.close()

    def _register(self, port: int) -> None:
        # Without kube-proxy no Service has an address that works; of this type, the API server looks up the name.
        spec: Object = {"type": "ExternalName", "externalName": "localhost"}
        self._cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": _SERVICE, "spec": spec})
        for api in _DISCOVERY:
            group, version = api.split("/")
            spec = {
                "group": group,
                "version": version,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {**_SERVICE, "port": port},
                "insecureSkipTLSVerify": True,
            }
            metadata = {"name": f"{version}.{group}"}
            self._cluster.apply({"apiVersion": _REGISTRATION, "kind": "APIService", "metadata": metadata, "spec": spec})
            self._cluster.client.wait(_REGISTRATION, "APIService", metadata["name"], None, has_condition("Available"))

    def _unregister(self) -> None:
        client = self._cluster.client
        for api in _DISCOVERY:
            group, version = api.split("/")
            client.delete(_REGISTRATION, "APIService", f"{version}.{group}")
        client.delete("v1", "Service", _SERVICE["name"], _SERVICE["namespace"])
        # While a group is listed that nobody serves, no namespace can be deleted.
        wait_for("the metrics APIs to go", lambda: not self._listed())

    def _listed(self) -> list[str]:
        groups = self._cluster.client.request("GET", "/apis")["groups"]
        return [group["name"] for group in groups if group["preferredVersion"]["groupVersion"] in _DISCOVERY]

    def _serve(self, ending: ExitStack) -> int:
        loop = asyncio.new_event_loop()
        ending.callback(loop.close)
        thread = threading.Thread(target=loop.run_forever, name="metrics", daemon=True)
        thread.start()
        ending.callback(thread.join)
        ending.callback(loop.call_soon_threadsafe, loop.stop)

        def run(work: Coroutine[Any, Any, None]) -> None:
            asyncio.run_coroutine_threadsafe(work, loop).result()

        ending.callback(lambda: run(loop.shutdown_default_executor()))
        runner = web.AppRunner(self._application(), access_log=None)
        ending.callback(lambda: run(runner.cleanup()))
        run(runner.setup())
        run(web.TCPSite(runner, LOOPBACK, 0, ssl_context=_ssl_context()).start())
        port: int = runner.addresses[0][1]
        return port

    def _application(self) -> web.Application:
        application = web.Application()
        for api, resource in _DISCOVERY.items():
            application.router.add_get(f"/apis/{api}", _discovery(api, resource))
        for path, answer in (
            (f"{_EXTERNAL}/namespaces/{{namespace}}/{{metric}}", self._external_values),
            (f"{_CUSTOM}/namespaces/{{namespace}}/pods/*/{{metric}}", self._pod_values),
            (f"{_RESOURCE}/namespaces/{{namespace}}/{{metric:pods}}", self._usages),
        ):
            application.router.add_get(f"/apis/{path}", _handler(answer))
        return application

    def _external_values(self, namespace: str, metric: str, selector: str) -> Object | None:
        wanted = dict(part.split("=") for part in selector.split(",") if part).items()
        items = [
            {"metricName": metric, "metricLabels": dict(labels), "timestamp": _now(), "value": _quantity(value)}
            for labels, value in self._external.get((namespace, metric), {}).items()
            if value is not None and wanted <= labels
        ]
        return _list(_EXTERNAL, "ExternalMetricValueList", items) if items else None

    def _pod_values(self, namespace: str, metric: str, selector: str) -> Object | None:
        value = self._pods.get((namespace, metric))
        if value is None:
            return None
        items = []
        for pod in self._running_pods(namespace, selector):
            if quantity := _of_pod(value, pod):
                described = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod["metadata"]["name"]}
                metadata = {"describedObject": described, "metric": {"name": metric}, "timestamp": _now()}
                items.append({**metadata, "value": quantity})
        return _list(_CUSTOM, "MetricValueList", items)

    def _usages(self, namespace: str, _resource: str, selector: str) -> Object:
        values = {resource: value for (each, resource), value in self._usage.items() if each == namespace}
        items = []
        for pod in self._running_pods(namespace, selector):
            known = {resource: _of_pod(value, pod) for resource, value in values.items()}
            usage = {resource: quantity for resource, quantity in known.items() if quantity}
            containers = [{"name": name, "usage": usage} for name in _running_containers(pod)]
            metadata = {"name": pod["metadata"]["name"], "namespace": namespace}
            # The CPU usage of a pod counts once it was ready for a window.
            items.append({"metadata": metadata, "timestamp": _now(), "window": "0s", "containers": containers})
        return _list(_RESOURCE, "PodMetricsList", items)

    def _running_pods(self, namespace: str, selector: str) -> list[Object]:
        pods = self._cluster.client.list("v1", "Pod", namespace, labels=selector)
        return [pod for pod in pods if pod["status"].get("phase") == "Running"]


def _running_containers(pod: Object) -> list[str]:
    sidecars = [each for each in pod["spec"].get("initContainers", []) if each.get("restartPolicy") == "Always"]
    return [container["name"] for container in (*sidecars, *pod["spec"]["containers"])]


def _of_pod(value: PodValue | None, pod: Object) -> str | None:
    found = value(pod) if callable(value) else value
    return None if found is None else _quantity(found)


def _quantity(value: Quantity) -> str:
    return value if isinstance(value, str) else f"{round(value * 1000)}m"


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _list(api: str, kind: str, items: list[Object]) -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {}, "items": items}


def _discovery(api: str, resource: Object) -> Callable[[web.Request], Awaitable[web.Response]]:
    resources = [{"namespaced": True, "verbs": ["get", "list"], **resource}]
    document = {"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": api, "resources": resources}

    async def handle(_request: web.Request) -> web.Response:
        return web.json_response(document)

    return handle


def _handler(answer: _Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        namespace, metric = request.match_info["namespace"], request.match_info["metric"]
        # In a thread, as an answer may need to ask the API server.
        found = await asyncio.to_thread(answer, namespace, metric, request.query.get("labelSelector", ""))
        if found is not None:
            return web.json_response(found)
        message = f"no metric {metric} is set in namespace {namespace}"
        status = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
        return web.json_response({**status, "message": message}, status=404)

    return handle


def _ssl_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as directory:
        pair = pki.Authority(Path(directory), "metrics-ca").issue("metrics", "metrics")
        context.load_cert_chain(pair.certificate, pair.key)
    return context
