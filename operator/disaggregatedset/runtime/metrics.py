"""Metrics, by the names that people know from controller-runtime and client-go."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0)

RECONCILES: Final = Counter(
    "controller_runtime_reconcile", "Reconciles by result: success, requeue_after or error.", ("controller", "result")
)
RECONCILE_SECONDS: Final = Histogram(
    "controller_runtime_reconcile_time_seconds", "Seconds per reconcile.", ("controller",), buckets=_SECONDS
)
ACTIVE_WORKERS: Final = Gauge("controller_runtime_active_workers", "Workers that reconcile right now.", ("controller",))
QUEUE_DEPTH: Final = Gauge("workqueue_depth", "Keys that wait for a worker.")
QUEUE_ADDS: Final = Counter("workqueue_adds", "Keys added.")
QUEUE_RETRIES: Final = Counter("workqueue_retries", "Keys added again after a failure.")
QUEUE_LATENCY: Final = Histogram(
    "workqueue_queue_duration_seconds", "Seconds that a key waits for a worker.", buckets=_SECONDS
)
REQUESTS: Final = Counter(
    "rest_client_requests", "Requests to the API server; code 0: no answer.", ("verb", "resource", "code")
)
REQUEST_SECONDS: Final = Histogram(
    "rest_client_request_duration_seconds", "Seconds per request to the API server.", ("verb",), buckets=_SECONDS
)
LEADS: Final = Gauge("leader_election_master_status", "Whether this replica leads: 1 or 0.", ("name",))
MISSED: Final = Counter(
    "disaggregatedset_watch_missed_changes", "Changes that a resync found and no watch had reported.", ("resource",)
)


def observe_request(verb: str, resource: str, status: int, seconds: float) -> None:
    """Count a request to the API server."""
    REQUESTS.labels(verb, resource, str(status)).inc()
    REQUEST_SECONDS.labels(verb).observe(seconds)
