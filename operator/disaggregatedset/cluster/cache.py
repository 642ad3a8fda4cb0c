"""The last known state of the objects that the operator looks at.

It is fed by watch events, by the answers to the operator's own writes, and by resync lists. Whichever of them is newest
wins, by resource version, so it reads its own writes; and what a list no longer has is dropped, so it keeps no ghost of
an object whose deletion no watch reported.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from disaggregatedset.cluster.objects import Key, Kind, Object, key_of, resource_version

#: What of an object matters: a change of anything else is stored, but wakes nobody.
Projection = Callable[[Object], Any]


class Cache:
    """Objects of some kinds, by key and by the set that they belong to.

    Parameters
    ----------
    projections
        The kinds that are cached and, for each, what of its objects matters.
    set_label
        The label that names the set that an object belongs to.
    """

    def __init__(self, projections: Mapping[Kind, Projection], set_label: str) -> None:
        self._projections = projections
        self._set_label = set_label
        self._objects: dict[Kind, dict[Key, Object]] = {kind: {} for kind in projections}
        self._by_set: dict[Kind, dict[Key, set[Key]]] = {kind: defaultdict(set) for kind in projections}
        # When objects were deleted, and of when the last list is: an answer that comes after that brings nothing back.
        self._deleted: dict[Kind, dict[Key, int]] = {kind: {} for kind in projections}
        self._listed: dict[Kind, int] = dict.fromkeys(projections, 0)

    def get(self, kind: Kind, key: Key) -> Object | None:
        """Return an object, or None if there is none."""
        return self._objects[kind].get(key)

    def all(self, kind: Kind) -> Iterable[Object]:
        """Return all objects of a kind."""
        return self._objects[kind].values()

    def of_set(self, kind: Kind, key: Key) -> list[Object]:
        """Return the objects of a kind that carry the label of a set, in the order of their names."""
        return [self._objects[kind][k] for k in sorted(self._by_set[kind].get(key, ()))]

    def owner(self, obj: Object) -> Key | None:
        """Return the set that an object's label names."""
        metadata = obj["metadata"]
        name = (metadata.get("labels") or {}).get(self._set_label)
        return Key(metadata["namespace"], name) if name else None

    def store(self, kind: Kind, obj: Object) -> bool:
        """Store an object unless a newer state of it is known.

        Returns
        -------
        bool
            Whether anything changed that matters.
        """
        key, version = key_of(obj), resource_version(obj)
        known = self._objects[kind].get(key)
        if known is not None and version <= resource_version(known):
            return False
        # Not "<=": an object that has only lost its label is reported as deleted in the very state that it still has.
        if version < self._deleted[kind].get(key, -1):
            return False
        if self.owner(obj) is not None and version <= self._listed[kind]:  # then the list would have had it
            return False
        obj["metadata"].pop("managedFields", None)  # nobody reads it, and it is a third of the memory
        self._drop(kind, key)
        self._objects[kind][key] = obj
        if (owner := self.owner(obj)) is not None:
            self._by_set[kind][owner].add(key)
        project = self._projections[kind]
        return known is None or project(known) != project(obj)

    def delete(self, kind: Kind, obj: Object) -> bool:
        """Take note that an object, in this last state of it, was deleted."""
        key, version = key_of(obj), resource_version(obj)
        known = self._objects[kind].get(key)
        if known is not None and resource_version(known) > version:
            return False
        self._deleted[kind][key] = max(version, self._deleted[kind].get(key, -1))
        return self._drop(kind, key) is not None

    def evict(self, kind: Kind, key: Key) -> None:
        """Drop an object that the API server said is not there."""
        self._drop(kind, key)

    def replace(self, kind: Kind, objects: Iterable[Object], version: int) -> list[Object]:
        """Store what a list of all objects returned, and drop what it no longer has.

        Parameters
        ----------
        kind
            The kind that was listed.
        objects
            All objects of it.
        version
            The resource version of the list: objects newer than it stay.

        Returns
        -------
        list
            The objects that changed or vanished, where it matters: what the watch missed.
        """
        listed = {key_of(obj): obj for obj in objects}
        self._listed[kind] = 0
        changed = [obj for obj in listed.values() if self.store(kind, obj)]
        for key, known in list(self._objects[kind].items()):
            if key not in listed and resource_version(known) <= version:
                changed.append(known)
                self._drop(kind, key)
        self._deleted[kind] = {key: at for key, at in self._deleted[kind].items() if at > version}
        self._listed[kind] = version
        return changed

    def _drop(self, kind: Kind, key: Key) -> Object | None:
        known = self._objects[kind].pop(key, None)
        if known is not None and (owner := self.owner(known)) is not None:
            keys = self._by_set[kind][owner]
            keys.discard(key)
            if not keys:
                del self._by_set[kind][owner]
        return known
