"""Each setting as a flag and as an environment variable; what is wrong is named as the flag."""

from __future__ import annotations

from pathlib import Path
from socket import gethostname

import pytest
from pydantic_settings import CliApp

from disaggregatedset import cli
from disaggregatedset.runtime.settings import Settings, unknown_variables


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DSET_OPERATOR_{name.upper()}", raising=False)


def _settings(*flags: str) -> Settings:
    return CliApp.run(Settings, cli_args=list(flags))


def test_defaults_need_no_flag() -> None:
    made = _settings()
    assert (made.workers, made.health_port, made.log_level, made.kubeconfig) == (8, 8080, "info", None)
    assert (made.namespaces, made.client_qps, made.log_format) == ((), 0.0, "auto")
    assert (made.leader_elect, made.lease_name, made.instance) == (True, "disaggregatedset", gethostname())
    assert (made.lease_duration, made.lease_renew_deadline, made.lease_retry_period) == (15, 10.0, 2.0)


def test_flags() -> None:
    made = _settings("--workers", "3", "--request-timeout=1.5", "--kubeconfig", "/tmp/config", "--log-level=debug")
    assert (made.workers, made.request_timeout, made.kubeconfig, made.log_level) == (
        3,
        1.5,
        Path("/tmp/config"),
        "debug",
    )


def test_environment_variables_and_that_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSET_OPERATOR_REQUEST_TIMEOUT", "7")
    monkeypatch.setenv("DSET_OPERATOR_WORKERS", "5")
    made = _settings("--workers=6")
    assert (made.request_timeout, made.workers) == (7.0, 6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers=0"], "--workers: Input should be greater than or equal to 1"),
        (["--workers=many"], "--workers: Input should be a valid integer"),
        (["--request-timeout=0"], "--request-timeout: Input should be greater than 0"),
        (["--health-port=70000"], "--health-port: Input should be less than or equal to 65535"),
        (["--resync-seconds=-1"], "--resync-seconds: Input should be greater than 0"),
        (["--log-level=loud"], "--log-level: Input should be 'debug', 'info', 'warning' or 'error'"),
        (["--log-format=xml"], "--log-format: Input should be 'auto', 'text' or 'json', not 'xml'"),
        (["--client-qps=-1"], "--client-qps: Input should be greater than or equal to 0"),
        (["--client-burst=0"], "--client-burst: Input should be greater than or equal to 1"),
        (["--leader-elect=maybe"], "--leader-elect: Input should be a valid boolean"),
        (["--namespaces=a,B"], "--namespaces: 'B' is no name of a namespace: give names of lower-case letters"),
        (["--lease-name=A"], "--lease-name: 'A' is no name of an object"),
        (["--lease-namespace=-"], "--lease-namespace: '-' is no name of an object"),
        (["--instance=a b"], "--instance: 'a b' can't be used"),
        (["--lease-duration=1"], "--lease-duration: Input should be greater than or equal to 2"),
        (["--lease-duration=1.5"], "--lease-duration: Input should be a valid integer"),
        (
            ["--lease-renew-deadline=14.5"],
            "--lease-renew-deadline (14.5 s) must be at least 1 s shorter than --lease-duration (15 s)",
        ),
        (
            ["--lease-retry-period=6"],
            "--lease-retry-period (6 s) must be at most half of --lease-renew-deadline (10 s)",
        ),
    ],
)
def test_a_wrong_value_is_named_as_the_flag(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(flags) == 2
    assert f"disaggregatedset: {said}" in capsys.readouterr().err


def test_a_wrong_environment_variable_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSET_OPERATOR_CONCURRENT_REQUESTS", "none")
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert "--concurrent-requests: Input should be a valid integer" in said
    assert "not 'none' (set by the flag or by DSET_OPERATOR_CONCURRENT_REQUESTS; see --help)" in said


def test_every_wrong_value_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--workers=0", "--request-timeout=x"]) == 2
    assert [line.split(":")[1] for line in capsys.readouterr().err.splitlines()] == [" --workers", " --request-timeout"]


def test_how_the_lease_is_renewed_does_not_matter_without_an_election() -> None:
    assert _settings("--leader-elect=false", "--lease-retry-period=60").lease_retry_period == 60


@pytest.mark.parametrize(
    "flags", [["--namespaces=a,b"], ["--namespaces", "a, b"], ["--namespaces=a", "--namespaces=b,a"]]
)
def test_namespaces(flags: list[str]) -> None:
    assert _settings(*flags).namespaces == ("a", "b")


def test_namespaces_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSET_OPERATOR_NAMESPACES", "a,b")
    assert _settings().namespaces == ("a", "b")
    monkeypatch.setenv("DSET_OPERATOR_NAMESPACES", "")
    assert _settings().namespaces == ()


def test_the_lease_is_in_the_namespace_of_the_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("disaggregatedset.runtime.settings.POD_NAMESPACE", tmp_path / "namespace")
    with pytest.raises(ValueError, match=r"^--lease-namespace: .*set it .*--leader-elect=false"):
        _settings().lease_place()
    assert _settings("--lease-namespace=given").lease_place() == "given"
    (tmp_path / "namespace").write_text("system\n")
    assert _settings().lease_place() == "system"


def test_variables_that_are_no_settings() -> None:
    environment = dict.fromkeys(
        [
            "DSET_OPERATOR_WORKERS",
            "DSET_OPERATOR_WROKERS",
            "DSET_OPERATOR_SERVICE_HOST",
            "DSET_OPERATOR_SERVICE_PORT_METRICS",
            "DSET_OPERATOR_PORT",
            "DSET_OPERATOR_PORT_8080_TCP_ADDR",
            "DSET_CACHE",
        ],
        "1",
    )
    assert unknown_variables(environment) == ["DSET_OPERATOR_WROKERS"]


def test_help_tells_of_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in said for name in Settings.model_fields)
    assert "DSET_OPERATOR_REQUEST_TIMEOUT" in said
    assert all(field.description for field in Settings.model_fields.values())
