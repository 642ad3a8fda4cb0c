"""The parts of the embedded cluster that need no cluster."""

import datetime as dt
import socket
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from e2e.cluster import ClusterError, behave, kubeconfig, simulated, wait_for
from e2e.cluster.__main__ import main
from e2e.cluster.cache import is_locked, locked
from e2e.cluster.components import kwok_config, scheduler_config
from e2e.cluster.model import Layout, Options, Spec, State
from e2e.cluster.pki import Authority
from e2e.cluster.ports import LOOPBACK, free_ports
from e2e.cluster.runner import PortTakenError, Runner

OPTIONS = Options(kubernetes="1.35.4")


def test_kwok_config_is_yaml_without_leftovers() -> None:
    text = kwok_config()
    documents = list(yaml.safe_load_all(text))
    assert "# include" not in text
    assert [each["kind"] for each in documents] == ["KwokConfiguration"] + ["Stage"] * 7
    names = [each["metadata"]["name"] for each in documents[1:]]
    assert len(set(names)) == len(names)


def test_behaviour_annotations() -> None:
    assert behave() == {}
    assert behave("crash-loop", exit_code=2, ready_after="1s") == {
        "e2e.disaggregatedset.dev/behaviour": "crash-loop",
        "e2e.disaggregatedset.dev/ready-after": "1s",
        "e2e.disaggregatedset.dev/exit-code": "2",
    }


def test_client_limits_of_the_scheduler() -> None:
    stock = Options(kubernetes="1.35.4", stock_client_limits=True)
    assert scheduler_config(Path("config"), OPTIONS)["clientConnection"]["qps"] == 5000
    assert scheduler_config(Path("config"), stock)["clientConnection"]["qps"] == 50


def test_devices_of_a_node() -> None:
    gpus, nics = simulated.resource_slices("node-0", "uid", 2, 3)
    assert gpus["spec"]["pool"] == {"name": "node-0", "generation": 3, "resourceSliceCount": 1}
    assert [each["name"] for each in gpus["spec"]["devices"]] == ["gpu-0", "gpu-1"]
    for gpu, nic in zip(gpus["spec"]["devices"], nics["spec"]["devices"], strict=True):
        assert gpu["attributes"][simulated.PCIE_ROOT] == nic["attributes"][simulated.PCIE_ROOT]


def test_new_nodes_get_names_and_addresses_that_are_free() -> None:
    node = simulated.node("node-1", "10.0.0.1", cpu="1", memory="1Gi", pods=1, labels={})
    free = simulated.free_names("node", [node])
    assert [next(free), next(free)] == [("node-0", "10.0.0.2"), ("node-2", "10.0.0.3")]


def test_free_ports_are_free_and_differ() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        socket.create_server((LOOPBACK, port)).close()


def test_kubeconfig_round_trip(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("admin", "someone", "system:masters")
    access = kubeconfig.with_certificate("https://127.0.0.1:1", authority.pair.certificate, pair)
    path = kubeconfig.write(tmp_path / "config", access, name="test")
    assert kubeconfig.read(path) == access
    assert path.stat().st_mode & 0o077 == 0
    assert pair.key.stat().st_mode & 0o077 == 0


def test_kubeconfig_may_name_files(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("authority")
    config = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": "https://it", "certificate-authority": "ca.crt"}}],
        "users": [{"name": "it", "user": {"token": "secret"}}],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    assert kubeconfig.read(path) == kubeconfig.Access("https://it", "authority", token="secret")
    config["users"] = [{"name": "it", "user": {"exec": {"command": "login"}}}]
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ClusterError, match="neither a client certificate nor a token"):
        kubeconfig.read(path)


def test_a_failed_cluster_is_shown_until_it_is_put_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSET_CACHE", str(tmp_path))
    layout = Layout("broken")
    layout.root.mkdir(parents=True)
    now = dt.datetime.now(dt.UTC)
    state = State(
        phase="failed", name="broken", supervisor=1, owned=False, started=now, options=OPTIONS, error="no space left"
    )
    layout.write_state(state)
    status = CliRunner().invoke(main, ["status"])
    assert (status.exit_code, status.output) == (1, "cluster broken has failed: no space left\n")
    layout.write_state(state.model_copy(update={"phase": "running"}))
    assert "cluster broken was killed" in CliRunner().invoke(main, ["kubeconfig", "--name=broken"]).output
    assert CliRunner().invoke(main, ["down", "--name=broken"]).exit_code == 0
    assert not layout.root.exists()


def test_lock_shows_that_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
    assert not is_locked(path)


def test_wait_for_tells_what_it_saw_last() -> None:
    values = iter([None, 0, 7])
    assert wait_for("seven", lambda: next(values)) == 7
    with pytest.raises(TimeoutError, match="waited 0 s for Godot; the last look returned 0"):
        wait_for("Godot", lambda: 0, timeout=0)


def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etcd: str) -> Runner:
    """Return a runner whose etcd is a shell command, and whose API server waits for ever."""
    monkeypatch.setenv("DSET_CACHE", str(tmp_path))
    programs = {}
    for name, body in {"etcd": etcd, "kube-apiserver": "exec sleep 1000"}.items():
        programs[name] = tmp_path / name
        programs[name].write_text(f"#!/bin/sh\n{body}\n")
        programs[name].chmod(0o755)
    layout = Layout("fake")
    layout.root.mkdir(parents=True)
    return Runner(Spec(name="fake", owned=True, options=OPTIONS, binaries=programs), layout)


async def test_a_component_that_fails_at_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = runner(tmp_path, monkeypatch, "echo no space left; exit 3")
    with pytest.raises(
        ClusterError, match=r"etcd ended unexpectedly \(exit code 3\); the end of its log:\nno space left"
    ):
        await broken.start()
    assert list(broken.pids) == ["etcd", "kube-apiserver"]
    await broken.kill_all()
    assert broken.pids == {}


async def test_other_ports_are_tried_when_one_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = tmp_path / "attempts"
    unlucky = runner(tmp_path, monkeypatch, f'echo "$*" >> {attempts}; echo bind: address already in use; exit 1')
    with pytest.raises(PortTakenError, match="address already in use"):
        await unlucky.start()
    await unlucky.kill_all()
    assert len(set(attempts.read_text().splitlines())) == 5
