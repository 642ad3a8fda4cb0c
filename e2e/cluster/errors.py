"""What can go wrong with a test cluster."""


class ClusterError(RuntimeError):
    """A cluster can't be built, started or used. The message says why, and where possible what to do."""
