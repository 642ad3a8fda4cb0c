import pytest

from e2e.bench.results import Floor, Latency, Operated, Phase, Usage, percentile


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 2), (51, 3), (75, 3), (99, 4), (100, 4)])
def test_percentile_is_a_value_that_was_measured(percent, expected):
    assert percentile([4, 1, 3, 2], percent) == expected


def test_latency():
    assert Latency.of([float(n) for n in range(1, 101)]) == Latency(50.0, 99.0, 100.0)


def test_ratio_to_the_floor():
    usage = Usage(1.0, {})
    phase = Phase("create", "created", Floor(2.0, {}, usage), Operated(3.0, Latency(1, 1, 1), usage))
    assert phase.ratio == 1.5
