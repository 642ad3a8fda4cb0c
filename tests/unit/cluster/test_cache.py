"""The cache ends in the true state, whatever arrives late, twice, or not at all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.objects import SERVICE, Key, resource_version

LABEL = "example.com/set"
Object = dict[str, Any]


def _object(name: str, version: int, of_set: str | None, uid: str = "1", spec: int = 0) -> Object:
    labels = {LABEL: of_set} if of_set else {}
    metadata = {"namespace": "default", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"metadata": metadata, "spec": spec}


def _cache() -> Cache:
    return Cache({SERVICE: lambda obj: (obj["metadata"]["uid"], obj["metadata"]["labels"], obj["spec"])}, LABEL)


NAMES = st.sampled_from("xy")
SETS = st.sampled_from(["a", "b"])


class CacheMachine(RuleBasedStateMachine):
    """An API server, a watch of labelled objects that lags and may lose events, answers that come late, and lists.

    A list may be of an older state than the watch has reached, but lists don't go back in time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache = _cache()
        self.version = 0
        self.there: dict[str, Object] = {}
        self.history: list[dict[str, Object]] = [{}]  # labelled objects, by version
        self.events: list[tuple[str, Object]] = []
        self.answers: list[Object] = []
        self.list_version = 0
        self.lost = 0  # the version until which the watch may have lost something

    def _changed(self, name: str, obj: Object | None) -> None:
        before, self.version = self.there.get(name), self.version + 1
        if obj is None:
            del self.there[name]
        else:
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.there[name] = obj
        was, now = (o is not None and bool(o["metadata"]["labels"]) for o in (before, obj))
        if now and obj is not None:
            self.events.append(("MODIFIED" if was else "ADDED", copy.deepcopy(obj)))
        elif was and before is not None:  # gone, or out of the watch's selector
            last = copy.deepcopy(before)
            last["metadata"]["resourceVersion"] = str(self.version)
            self.events.append(("DELETED", last))
        labelled = {n: o for n, o in self.there.items() if o["metadata"]["labels"]}
        self.history.append(copy.deepcopy(labelled))

    @rule(name=NAMES, of_set=SETS, ours=st.booleans())
    def write(self, name: str, of_set: str | None, ours: bool) -> None:
        uid = self.there[name]["metadata"]["uid"] if name in self.there else str(self.version)
        self._changed(name, _object(name, 0, of_set, uid, spec=self.version))
        if ours:
            self.answers.append(copy.deepcopy(self.there[name]))

    @precondition(lambda self: self.there)
    @rule(data=st.data(), unlabel=st.booleans())
    def take_away(self, data: st.DataObject, unlabel: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.there)))
        if unlabel:
            self.write(name, None, ours=False)
        else:
            self._changed(name, None)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.there)))
        self.answers.append(copy.deepcopy(self.there[name]))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def an_answer_arrives(self, data: st.DataObject) -> None:
        answer = data.draw(st.sampled_from(range(len(self.answers))))
        self.cache.store(SERVICE, self.answers.pop(answer))

    @precondition(lambda self: self.events)
    @rule(events=st.integers(1, 3) | st.just(1000))
    def the_watch_reports(self, events: int) -> None:
        for kind, obj in self.events[:events]:
            self.cache.delete(SERVICE, obj) if kind == "DELETED" else self.cache.store(SERVICE, obj)
        del self.events[:events]

    @rule()
    def the_watch_starts_anew(self) -> None:
        """What was deleted meanwhile, it never reports."""
        self.events = [("ADDED", copy.deepcopy(obj)) for obj in self.history[-1].values()]
        self.lost = self.version

    @rule(data=st.data())
    def a_list_arrives(self, data: st.DataObject) -> None:
        self.list(data.draw(st.just(self.version) | st.integers(self.list_version, self.version)))

    def list(self, version: int) -> None:
        self.cache.replace(SERVICE, copy.deepcopy(list(self.history[version].values())), version)
        self.list_version = version

    @invariant()
    def the_index_is_true(self) -> None:
        for of_set in ("a", "b"):
            mine = [o for o in self.cache.all(SERVICE) if o["metadata"]["labels"].get(LABEL) == of_set]
            assert self.cache.of_set(SERVICE, Key("default", of_set)) == sorted(
                mine, key=lambda o: o["metadata"]["name"]
            )

    def _labelled(self) -> dict[str, Object]:
        return {o["metadata"]["name"]: o for o in self.cache.all(SERVICE) if o["metadata"]["labels"]}

    @rule()
    def everything_arrives(self) -> None:
        self.the_watch_reports(len(self.events))
        for obj in self.answers:
            self.cache.store(SERVICE, obj)
        self.answers.clear()
        if self.lost <= self.list_version:
            assert self._labelled() == self.history[-1], "all that there was to hear has been heard"

    def teardown(self) -> None:
        self.everything_arrives()
        self.list(self.version)
        assert self._labelled() == self.history[-1], "a list of everything puts everything right"


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=150, stateful_step_count=50)

