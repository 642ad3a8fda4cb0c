"""What all manifests of children have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disaggregatedset.api import API_VERSION, KIND, DisaggregatedSet
from disaggregatedset.render import names
from disaggregatedset.render.revisions import digest

Manifest = dict[str, Any]

#: Hash of the manifest, so that what a manifest no longer has is noticed and given up.
MANIFEST_HASH = f"{names.LABEL}/manifest-hash"


def child(
    api_version: str, kind: str, name: str, dset: DisaggregatedSet, labels: Mapping[str, str], **body: Any
) -> Manifest:
    """Build the manifest of a child: named, labelled, and owned by its set."""
    hashed = digest({"labels": labels, "body": body})
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": dset.metadata.namespace,
            "labels": dict(labels),
            "annotations": {MANIFEST_HASH: hashed},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": dset.metadata.name,
                    "uid": dset.metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        **body,
    }
