"""The operator's settings: each a flag and an environment variable."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, CliExplicitFlag, NoDecode, SettingsConfigDict

from disaggregatedset.runtime.logs import LogFormat

ENV_PREFIX: Final = "DSET_OPERATOR_"

#: Where a pod's service account says which namespace it is in.
POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

#: The types of errors whose messages say already what was given.
OWN_ERRORS: Final = frozenset({"namespace", "name", "instance"})

# Kubernetes sets variables for each Service, also for one that is named dset-operator.
_OF_A_SERVICE: Final = re.compile(r"(SERVICE_(HOST|PORT.*)|PORT(_\d+_.*)?)")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
#: At least this much is left for a write when it starts at the last moment.
_LEAST_SECONDS_OF_A_WRITE: Final = 1.0


def _split(value: Any) -> Any:
    """Split what flags and environment variables give as text, which can be given more than once."""
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list | tuple) and all(isinstance(v, str) for v in values):
        return tuple(part.strip() for v in values for part in v.split(",") if part.strip())
    return value


class Settings(BaseSettings):
    """Run the DisaggregatedSet operator against the cluster that it runs in, or that KUBECONFIG points at.

    Each flag can be given as an environment variable too: --request-timeout is DSET_OPERATOR_REQUEST_TIMEOUT. A flag
    wins over its variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
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
    namespaces: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Namespaces whose sets are looked after, separated by commas; default: all."
    )
    workers: int = Field(8, ge=1, le=256, description="Sets that are reconciled at the same time.")
    resync_seconds: float = Field(
        600.0, gt=0, description="Seconds between lists of everything, which find what a watch has missed."
    )
    request_timeout: float = Field(30.0, gt=0, description="Timeout of a request to the API server, in seconds.")
    concurrent_requests: int = Field(64, ge=1, description="Requests to the API server that may be under way at once.")
    client_qps: float = Field(
        0.0,
        ge=0,
        description="Requests to the API server that may start a second, watches and the Lease apart; 0: any number, "
        "and the API server's priority and fairness decide.",
    )
    client_burst: int = Field(
        100, ge=1, description="Requests that may start at once after a quiet time, where --client-qps limits them."
    )
    leader_elect: CliExplicitFlag[bool] = Field(
        True,
        description="Whether to elect a leader by a Lease: all replicas watch, one writes. Only a single process may "
        "run without.",
    )
    lease_name: str = Field("disaggregatedset", description="Name of the Lease.")
    lease_namespace: str | None = Field(None, description="Namespace of the Lease; default: that of this pod.")
    lease_duration: int = Field(
        15, ge=2, le=3600, description="Seconds without a renewal after which another replica takes the Lease."
    )
    lease_renew_deadline: float = Field(
        10.0, gt=0, description="Seconds without a renewal after which the leader writes no more."
    )
    lease_retry_period: float = Field(
        2.0, gt=0, description="Seconds between renewals; the others look twice as often, at least once a second."
    )
    instance: str = Field(
        default_factory=socket.gethostname,
        description="Name of this replica in the Lease, in events and in the user agent; default: the host's name.",
    )
    health_port: int = Field(8080, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0: none.")
    health_host: str = Field("0.0.0.0", description="Address of the same.")  # noqa: S104 - kubelet and Prometheus ask
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is worth logging.")
    log_format: LogFormat = Field(
        "auto", description="How log lines look; auto: text on a terminal, and JSON elsewhere."
    )

    @field_validator("namespaces")
    @classmethod
    def _are_namespaces(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _LABEL.fullmatch(name):
                raise PydanticCustomError(
                    "namespace",
                    "{name} is no name of a namespace: give names of lower-case letters, digits and hyphens, "
                    "separated by commas, such as team-a,team-b",
                    {"name": repr(name)},
                )
        return tuple(dict.fromkeys(value))

    @field_validator("lease_name", "lease_namespace")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None and not _NAME.fullmatch(value):
            raise PydanticCustomError(
                "name",
                "{name} is no name of an object: use lower-case letters, digits, hyphens and dots",
                {"name": repr(value)},
            )
        return value

    @field_validator("instance")
    @classmethod
    def _is_instance(cls, value: str) -> str:
        # It goes into a header.
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", value):
            raise PydanticCustomError(
                "instance",
                "{name} can't be used: give up to 128 letters, digits, hyphens and dots",
                {"name": repr(value)},
            )
        return value

    @model_validator(mode="after")
    def _lease_leaves_time(self) -> Self:
        if not self.leader_elect:
            return self
        if self.lease_duration - self.lease_renew_deadline < _LEAST_SECONDS_OF_A_WRITE:
            raise PydanticCustomError(
                "lease",
                "--lease-renew-deadline ({deadline} s) must be at least 1 s shorter than "
                "--lease-duration ({duration} s), "
                "so that a write that starts at the last moment can end before another replica writes: "
                "raise --lease-duration, or lower --lease-renew-deadline",
                {"deadline": f"{self.lease_renew_deadline:g}", "duration": self.lease_duration},
            )
        if self.lease_retry_period * 2 > self.lease_renew_deadline:
            raise PydanticCustomError(
                "lease",
                "--lease-retry-period ({retry} s) must be at most half of --lease-renew-deadline ({deadline} s), "
                "so that one failed renewal does not cost the lease: "
                "lower --lease-retry-period, or raise --lease-renew-deadline",
                {"retry": f"{self.lease_retry_period:g}", "deadline": f"{self.lease_renew_deadline:g}"},
            )
        return self

    def lease_place(self) -> str:
        """Return the namespace of the Lease.

        Raises
        ------
        ValueError
            If it is neither set nor known, with what to do about it.
        """
        if self.lease_namespace is not None:
            return self.lease_namespace
        try:
            return POD_NAMESPACE.read_text().strip()
        except OSError as error:
            raise ValueError(
                "--lease-namespace: not known outside a pod: set it to the namespace of the Lease, "
                "or turn the election off with --leader-elect=false where no other operator runs"
            ) from error


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the environment variables that look like settings, but are none."""
    known = {f"{ENV_PREFIX}{field.upper()}" for field in Settings.model_fields}
    ours = {name for name in environment if name.upper().startswith(ENV_PREFIX)}
    return sorted(
        name
        for name in ours
        if name.upper() not in known and not _OF_A_SERVICE.fullmatch(name.upper().removeprefix(ENV_PREFIX))
    )