KEY = Key("default", "x")
SET_A, SET_B = Key("default", "a"), Key("default", "b")


def test_what_matters_is_reported_as_a_change() -> None:
    cache = _cache()
    assert cache.store(SERVICE, _object("x", 1, "a"))
    assert not cache.store(SERVICE, _object("x", 2, "a")), "nothing that the projection shows"
    assert cache.store(SERVICE, _object("x", 3, "a", spec=1))
    assert resource_version(cache.get(SERVICE, KEY) or {}) == 3
    assert cache.delete(SERVICE, _object("x", 4, "a"))
    assert not cache.delete(SERVICE, _object("x", 4, "a"))


def test_an_older_state_never_replaces_a_newer_one() -> None:
    cache = _cache()
    cache.store(SERVICE, _object("x", 5, "a", spec=5))
    assert not cache.store(SERVICE, _object("x", 4, "a", spec=4))
    assert not cache.delete(SERVICE, _object("x", 4, "a")), "it was made again since"
    assert (cache.get(SERVICE, KEY) or {})["spec"] == 5


def test_an_event_from_before_a_deletion_makes_no_ghost() -> None:
    cache = _cache()
    cache.store(SERVICE, _object("x", 5, "a"))
    cache.delete(SERVICE, _object("x", 7, "a"))
    assert not cache.store(SERVICE, _object("x", 6, "a"))
    assert not cache.delete(SERVICE, _object("x", 3, "a", uid="0")), "of the one before"
    assert not cache.store(SERVICE, _object("x", 6, "a"))
    assert cache.get(SERVICE, KEY) is None
    assert cache.store(SERVICE, _object("x", 8, "a", uid="2"))


def test_an_answer_from_before_a_deletion_makes_no_ghost_after_a_list_either() -> None:
    cache = _cache()
    cache.delete(SERVICE, _object("x", 7, "a"))
    cache.replace(SERVICE, [], 10)
    assert not cache.store(SERVICE, _object("x", 6, "a"))


def test_deletions_are_not_remembered_for_ever() -> None:
    cache = _cache()
    cache.delete(SERVICE, _object("x", 7, "a"))
    cache.replace(SERVICE, [], 10)
    assert not cache._deleted[SERVICE]


def test_an_object_that_lost_its_label_can_be_stored_when_it_is_read() -> None:
    """The watch reports it as deleted, in the very state that it still has."""
    cache = _cache()
    cache.store(SERVICE, _object("x", 5, "a"))
    assert cache.delete(SERVICE, _object("x", 7, "a"))
    assert cache.store(SERVICE, _object("x", 7, None))


def test_a_changed_label_moves_an_object_to_the_other_set() -> None:
    cache = _cache()
    cache.store(SERVICE, _object("x", 1, "a"))
    cache.store(SERVICE, _object("x", 2, "b"))
    assert cache.of_set(SERVICE, SET_A) == []
    assert [o["metadata"]["name"] for o in cache.of_set(SERVICE, SET_B)] == ["x"]
    cache.store(SERVICE, _object("x", 3, None))
    assert cache.of_set(SERVICE, SET_B) == []


def test_a_list_reports_what_the_watch_missed_and_only_that() -> None:
    cache = _cache()
    for name in "xyz":
        cache.store(SERVICE, _object(name, 5, "a"))
    listed = [_object("x", 5, "a"), _object("y", 6, "a", spec=1), _object("new", 7, "b")]
    missed = cache.replace(SERVICE, listed, 8)
    assert sorted(o["metadata"]["name"] for o in missed) == ["new", "y", "z"]
    assert cache.replace(SERVICE, listed, 9) == []


def test_objects_that_are_newer_than_a_list_stay() -> None:
    cache = _cache()
    cache.store(SERVICE, _object("x", 9, "a"))
    assert cache.replace(SERVICE, [], 8) == []
    assert cache.get(SERVICE, KEY) is not None


def test_evicting() -> None:
    cache = _cache()
    cache.store(SERVICE, _object("x", 1, "a"))
    cache.evict(SERVICE, KEY)
    cache.evict(SERVICE, KEY)
    assert cache.get(SERVICE, KEY) is None
    assert cache.of_set(SERVICE, SET_A) == []


@pytest.mark.parametrize("labels", [None, {}, {LABEL: ""}])
def test_objects_of_no_set(labels: Any) -> None:
    cache = _cache()
    obj = _object("x", 1, None)
    obj["metadata"]["labels"] = labels
    assert cache.store(SERVICE, obj)
    assert cache.owner(obj) is None


def test_managed_fields_are_not_kept() -> None:
    cache = _cache()
    obj = _object("x", 1, "a")
    obj["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    cache.store(SERVICE, obj)
    assert "managedFields" not in (cache.get(SERVICE, KEY) or {})["metadata"]
