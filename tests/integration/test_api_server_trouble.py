"""The API server makes trouble, or is not there: the operator goes on as the process that it is, and converges."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.cluster.base import Cluster
from e2e.cluster.client import ApiError
from e2e.cluster.embedded import EmbeddedCluster
from e2e.cluster.wait import wait_for
from e2e.faults import STRIKES, Fault, Faults
from e2e.operator import Operator, install_crds
from tests.integration.rolling import NAME, engines, recorded, role, start, wait_rolled
from tests.integration.sets import PATIENCE, Sets

#: Where kopf watches, beside the kinds of sets: CRDs.
WATCHES = 11
#: An outage says what there is to say in so many lines, however many requests fail.
FEW_LINES = 30


@pytest.fixture(scope="module")
def own(cluster_binaries: None) -> Iterator[Cluster]:
    """A cluster of its own: on the shared one, another operator writes, and the API server is everybody's."""
    with EmbeddedCluster() as cluster:
        cluster.add_nodes(2)
        install_crds(cluster)
        yield cluster


@pytest.fixture(scope="module")
def proxy(own: Cluster) -> Iterator[Faults]:
    with Faults(own) as faults:
        yield faults


@pytest.fixture(scope="module")
def survivor(proxy: Faults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator behind the proxy: one process for all tests."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    with Operator(proxy.kubeconfig, log, ["--resync-seconds=600"]) as running:
        yield running


@pytest.fixture
def sets(own: Cluster, request: pytest.FixtureRequest) -> Sets:
    name = re.sub("[^a-z0-9]+", "-", request.node.name[5:].lower())[:60].strip("-")
    own.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    own.client.wait("v1", "ServiceAccount", "default", name, bool)
    return Sets(own, name)


@pytest.fixture
def faults(proxy: Faults, survivor: Operator) -> Iterator[Faults]:
    """The proxy, with nothing wrong before the test; after it, the operator lives and has not said much."""
    wait_for("all watches to be open", lambda: proxy.watches() >= WATCHES)
    pid, said = survivor.pid, len(_lines(survivor))
    yield proxy
    proxy.plan()
    proxy.appear()
    assert survivor.healthy(), "and therefore alive"
    assert survivor.pid == pid
    lines = _lines(survivor)[said:]
    assert len(lines) <= FEW_LINES, "\n".join(lines)
    assert not any("Traceback" in line for line in lines), "\n".join(lines)


def _lines(operator: Operator) -> list[str]:
    return operator.log.read_text().splitlines()


def _version(number: int) -> dict[str, object]:
    return engines(number, prefill=role(1), decode=role(2))


def _count(operator: Operator, name: str, **labels: str) -> float:
    """Sum the samples of a counter that have these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in operator.metrics().splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in lines if all(label in line for label in wanted))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param(Fault("status", part=0.5, status=500), "500", id="500"),
        pytest.param(Fault("status", part=0.5, status=503, retry_after=1), "503", id="503"),
        pytest.param(Fault("status", part=0.5, status=429, retry_after=1), "429", id="429"),
        pytest.param(Fault("status", status=401), "401", id="401"),
        pytest.param(Fault("status", status=403), "403", id="403"),
        pytest.param(Fault("reset", part=0.5), "0", id="reset"),
        pytest.param(Fault("lost", part=0.5, of="write"), "0", id="lost"),
        pytest.param(Fault("truncated", part=0.5), "200", id="truncated"),
    ],
)
def test_requests_fail(sets: Sets, faults: Faults, survivor: Operator, fault: Fault, code: str) -> None:
    start(sets, _version(1))
    failed = _count(survivor, "rest_client_requests_total", code=code)
    retried = _count(survivor, "workqueue_retries_total")
    with recorded(sets):
        faults.plan(fault)
        before = faults.done.total()
        sets.apply(NAME, _version(2))
        wait_for("some requests to fail", lambda: faults.done.total() >= before + 5)
        faults.plan()
        wait_rolled(sets)
    assert _count(survivor, "rest_client_requests_total", code=code) > failed
    assert _count(survivor, "workqueue_retries_total") > retried


def test_a_set_comes_up_while_everything_goes_wrong(sets: Sets, faults: Faults) -> None:
    faults.plan(
        Fault("status", part=0.05, status=500), Fault("status", part=0.05, status=429, retry_after=1),
        Fault("reset", part=0.05), Fault("lost", part=0.05, of="write"), Fault("truncated", part=0.05),
        Fault("delay", part=0.5, seconds=0.2),
    )  # fmt: skip
    start(sets, _version(1))


@pytest.mark.parametrize("strike", STRIKES)
def test_watches_fail(sets: Sets, faults: Faults, strike: str) -> None:
    start(sets, _version(1))
    with recorded(sets):
        sets.apply(NAME, _version(2))
        wait_for("the rollout to begin", lambda: (sets.get(NAME).get("status") or {}).get("rollouts"))
        assert faults.strike(strike) >= WATCHES  # type: ignore[arg-type]
        wait_rolled(sets)


def test_watches_are_not_found(sets: Sets, faults: Faults, survivor: Operator) -> None:
    start(sets, _version(1))
    faults.plan(Fault("status", status=404, of="watch"))
    faults.strike("end")
    wait_for("watches to be refused", lambda: faults.done["status 404"] >= WATCHES)
    faults.plan()
    sets.apply(NAME, _version(2))
    wait_rolled(sets)
    assert _count(survivor, "rest_client_requests_total", code="404", verb="watch") >= WATCHES


def test_what_vanishes_unseen_is_made_again(sets: Sets, faults: Faults) -> None:
    """A watch that starts anew doesn't tell of it, and the next resync is minutes away."""
    start(sets, _version(1))
    (deployment, *_) = sets.deployments(NAME, role="decode")
    name = deployment["metadata"]["name"]
    faults.vanish()
    sets.cluster.client.delete("apps/v1", "Deployment", name, sets.namespace)
    sets.cluster.client.wait_gone("apps/v1", "Deployment", name, sets.namespace)
    faults.plan(Fault("status", status=410, of="watch"))
    faults.appear()
    wait_for("watches to be refused", lambda: faults.done["status 410"] >= WATCHES)
    faults.plan()
    sets.cluster.client.wait("apps/v1", "Deployment", name, sets.namespace, bool, timeout=120)


def test_answers_are_slow(sets: Sets, faults: Faults, survivor: Operator) -> None:
    start(sets, _version(1))
    with recorded(sets):
        faults.plan(Fault("delay", seconds=1))
        sets.apply(NAME, _version(2))
        wait_rolled(sets)


def test_the_connection_is_gone_in_mid_rollout(sets: Sets, faults: Faults, survivor: Operator) -> None:
    start(sets, _version(1))
    unanswered = _count(survivor, "rest_client_requests_total", code="0")
    with recorded(sets):
        sets.apply(NAME, _version(2))
        wait_for("the rollout to begin", lambda: (sets.get(NAME).get("status") or {}).get("rollouts"))
        faults.vanish()
        sets.apply(NAME, _version(3))
        time.sleep(5)  # how long it is away
        assert survivor.healthy()
        faults.appear()
        wait_rolled(sets)
    assert _count(survivor, "rest_client_requests_total", code="0") > unanswered


@pytest.mark.parametrize("seconds", [10, pytest.param(120, marks=pytest.mark.long)])
def test_the_api_server_is_gone_in_mid_rollout(sets: Sets, faults: Faults, survivor: Operator, seconds: int) -> None:
    start(sets, _version(1))
    sets.apply(NAME, _version(2))
    wait_for("the rollout to begin", lambda: (sets.get(NAME).get("status") or {}).get("rollouts"))
    sets.cluster.stop_api_server()
    try:
        time.sleep(seconds)  # how long it is away
        assert survivor.healthy()
    finally:
        sets.cluster.start_api_server()
    wait_for("what is stored to be served again", lambda: _is_served(sets), PATIENCE)
    # Nodes have not been heard of meanwhile, so that pods stop being ready.
    with recorded(sets, pods_fail=True):
        sets.apply(NAME, _version(3))
        wait_rolled(sets)


def _is_served(sets: Sets) -> bool:
    try:
        return bool(sets.get(NAME) and sets.deployments(NAME))
    except ApiError as error:
        if error.status != 429:  # the storage of a kind is (re)initializing
            raise
        return False


@pytest.fixture
def account(proxy: Faults, survivor: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The service account's files of an operator that believes to be in a pod, in place of the other."""
    proxy.vanish()  # only this one shall write
    directory = tmp_path / "account"
    directory.mkdir()
    paths = {"TOKEN": str(directory / "token"), "CERT": str(directory / "ca.crt")}
    (tmp_path / "sitecustomize.py").write_text(
        "import datetime\n"
        "from kubernetes.aio.config import incluster_config as config\n"
        + "".join(f"config.SERVICE_{name}_FILENAME = {json.dumps(path)}\n" for name, path in paths.items())
        # It reads the file again after a minute.
        + "config.datetime = type('d', (), {'datetime': datetime.datetime, "
        "'timedelta': lambda minutes: datetime.timedelta(seconds=minutes)})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    host, port = proxy.address
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    return directory


def test_token_and_certificates_are_rotated(
    own: Cluster, sets: Sets, survivor: Operator, proxy: Faults, account: Path, tmp_path: Path
) -> None:
    survivor.stop()
    token = proxy.token()
    (account / "token").write_text(token)
    (account / "ca.crt").write_text(proxy.authority.read_text())
    proxy.appear()
    log = tmp_path / "operator.log"
    try:
        with Operator(proxy.kubeconfig, log) as operator:
            start(sets, _version(1))

            def new_token() -> None:
                (account / "token").write_text(proxy.token())
                proxy.plan(Fault("status", status=401, token=token))
                proxy.strike("end")

            def new_authority() -> None:
                proxy.new_certificate(new_authority=True)
                time.sleep(1)  # the file comes later than the certificate
                (account / "ca.crt").write_text(proxy.authority.read_text())

            rotations: list[Callable[[], None]] = [new_token, proxy.new_certificate, new_authority]
            for version, rotate in enumerate(rotations, 2):
                rotate()
                sets.apply(NAME, _version(version))
                wait_rolled(sets)
                assert operator.healthy()
    finally:
        proxy.plan()
        survivor.start()
    lines = log.read_text().splitlines()
    assert len(lines) <= FEW_LINES, "\n".join(lines)
    assert "CERTIFICATE_VERIFY_FAILED" in log.read_text(), "the reason is named"
