"""The InferencePool of a set: written where the cluster has them, and reported either way."""

from __future__ import annotations

from typing import Final

from disaggregatedset.api import DisaggregatedSet
from disaggregatedset.cluster.children import Children, NameConflictError
from disaggregatedset.cluster.client import ApiError, Client
from disaggregatedset.cluster.objects import INFERENCE_POOL
from disaggregatedset.reconcile.findings import Routed
from disaggregatedset.render import inference_pool

#: How often to look, while a set asks for an InferencePool and no watch tells of them.
LOOK_AGAIN_SECONDS: Final = 30.0

_NOT_SERVED: Final = Routed(
    "InferencePoolNotServed",
    "spec.routing.inferencePool: this cluster does not serve inference.networking.k8s.io/v1: install the CRDs of the "
    "Gateway API inference extension; everything else works without",
)


class Router:
    """Keeps InferencePools as sets ask for them.

    Parameters
    ----------
    client
        The API server.
    children
        Writes them.
    """

    def __init__(self, client: Client, children: Children) -> None:
        self._client = client
        self._children = children
        #: Whether the API server serves ``inference.networking.k8s.io/v1``.
        self.served = True
        #: Whether a watch has told of InferencePools. kopf looks for a new kind when its CRD changes, which may be
        #: before the API server tells of the kind; then it never watches it.
        self.watched = False

    async def route(self, dset: DisaggregatedSet) -> Routed | None:
        """Write the InferencePool of a set; return what became of it, or None where none is asked for.

        Raises
        ------
        ApiError
            If the API server does not answer.
        """
        pool = inference_pool(dset)
        if pool is None:
            return None
        if not self.served:
            self.served = await self._client.serves(INFERENCE_POOL)
        if not self.served:
            self.watched = False
            return _NOT_SERVED
        try:
            if not self.watched:
                await self._children.look_again(INFERENCE_POOL, pool)
            await self._children.apply(INFERENCE_POOL, pool)
        except NameConflictError as error:
            return Routed("NameConflict", str(error))
        except ApiError as error:
            if error.status == 404:
                self.served = await self._client.serves(INFERENCE_POOL)  # its CRD may have gone
            if not self.served:
                self.watched = False
                return _NOT_SERVED
            if not error.refused:
                raise
            return Routed("Rejected", f"spec.routing.inferencePool: {error.message}")
        return Routed("InferencePoolReady", f"InferencePool {pool['metadata']['name']} selects the compute pods")
