"""The metrics that alerts and dashboard may use, by name as it is scraped, with their labels.

A histogram is named without ``_bucket``, ``_sum`` and ``_count``.
"""

from __future__ import annotations

from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from disaggregatedset.cluster.cache import Cache
from disaggregatedset.reconcile import measure
from disaggregatedset.reconcile.controller import WATCHED
from disaggregatedset.reconcile.measure import SetCollector
from disaggregatedset.render import SET_LABEL
from disaggregatedset.runtime import metrics

#: What the operator exports.
METRICS: Final[dict[str, set[str]]] = {
    # controller-runtime and client-go
    "controller_runtime_reconcile_total": {"controller", "result"},
    "controller_runtime_reconcile_time_seconds": {"controller"},
    "controller_runtime_active_workers": {"controller"},
    "workqueue_depth": set(),
    "workqueue_adds_total": set(),
    "workqueue_retries_total": set(),
    "workqueue_queue_duration_seconds": set(),
    "rest_client_requests_total": {"verb", "resource", "code"},
    "rest_client_request_duration_seconds": {"verb"},
    "leader_election_master_status": {"name"},
    # sets
    "disaggregatedset_role_desired_replicas": {"namespace", "set", "tier", "role"},
    "disaggregatedset_role_ready_replicas": {"namespace", "set", "tier", "role"},
    "disaggregatedset_coherent_capacity_ratio": {"namespace", "set"},
    "disaggregatedset_condition": {"namespace", "set", "type"},
    "disaggregatedset_rollout_phase": {"namespace", "set", "group", "phase"},
    "disaggregatedset_rollout_duration_seconds": {"group"},
    "disaggregatedset_rollout_failures_total": {"group", "reason"},
    "disaggregatedset_rollbacks_total": {"namespace", "set", "group"},
    "disaggregatedset_claims": {"namespace", "set", "role", "state"},
    "disaggregatedset_time_to_available_seconds": set(),
    "disaggregatedset_watch_missed_changes_total": {"resource"},
}

#: Of the process (prometheus_client), and what Prometheus makes itself.
OTHERS: Final[dict[str, set[str]]] = {
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
    "up": set(),
}

#: What Prometheus adds to everything that it scrapes by the chart's ServiceMonitor.
TARGET_LABELS: Final = {"namespace", "job", "pod", "service", "endpoint", "container", "instance"}


def in_code() -> dict[str, set[str]]:
    """Return the metrics that the operator's code has."""
    found = {family.name: set(family._labelnames) for family in SetCollector(Cache(WATCHED, SET_LABEL)).collect()}
    for metric in [*vars(metrics).values(), *vars(measure).values()]:
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            suffix = "_total" if family.type == "counter" else ""
            found[family.name + suffix] = set(metric._labelnames)
    return found
