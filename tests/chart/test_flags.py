"""The chart and the operator agree on the operator's flags."""

from __future__ import annotations

import pytest
from pydantic_settings import CliApp

from disaggregatedset.runtime.settings import Settings
from tests.chart.charts import Case, at, cases, key, rendered


def _settings(case: str) -> Settings:
    """Start the operator as far as its settings, with the arguments of a case."""
    objects = {key(obj): obj for obj in rendered(case) if obj["kind"] == "Deployment"}
    (deployment,) = objects.values()
    return CliApp.run(Settings, cli_args=at(deployment, "spec.template.spec.containers[operator].args"))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_operator_takes_the_arguments_of_every_case(case: Case) -> None:
    _settings(case.name)


def test_the_defaults_are_those_of_the_operator() -> None:
    chart, own = _settings("names: defaults"), CliApp.run(Settings, cli_args=[])
    assert {
        name: (getattr(chart, name), getattr(own, name))
        for name in Settings.model_fields
        if getattr(chart, name) != getattr(own, name)
    } == {
        # A pod would know it too.
        "lease_namespace": ("dset-system", None),
        # Pods have no terminal.
        "log_format": ("json", "auto"),
    }


def test_without_an_election() -> None:
    assert _settings("names: defaults").leader_elect
    assert not _settings("operator: leaderElection.enabled").leader_elect


def test_namespaces() -> None:
    assert _settings("operator: watch.namespaces").namespaces == ("team-a", "team-b")
