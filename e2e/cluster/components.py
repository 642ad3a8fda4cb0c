"""The command lines of a cluster's components, and the files that they read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import kubeconfig, pki
from e2e.cluster.kwok_stages import all_stages
from e2e.cluster.model import API_SERVER, AUTHORITY, Layout, Options
from e2e.cluster.ports import LOOPBACK

PORTS = ("etcd", "etcd-peer", "etcd-health", API_SERVER, "kube-controller-manager", "kube-scheduler", "kwok")
"""What listens on a port."""

_SERVICE_CIDR = "10.96.0.0/16"
_POD_CIDR = "10.128.0.1/9"
_ISSUER = "https://kubernetes.default.svc.cluster.local"
_UNLIMITED = {"qps": 5000, "burst": 10000}
_SCHEDULER_DEFAULT = {"qps": 50, "burst": 100}

# Features that depend on DRA and are on by default in 1.34.
_DRA_FEATURES = ("DynamicResourceAllocation", "DRAAdminAccess", "DRAPrioritizedList", "DRASchedulerFilterTimeout")


@dataclass(frozen=True)
class Process:
    """A component as the supervisor starts it.

    Attributes
    ----------
    name
        Its name, which is also that of its executable.
    arguments
        Its command line without the executable.
    health
        A URL that answers 200 while it is healthy.
    """

    name: str
    arguments: tuple[str, ...]
    health: str


class Files:
    """All files that a cluster's components read, written when this is created.

    Parameters
    ----------
    layout
        Where to.
    ports
        What listens where.
    options
        How the cluster is set up.
    """

    def __init__(self, layout: Layout, ports: Mapping[str, int], options: Options) -> None:
        for directory in (layout.pki, layout.config, layout.kubeconfigs, layout.logs):
            directory.mkdir(exist_ok=True)
        self.layout = layout
        self.server = _url(ports[API_SERVER])
        ca = pki.Authority(layout.pki, AUTHORITY)
        front_proxy = pki.Authority(layout.pki, "front-proxy-ca")
        etcd = pki.Authority(layout.pki, "etcd-ca")
        self.ca, self.front_proxy_ca, self.etcd_ca = ca.pair, front_proxy.pair, etcd.pair
        self.etcd = etcd.issue("etcd", "etcd")
        self.etcd_client = etcd.issue("etcd-client", "kube-apiserver")
        self.front_proxy = front_proxy.issue("front-proxy", "front-proxy-client")
        self.serving = ca.issue("serving", "kube-apiserver")
        self.service_accounts = pki.write_key(layout.pki / "service-accounts.key")

        self._write_kubeconfig(layout.kubeconfig, ca.issue("admin", "kubernetes-admin", "system:masters"), layout)
        for component in ("kube-controller-manager", "kube-scheduler"):
            self._write_kubeconfig(self.kubeconfig(component), ca.issue(component, f"system:{component}"), layout)
        # There is no kubelet whose identity kwok could have: it acts for all nodes.
        self._write_kubeconfig(self.kubeconfig("kwok"), ca.issue("kwok", "kwok", "system:masters"), layout)

        self.audit_policy = self._write_yaml("audit-policy", audit_policy())
        scheduler = scheduler_config(self.kubeconfig("kube-scheduler"), options)
        self.scheduler_config = self._write_yaml("kube-scheduler", scheduler)
        self.kwok_config = layout.config / "kwok.yaml"
        self.kwok_config.write_text(kwok_config())

    def kubeconfig(self, component: str) -> Path:
        """Return the kubeconfig of a component."""
        return self.layout.kubeconfigs / f"{component}.yaml"

    def _write_kubeconfig(self, path: Path, pair: pki.KeyPair, layout: Layout) -> None:
        access = kubeconfig.with_certificate(self.server, self.ca.certificate, pair)
        kubeconfig.write(path, access, name=layout.root.name)

    def _write_yaml(self, name: str, document: dict[str, Any]) -> Path:
        path = self.layout.config / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path


def audit_policy() -> dict[str, Any]:
    """Return a policy that logs each request once, when it is answered, without bodies."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }


def scheduler_config(config: Path, options: Options) -> dict[str, Any]:
    """Return the scheduler's configuration."""
    limits = _SCHEDULER_DEFAULT if options.stock_client_limits else _UNLIMITED
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(config), **limits},
        "leaderElection": {"leaderElect": False},
    }


def kwok_config() -> str:
    """Return kwok's configuration: its options, and the stages that nodes and pods go through."""
    options = {
        "cidr": _POD_CIDR,
        "manageAllNodes": True,
        "nodeLeaseDurationSeconds": 40,
        # Each worker waits for the API server most of the time, so that there may be more of them than cores.
        "podPlayStageParallelism": 8,
    }
    config = {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}
    return f"{yaml.safe_dump(config)}---\n{all_stages()}"


def processes(files: Files, ports: Mapping[str, int], options: Options) -> list[Process]:
    """Return what to start, in this order."""
    return [
        _etcd(files, ports),
        _api_server(files, ports, options),
        _controller_manager(files, ports, options),
        _scheduler(files, ports, options),
        _kwok(files, ports),
    ]


