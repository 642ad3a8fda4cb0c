from e2e.bench.hotspots import hot_spots


def test_own_time_is_of_the_innermost_function_and_cumulative_of_all():
    found = hot_spots(["a.main:run;b:work 3\n", "a.main:run 1\n"])
    assert found.samples == 4
    assert found.own == [("b:work", 0.75), ("a.main:run", 0.25)]
    assert dict(found.cumulative) == {"a.main:run": 1.0, "b:work": 0.75}
    assert found.packages == [("b", 0.75), ("a", 0.25)]


def test_a_recursive_function_counts_once():
    assert dict(hot_spots(["a:f;a:f;a:f 2"]).cumulative) == {"a:f": 1.0}
