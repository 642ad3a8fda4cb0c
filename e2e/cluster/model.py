"""What the processes that share a cluster tell each other about it."""

import datetime as dt
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from e2e.cluster.cache import clusters_directory, write_whole

API_SERVER = "kube-apiserver"
AUTHORITY = "kubernetes-ca"


class Options(BaseModel):
    """How a cluster is set up.

    Attributes
    ----------
    kubernetes
        Its version, such as ``1.35.4``.
    audit_log
        A file that gets one line of JSON per request (who, verb, resource, no bodies), or None.
    dra
        Whether it serves ``resource.k8s.io``. Without it, the components emulate Kubernetes 1.34, the last version in
        which this can be turned off.
    stock_client_limits
        Whether controller manager and scheduler keep their default limits on requests per second. By default these
        are lifted, as otherwise they are what a benchmark measures.
    """

    model_config = ConfigDict(frozen=True)

    kubernetes: str
    audit_log: Path | None = None
    dra: bool = True
    stock_client_limits: bool = False


class Spec(BaseModel):
    """The order to a supervisor.

    Attributes
    ----------
    name
        The cluster's name, unique on this machine.
    owned
        Whether it ends together with the process that holds the supervisor's standard input.
    options
        How to set it up.
    binaries
        The executables by name.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    owned: bool
    options: Options
    binaries: dict[str, Path]


class State(BaseModel):
    """What a supervisor tells about its cluster.

    Attributes
    ----------
    phase
        ``failed`` is final: nothing runs any more, and `error` says why.
    supervisor
        Process ID of the supervisor.
    pids
        Process IDs of the components that run, by name.
    health
        URLs that answer 200 while a component is healthy, by name.
    """

    phase: Literal["starting", "running", "failed"]
    name: str
    supervisor: int
    owned: bool
    started: dt.datetime
    options: Options
    pids: dict[str, int] = {}
    health: dict[str, str] = {}
    server: str = ""
    error: str = ""


class Layout:
    """The files of a cluster.

    Parameters
    ----------
    name
        The cluster's name.
    """

    def __init__(self, name: str) -> None:
        self.root = clusters_directory() / name
        self.lock = self.root / "lock"
        self.kubeconfig = self.root / "kubeconfig"
        self.state = self.root / "state.json"
        self.pki = self.root / "pki"
        self.authority = self.pki / f"{AUTHORITY}.crt"
        self.etcd = self.root / "etcd"
        self.logs = self.root / "logs"
        self.config = self.root / "config"
        self.kubeconfigs = self.root / "kubeconfigs"

    def log(self, component: str) -> Path:
        """Return the log of a component."""
        return self.logs / f"{component}.log"

    def read_state(self) -> State | None:
        """Return what the supervisor last told, or None if there is no such cluster."""
        try:
            return State.model_validate_json(self.state.read_text())
        except FileNotFoundError:
            return None

    def write_state(self, state: State) -> None:
        """Tell everybody about a new state."""
        write_whole(self.state, state.model_dump_json(indent=2))
