"""The annotations by which a pod chooses how it lives; ``stages/README.md`` describes them."""

from typing import Literal

PREFIX = "e2e.disaggregatedset.dev"
BEHAVIOUR = f"{PREFIX}/behaviour"

Behaviour = Literal["never-ready", "crash-loop", "image-pull-failure"]


def behave(
    behaviour: Behaviour | None = None,
    *,
    ready_after: str | None = None,
    terminate_after: str | None = None,
    container: str | None = None,
    exit_code: int | None = None,
) -> dict[str, str]:
    """Return annotations for a pod, or for a pod template.

    Parameters
    ----------
    behaviour
        What is wrong with it; by default nothing.
    ready_after, terminate_after
        How long it takes to become ready and to terminate, such as ``5s``; by default no time.
    container
        The one that crashes or can't be pulled; by default all.
    exit_code
        What a crash exits with.
    """
    values = {
        "behaviour": behaviour,
        "ready-after": ready_after,
        "terminate-after": terminate_after,
        "container": container,
        "exit-code": exit_code,
    }
    return {f"{PREFIX}/{key}": str(value) for key, value in values.items() if value is not None}
