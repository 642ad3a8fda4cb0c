"""kopf's handlers: each hands what it is told to the controller, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import kopf

from disaggregatedset.cluster.objects import DEVICE_CLASS, INFERENCE_POOL, Kind
from disaggregatedset.reconcile.controller import WATCHED, Controller
from disaggregatedset.reconcile.view import SET
from disaggregatedset.render import SET_LABEL

#: kopf removes the finalizer that it is configured with from every object that it sees, so this is one that nobody has:
#: with kopf's own, two kopf operators in a cluster would undo each other's work.
_FINALIZER: Final = "disaggregatedset.dev/never-set"

_LONGEST_BACKOFF_SECONDS: Final = 30.0


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


class _Backoffs:
    """Seconds between tries, without end: no answer of the API server ends the process.

    Most are made by the session already, so that kopf does not see them.
    """

    def __iter__(self) -> Iterator[float]:
        seconds = 1.0
        while True:
            yield seconds
            seconds = min(_LONGEST_BACKOFF_SECONDS, seconds * 2)


def settings(namespaces: Sequence[str] = ()) -> kopf.OperatorSettings:
    """Return kopf's settings: watch what belongs to sets, write nothing.

    Parameters
    ----------
    namespaces
        Those that are watched; none: all.
    """
    made = kopf.OperatorSettings()
    made.networking.error_backoffs = _Backoffs()
    # Whoever may only look at some namespaces may not list them all, nor the CRDs.
    made.scanning.disabled = bool(namespaces)
    made.posting.enabled = False
    made.persistence.finalizer = _FINALIZER
    made.persistence.diffbase_storage = _NoDiffBase()
    made.persistence.progress_storage = _NoProgress()
    for kind in WATCHED:
        if kind not in {SET, DEVICE_CLASS}:
            made.watching.label_selectors[kind.group, kind.plural] = SET_LABEL
    return made


def registry(controller: Controller, session: Callable[[], Mapping[str, Any]]) -> kopf.OperatorRegistry:
    """Return the handlers of all kinds that are watched.

    Parameters
    ----------
    controller
        Is told about events.
    session
        Returns the arguments of ``kopf.AiohttpSession``; kopf closes the session when it ends.
    """
    made = kopf.OperatorRegistry()
    # It warns of kinds that the cluster does not have. Which of them matter, resyncs and conditions say.
    logging.getLogger("kopf._core.reactor.observation").setLevel(logging.ERROR)

    @kopf.on.login(registry=made)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(**session())

    for kind in WATCHED:
        # Clusters may get InferencePools any time: kopf watches what it finds later too.
        if kind is INFERENCE_POOL or controller.serves(kind):
            _watch(made, controller, kind)
    return made


def _watch(made: kopf.OperatorRegistry, controller: Controller, kind: Kind) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=made, id=f"observe-{kind.plural}")
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        controller.observe(kind, event["type"], dict(event["object"]))