def _etcd(files: Files, ports: Mapping[str, int]) -> Process:
    client, peer = _url(ports["etcd"]), _url(ports["etcd-peer"])
    health = f"http://{LOOPBACK}:{ports['etcd-health']}"
    flags = {
        "name": "etcd",
        "data-dir": files.layout.etcd,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "listen-metrics-urls": health,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"etcd={peer}",
        "client-cert-auth": "true",
        "trusted-ca-file": files.etcd_ca.certificate,
        "cert-file": files.etcd.certificate,
        "key-file": files.etcd.key,
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": files.etcd_ca.certificate,
        "peer-cert-file": files.etcd.certificate,
        "peer-key-file": files.etcd.key,
        # Nothing outlives the cluster, so that nothing needs to survive a power failure.
        "unsafe-no-fsync": "true",
    }
    return Process("etcd", _flags(flags), f"{health}/health")


def _api_server(files: Files, ports: Mapping[str, int], options: Options) -> Process:
    flags = {
        "bind-address": LOOPBACK,
        "advertise-address": LOOPBACK,
        # Endpoints may not have loopback addresses, so that the Service `kubernetes` can't have any.
        "endpoint-reconciler-type": "none",
        "secure-port": ports[API_SERVER],
        "tls-cert-file": files.serving.certificate,
        "tls-private-key-file": files.serving.key,
        "client-ca-file": files.ca.certificate,
        "etcd-servers": _url(ports["etcd"]),
        "etcd-cafile": files.etcd_ca.certificate,
        "etcd-certfile": files.etcd_client.certificate,
        "etcd-keyfile": files.etcd_client.key,
        "service-cluster-ip-range": _SERVICE_CIDR,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "service-account-issuer": _ISSUER,
        "service-account-key-file": files.service_accounts,
        "service-account-signing-key-file": files.service_accounts,
        "requestheader-client-ca-file": files.front_proxy_ca.certificate,
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": files.front_proxy.certificate,
        "proxy-client-key-file": files.front_proxy.key,
        **_dra_flags(options),
    }
    if options.audit_log:
        flags |= {
            "audit-policy-file": files.audit_policy,
            "audit-log-path": options.audit_log,
            # One file, whatever its size (in megabytes): whoever counts requests wants all of them.
            "audit-log-maxsize": 1_000_000,
        }
    if not options.dra:
        flags["runtime-config"] = "resource.k8s.io/v1=false"
    return Process(API_SERVER, _flags(flags), f"{files.server}/readyz")


def _controller_manager(files: Files, ports: Mapping[str, int], options: Options) -> Process:
    name = "kube-controller-manager"
    config = files.kubeconfig(name)
    flags = {
        "kubeconfig": config,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "bind-address": LOOPBACK,
        "secure-port": ports[name],
        "tls-cert-file": files.serving.certificate,
        "tls-private-key-file": files.serving.key,
        "client-ca-file": files.ca.certificate,
        "root-ca-file": files.ca.certificate,
        "cluster-signing-cert-file": files.ca.certificate,
        "cluster-signing-key-file": files.ca.key,
        "service-account-private-key-file": files.service_accounts,
        "use-service-account-credentials": "true",
        # Alone it needs no election, and a lost one would end it when the API server stops for a while.
        "leader-elect": "false",
        # It is also how long an autoscaler takes to see a new value, and a test would wait for that: by default 15 s.
        "horizontal-pod-autoscaler-sync-period": "1s",
        **_dra_flags(options),
    }
    if not options.stock_client_limits:
        flags |= {"kube-api-qps": _UNLIMITED["qps"], "kube-api-burst": _UNLIMITED["burst"]}
    return Process(name, _flags(flags), f"{_url(ports[name])}/healthz")


def _scheduler(files: Files, ports: Mapping[str, int], options: Options) -> Process:
    name = "kube-scheduler"
    flags = {
        "config": files.scheduler_config,
        "authentication-kubeconfig": files.kubeconfig(name),
        "authorization-kubeconfig": files.kubeconfig(name),
        "bind-address": LOOPBACK,
        "secure-port": ports[name],
        "tls-cert-file": files.serving.certificate,
        "tls-private-key-file": files.serving.key,
        **_dra_flags(options),
    }
    return Process(name, _flags(flags), f"{_url(ports[name])}/healthz")


def _kwok(files: Files, ports: Mapping[str, int]) -> Process:
    address = f"{LOOPBACK}:{ports['kwok']}"
    flags = {
        "kubeconfig": files.kubeconfig("kwok"),
        "config": files.kwok_config,
        "server-address": address,
        # Otherwise it logs each write.
        "v": "WARN",
    }
    return Process("kwok", _flags(flags), f"http://{address}/healthz")


def _dra_flags(options: Options) -> dict[str, str]:
    """Return what turns DRA off: its feature gate is locked since Kubernetes 1.35, which can still act as 1.34."""
    if options.dra:
        return {}
    return {"emulated-version": "1.34", "feature-gates": ",".join(f"{feature}=false" for feature in _DRA_FEATURES)}


def _flags(flags: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"--{name}={value}" for name, value in flags.items())


def _url(port: int) -> str:
    return f"https://{LOOPBACK}:{port}"
