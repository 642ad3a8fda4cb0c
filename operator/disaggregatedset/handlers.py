"""kopf's handlers: each hands what it is told to the controller, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import kopf

from disaggregatedset.cluster.objects import DEVICE_CLASS, Kind
from disaggregatedset.reconcile.controller import WATCHED, Controller
from disaggregatedset.reconcile.view import SET
from disaggregatedset.render import SET_LABEL

#: kopf removes the finalizer that it is configured with from every object that it sees, so this is one that nobody has:
#: with kopf's own, two kopf operators in a cluster would undo each other's work.
_FINALIZER: Final = "disaggregatedset.dev/never-set"


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no last state of objects: reconciling compares with the cluster, not with what was."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> Any:  # noqa: ARG002
        return None

    def fetch(self, *, body: kopf.Body) -> Any:  # noqa: ARG002
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Keeps no progress of handlers on objects: event handlers have none."""

    def fetch(self, *, key: Any, body: kopf.Body) -> Any:  # noqa: ARG002
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        pass

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        pass

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: watch what belongs to sets, write nothing."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.persistence.finalizer = _FINALIZER
    made.persistence.diffbase_storage = _NoDiffBase()
    made.persistence.progress_storage = _NoProgress()
    for kind in WATCHED:
        if kind not in {SET, DEVICE_CLASS}:
            made.watching.label_selectors[kind.group, kind.plural] = SET_LABEL
    return made


def registry(controller: Controller, credentials: Callable[[], Awaitable[Mapping[str, Any]]]) -> kopf.OperatorRegistry:
    """Return the handlers of all kinds that are watched.

    Parameters
    ----------
    controller
        Is told about events.
    credentials
        Returns the arguments of ``kopf.ConnectionInfo``; called again when the API server refuses them.
    """
    made = kopf.OperatorRegistry()

    @kopf.on.login(registry=made)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**await credentials())

    for kind in WATCHED:
        if controller.serves(kind):
            _watch(made, controller, kind)
    return made


def _watch(made: kopf.OperatorRegistry, controller: Controller, kind: Kind) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=made, id=f"observe-{kind.plural}")
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        controller.observe(kind, event["type"], dict(event["object"]))
