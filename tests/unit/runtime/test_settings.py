"""Each setting as a flag and as an environment variable; what is wrong is named as the flag."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_settings import CliApp

from disaggregatedset import cli
from disaggregatedset.runtime.settings import Settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DSET_OPERATOR_{name.upper()}", raising=False)


def _settings(*flags: str) -> Settings:
    return CliApp.run(Settings, cli_args=list(flags))


def test_defaults_need_no_flag() -> None:
    made = _settings()
    assert (made.workers, made.health_port, made.log_level, made.kubeconfig) == (8, 8080, "info", None)


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
        (["--log-level=loud"], "--log-level: String should match pattern"),
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
    assert "--concurrent-requests: Input should be a valid integer" in capsys.readouterr().err


def test_help_tells_of_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in said for name in Settings.model_fields)
    assert "DSET_OPERATOR_REQUEST_TIMEOUT" in said
