"""The operator's settings: each a flag and an environment variable."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Run the DisaggregatedSet operator against the cluster that it runs in, or that KUBECONFIG points at.

    Each flag can be given as an environment variable too: --request-timeout is DSET_OPERATOR_REQUEST_TIMEOUT.
    """

    model_config = SettingsConfigDict(
        env_prefix="DSET_OPERATOR_",
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    kubeconfig: Path | None = Field(
        None, description="Kubeconfig to use outside a cluster; default: KUBECONFIG, then ~/.kube/config."
    )
    workers: int = Field(8, ge=1, le=256, description="Sets that are reconciled at the same time.")
    request_timeout: float = Field(30.0, gt=0, description="Timeout of a request to the API server, in seconds.")
    concurrent_requests: int = Field(64, ge=1, description="Requests to the API server that may be under way at once.")
    resync_seconds: float = Field(
        600.0, gt=0, description="Seconds between lists of everything, which find what a watch has missed."
    )
    health_port: int = Field(8080, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0: none.")
    health_host: str = Field("0.0.0.0", description="Address of the same.")  # noqa: S104 - kubelet and Prometheus ask
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error.")
