"""All tests: the embedded cluster and its fixtures."""

pytest_plugins = ["e2e.cluster.fixtures"]
