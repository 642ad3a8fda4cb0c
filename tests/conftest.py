"""All tests: the embedded cluster and its fixtures, and what is random."""

import os

from hypothesis import settings

pytest_plugins = ["e2e.cluster.fixtures"]

# A change is judged by the same examples each time, however busy the machine; elsewhere every run tries others.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
