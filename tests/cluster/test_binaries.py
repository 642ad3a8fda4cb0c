"""Binaries are found or built, and errors say what to do. No test here builds for real."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.cluster import ClusterError, binaries, gobuild, versions
from e2e.cluster.cache import binaries_directory
from e2e.cluster.progress import BuildProgress

SCHEDULER = next(each for each in versions.components("1.35.4") if each.name == "kube-scheduler")
KWOK = next(each for each in versions.components("1.35.4") if each.name == "kwok")

Script = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("DSET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CI", "true")
    for variable in ("KUBEBUILDER_ASSETS", "KUBERNETES_VERSION", "GOTOOLCHAIN"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def write(path: str, body: str) -> Path:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"#!/bin/sh\n{body}\n")
        target.chmod(0o755)
        return target

    return write


@pytest.mark.parametrize(
    ("wanted", "version"), [(None, "1.35.4"), ("1.34", "1.34.4"), ("1.36.3", "1.36.3"), ("v1.37", "1.37.2")]
)
def test_kubernetes_version(wanted: str | None, version: str) -> None:
    assert versions.kubernetes_version(wanted) == version


def test_kubernetes_version_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_VERSION", "1.36")
    assert versions.kubernetes_version() == "1.36.3"


@pytest.mark.parametrize("wanted", ["1.30", "1.35.9", "latest"])
def test_unknown_kubernetes_version(wanted: str) -> None:
    with pytest.raises(ClusterError, match=rf"Kubernetes {wanted} is not supported: choose one of 1\.34\.4, 1\.35\.4"):
        versions.kubernetes_version(wanted)


def test_go_mod_replaces_the_staging_modules_by_their_published_versions() -> None:
    upstream = {
        "Go": "1.25.0",
        "Require": [
            {"Path": "k8s.io/api", "Version": "v0.0.0"},
            {"Path": "k8s.io/client-go", "Version": "v0.0.0"},
            {"Path": "k8s.io/klog/v2", "Version": "v2.130.1"},
        ],
    }
    assert gobuild.go_mod(SCHEDULER, upstream) == (
        "module disaggregatedset.dev/e2e/kube-scheduler\n"
        "go 1.25.0\n"
        "require k8s.io/kubernetes v1.35.4\n"
        "replace k8s.io/api => k8s.io/api v0.35.4\n"
        "replace k8s.io/client-go => k8s.io/client-go v0.35.4\n"
    )


def test_version_flags() -> None:
    assert "-X k8s.io/component-base/version.gitVersion=v1.35.4" in gobuild.version_flags(SCHEDULER)
    assert gobuild.version_flags(KWOK) == ""


def test_assets_come_before_path(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script("path/kube-scheduler", "echo Kubernetes v1.35.1")
    assets = script("assets/kube-scheduler", "echo Kubernetes v1.35.0")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert binaries.find(SCHEDULER) == assets


@pytest.mark.parametrize("body", ["echo Kubernetes v1.34.4", "exit 1", "echo v1.35"])
def test_binaries_of_another_version_are_not_used(body: str, script: Script) -> None:
    script("path/kube-scheduler", body)
    assert binaries.find(SCHEDULER) is None


def test_any_kubectl_will_do(script: Script) -> None:
    installed = script("path/kubectl", "exit 1")
    assert binaries.kubectl() == installed


def test_a_build_is_kept_and_happens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    killed = binaries_directory() / ".kubectl-v1.35.4.part" / "rest"
    killed.mkdir(parents=True)

    def build(component: versions.Component, directory: Path, _log: Path) -> None:
        built.append(component.name)
        (directory / component.name).touch()

    monkeypatch.setattr(gobuild, "build", build)
    with ThreadPoolExecutor(4) as pool:
        paths = {future.result() for future in [pool.submit(binaries.kubectl) for _ in range(4)]}
    assert built == ["kubectl"]
    assert not killed.parent.exists()
    assert paths == {binaries_directory() / "kubectl-v1.35.4" / "kubectl"}


def test_a_failed_build_leaves_no_part_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_component: versions.Component, directory: Path, _log: Path) -> None:
        (directory / "part").touch()
        raise ClusterError("no")

    monkeypatch.setattr(gobuild, "build", fail)
    for _ in range(2):
        with pytest.raises(ClusterError, match="no"):
            binaries.kubectl()
    assert [path.name for path in binaries_directory().iterdir()] == [".kubectl-v1.35.4.lock"]


def test_plain_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gobuild, "build", lambda component, directory, _log: (directory / component.name).touch())
    binaries.obtain()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "building etcd v3.6.16 (1 of 6) ..."
    assert re.fullmatch(r"built kubectl v1\.35\.4 \(6 of 6\) in \d+ s", lines[-1])


def test_go_is_missing() -> None:
    with pytest.raises(
        ClusterError, match=r"etcd v3\.6\.16 has to be built, but there is no Go in PATH.*KUBEBUILDER_ASSETS"
    ):
        binaries.obtain()


def go(script: Script, version: str, build: str = "exit 0") -> None:
    """Install a Go that needs nothing but a shell."""
    script(
        "path/go",
        f"""case "$1 $2" in
  "mod download") echo '{{"GoMod": "go.mod"}}' ;;
  "mod edit") echo '{{"Go": "1.25.0", "Require": []}}' ;;
  env*) printf 'go{version}\\n%s\\n' "$GOTOOLCHAIN" ;;
  build*) {build} ;;
esac""",
    )


@pytest.mark.parametrize(
    ("version", "toolchain", "fine"),
    [("1.25.0", "local", True), ("1.24.9", "local", False), ("1.21.0", None, True), ("1.20.14", None, False)],
)
def test_go_is_too_old(
    version: str, toolchain: str | None, fine: bool, script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go(script, version)
    if toolchain:
        monkeypatch.setenv("GOTOOLCHAIN", toolchain)
    target = tmp_path / "target"
    target.mkdir()
    if fine:
        gobuild.build(KWOK, target, tmp_path / "log")
        return
    with pytest.raises(ClusterError, match=rf"kwok v0\.7\.0 needs Go 1\.25\.0, but Go {version} is installed"):
        gobuild.build(KWOK, target, tmp_path / "log")


def test_a_build_that_fails_shows_the_end_of_its_output(script: Script, tmp_path: Path) -> None:
    go(script, "1.26.0", build='for line in $(/usr/bin/seq 40); do echo "error $line" >&2; done; exit 1')
    with pytest.raises(
        ClusterError, match=r"building kwok v0\.7\.0 failed:\n(error \d+\n)+The full output is in "
    ) as failed:
        binaries._build(KWOK, BuildProgress(1))
    log = Path(str(failed.value).rsplit(" ", 1)[1])
    assert "error 40\n" in str(failed.value)
    assert "error 1\n" not in str(failed.value)
    assert "error 1\n" in log.read_text()
    assert os.access(log, os.R_OK)
