"""The command's exit codes and what it says, by calling it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from disaggregatedset import cli


@pytest.fixture(autouse=True)
def _outside_of_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))  # also undoes what --kubeconfig does to it
    monkeypatch.setenv("HOME", str(tmp_path))
    levels = {name: logging.getLogger(name).level for name in (None, "kopf")}
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("flags", [["--wrokers=3"], ["--workers"], ["surplus"]])
def test_flags_that_do_not_exist(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:  # argparse's way
        cli.main(flags)
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_no_namespace_for_the_lease(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("disaggregatedset: --lease-namespace: not known outside a pod: set it")
    assert "--leader-elect=false" in said


def test_a_misspelled_variable_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DSET_OPERATOR_WROKERS", "3")
    assert cli.main(["--leader-elect=false"]) == 1
    assert "there is no setting DSET_OPERATOR_WROKERS" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--leader-elect=false", "--lease-namespace=default"])
def test_no_cluster(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag]) == 1
    said = capsys.readouterr().err
    assert "no cluster to connect to: not in a pod, and no usable kubeconfig" in said
    assert "set KUBECONFIG" in said


@pytest.mark.parametrize("text", ["", "{", "- a", "apiVersion: v1\nkind: Config\n", "\x00"])
def test_a_kubeconfig_that_is_none(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    assert cli.main(["--leader-elect=false", "--kubeconfig", str(path)]) == 1
    assert "no usable kubeconfig" in capsys.readouterr().err


def test_a_port_of_health_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config"
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    cluster = {"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [context]}
    path.write_text(yaml.safe_dump(config | {"clusters": [cluster], "users": [{"name": "x", "user": {}}]}))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["--leader-elect=false", "--health-host=127.0.0.1", f"--health-port={port}"]
        assert cli.main(["--kubeconfig", str(path), *flags]) == 1
    assert "address already in use" in capsys.readouterr().err
