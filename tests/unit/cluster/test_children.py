"""Children are written only where they differ, and never over what belongs to somebody else."""

from __future__ import annotations

from typing import Any

import pytest

from disaggregatedset.cluster.cache import Cache
from disaggregatedset.cluster.children import Children, NameConflictError
from disaggregatedset.cluster.client import ApiError, Client
from disaggregatedset.cluster.objects import DEPLOYMENT, SERVICE, Key
from tests.unit.fake_api_server import FakeApiServer, Object, status_of

LABEL = "example.com/set"
PATH = "/api/v1/namespaces/default/services/x"
KEY = Key("default", "x")


def _manifest(owner: str = "set-1", **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "x",
            "namespace": "default",
            "labels": {LABEL: "a"},
            "annotations": {"example.com/hash": str(sorted(spec.items()))},
            "ownerReferences": [{"uid": owner, "name": owner, "controller": True}],
        },
        "spec": spec or {"type": "ClusterIP"},
    }


@pytest.fixture
def cache() -> Cache:
    return Cache({SERVICE: lambda obj: obj["spec"], DEPLOYMENT: lambda obj: obj["spec"]}, LABEL)


@pytest.fixture
def children(client: Client, cache: Cache) -> Children:
    return Children(client, cache)


def _edit_spec(**spec: Any) -> Any:
    return lambda obj: obj["spec"].update(spec)


async def test_what_is_not_there_is_created(server: FakeApiServer, children: Children, cache: Cache) -> None:
    assert (await children.apply(SERVICE, _manifest())).drift is None
    assert (cache.get(SERVICE, KEY) or {})["spec"] == {"type": "ClusterIP"}, "it reads its own writes"
    assert server.requests[0].query["force"] == "false", "over nothing that the cache does not know"


async def test_what_is_as_it_should_be_costs_no_request(server: FakeApiServer, children: Children) -> None:
    await children.apply(SERVICE, _manifest())
    server.requests.clear()
    assert (await children.apply(SERVICE, _manifest())).drift is None
    assert server.requests == []


async def test_what_differs_is_applied_on_the_state_that_was_seen(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    await children.apply(SERVICE, _manifest(type="ClusterIP"))
    seen = (cache.get(SERVICE, KEY) or {})["metadata"]["resourceVersion"]
    written = await children.apply(SERVICE, _manifest(type="NodePort"))
    assert written.drift is None, "we have changed it, nobody else"
    request = server.requests[-1]
    assert (request.query["force"], request.body["metadata"]["resourceVersion"]) == ("true", seen)
    assert (cache.get(SERVICE, KEY) or {})["spec"] == {"type": "NodePort"}


async def test_what_others_changed_is_put_back_and_named(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    await children.apply(SERVICE, _manifest(type="ClusterIP"))
    cache.store(SERVICE, server.edit(PATH, _edit_spec(type="NodePort", theirs="stays")))
    written = await children.apply(SERVICE, _manifest(type="ClusterIP"))
    assert "spec.type" in (written.drift or "")
    assert server.objects[PATH]["spec"] == {"type": "ClusterIP", "theirs": "stays"}


async def test_fields_that_others_add_are_left_alone(server: FakeApiServer, children: Children, cache: Cache) -> None:
    await children.apply(SERVICE, _manifest())
    cache.store(SERVICE, server.edit(PATH, _edit_spec(theirs="stays")))
    server.requests.clear()
    await children.apply(SERVICE, _manifest())
    assert server.requests == []


async def test_an_object_that_changed_meanwhile_is_looked_at_again(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    await children.apply(SERVICE, _manifest(type="ClusterIP"))
    server.edit(PATH, _edit_spec(theirs=1))
    with pytest.raises(ApiError) as caught:
        await children.apply(SERVICE, _manifest(type="NodePort"))
    assert caught.value.status == 409
    await children.apply(SERVICE, _manifest(type="NodePort"))
    assert server.objects[PATH]["spec"] == {"type": "NodePort", "theirs": 1}


async def test_an_object_that_vanished_unseen_is_made_again(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    await children.apply(SERVICE, _manifest(type="ClusterIP"))
    server.remove(PATH)
    with pytest.raises(ApiError) as caught:
        await children.apply(SERVICE, _manifest(type="NodePort"))
    assert caught.value.status == 404
    assert cache.get(SERVICE, KEY) is None
    await children.apply(SERVICE, _manifest(type="NodePort"))
    assert server.objects[PATH]["spec"] == {"type": "NodePort"}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("owner", [None, "set-2"])
async def test_what_belongs_to_somebody_else_is_never_written(
    server: FakeApiServer, children: Children, cache: Cache, owner: str | None, known: bool
) -> None:
    theirs = _manifest(owner or "", type="NodePort")
    if owner is None:
        del theirs["metadata"]["ownerReferences"]
    stored = server.put(PATH, theirs)
    if known:
        cache.store(SERVICE, stored)
    before = dict(server.objects[PATH])
    for _ in range(2):
        with pytest.raises(
            NameConflictError, match="Service x exists in namespace default and does not belong to this set"
        ):
            await children.apply(SERVICE, _manifest(type="ClusterIP"))
        with pytest.raises(NameConflictError):
            await children.dry_run(SERVICE, _manifest(type="ClusterIP"))
    assert server.objects[PATH] == before


async def test_another_sets_child_of_the_same_manager_is_not_taken_over_either(
    server: FakeApiServer, children: Children
) -> None:
    """Both are written by this operator, so that no field conflicts; and the cache does not know the other one yet."""
    server.put(PATH, _manifest("set-2", type="ClusterIP"), manager="disaggregatedset")
    with pytest.raises(NameConflictError):
        await children.apply(SERVICE, _manifest("set-1", type="ClusterIP"))
    assert [o["uid"] for o in server.objects[PATH]["metadata"]["ownerReferences"]] == ["set-2"]


async def test_a_child_that_lost_its_label_and_more_is_put_right(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    """Its watch reports it as deleted; and what it lost is owned by somebody else now."""
    await children.apply(SERVICE, _manifest(type="ClusterIP"))

    def spoil(obj: Object) -> None:
        obj["metadata"]["labels"] = {}
        obj["spec"]["type"] = "NodePort"

    cache.delete(SERVICE, server.edit(PATH, spoil))
    with pytest.raises(ApiError):
        await children.apply(SERVICE, _manifest(type="ClusterIP"))
    await children.apply(SERVICE, _manifest(type="ClusterIP"))
    assert server.objects[PATH]["spec"] == {"type": "ClusterIP"}
    assert server.objects[PATH]["metadata"]["labels"] == {LABEL: "a"}


async def test_what_is_being_deleted_is_left_alone(server: FakeApiServer, children: Children, cache: Cache) -> None:
    await children.apply(SERVICE, _manifest())
    stored = server.edit(PATH, lambda obj: obj["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"))
    cache.store(SERVICE, stored)
    server.requests.clear()
    await children.apply(SERVICE, _manifest(type="NodePort"))
    await children.delete(SERVICE, stored)
    assert server.requests == []


async def test_what_is_stored_in_other_words_is_not_applied_for_ever(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    server.mutate = lambda obj: obj["spec"].update(type="clusterip")
    await children.apply(SERVICE, _manifest(type="ClusterIP"))
    for _ in range(3):
        await children.apply(SERVICE, _manifest(type="ClusterIP"))
    assert len(server.writes()) == 1
    await children.apply(SERVICE, _manifest(type="Another"))
    assert len(server.writes()) == 2, "another manifest is applied"
    cache.store(SERVICE, server.edit(PATH, _edit_spec(type="theirs")))
    await children.apply(SERVICE, _manifest(type="Another"))
    assert len(server.writes()) == 3, "and so is what somebody else has changed since"


async def test_dry_runs_change_nothing(server: FakeApiServer, children: Children, cache: Cache) -> None:
    answer = await children.dry_run(SERVICE, _manifest(type="ClusterIP"))
    assert answer["spec"] == {"type": "ClusterIP"}
    assert server.objects == {}
    assert cache.get(SERVICE, KEY) is None


async def test_a_refusal_comes_in_the_servers_words(server: FakeApiServer, children: Children) -> None:
    server.answers.append(status_of(422, "Invalid", "spec.type: Unsupported value"))
    with pytest.raises(ApiError, match="Unsupported value") as caught:
        await children.dry_run(SERVICE, _manifest())
    assert caught.value.refused
    server.answers.append(status_of(422, "Invalid", "spec.type: Unsupported value"))
    with pytest.raises(ApiError, match="Unsupported value"):
        await children.apply(SERVICE, _manifest())


async def test_deleting(server: FakeApiServer, children: Children, cache: Cache) -> None:
    await children.apply(SERVICE, _manifest())
    await children.delete(SERVICE, cache.get(SERVICE, KEY) or {})
    assert server.objects == {}


async def test_deleting_what_is_gone_already(server: FakeApiServer, children: Children, cache: Cache) -> None:
    await children.apply(SERVICE, _manifest())
    server.remove(PATH)
    await children.delete(SERVICE, cache.get(SERVICE, KEY) or {})
    assert cache.get(SERVICE, KEY) is None


async def test_what_changed_is_not_deleted_unseen(server: FakeApiServer, children: Children, cache: Cache) -> None:
    await children.apply(SERVICE, _manifest())
    known = cache.get(SERVICE, KEY) or {}
    server.edit(PATH, _edit_spec(theirs=1))
    with pytest.raises(ApiError) as caught:
        await children.delete(SERVICE, known)
    assert caught.value.status == 409
    assert PATH in server.objects
    await children.delete(SERVICE, cache.get(SERVICE, KEY) or {})
    assert server.objects == {}


async def test_an_object_that_was_replaced_is_not_deleted_in_its_place(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    await children.apply(SERVICE, _manifest())
    known = cache.get(SERVICE, KEY) or {}
    server.remove(PATH)
    server.put(PATH, _manifest("somebody"))
    with pytest.raises(ApiError):
        await children.delete(SERVICE, known)
    assert PATH in server.objects


@pytest.mark.parametrize("method", ["apply", "delete"])
async def test_errors_of_looking_again_are_not_swallowed(
    server: FakeApiServer, children: Children, cache: Cache, method: str
) -> None:
    await children.apply(SERVICE, _manifest(type="ClusterIP"))
    server.answers += [status_of(409, "Conflict", "changed"), status_of(500, "InternalError", "etcd is down")]
    known = cache.get(SERVICE, KEY) or {}
    calls = {"apply": children.apply(SERVICE, _manifest(type="NodePort")), "delete": children.delete(SERVICE, known)}
    for name in calls.keys() - {method}:
        calls[name].close()
    with pytest.raises(ApiError, match="etcd is down"):
        await calls[method]


# Handing over, and statuses.


async def test_what_is_handed_over_stays_when_it_is_left_out(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    await children.apply(SERVICE, _manifest(replicas=3, fixed=3))
    await children.hand_over(SERVICE, cache.get(SERVICE, KEY) or {}, {"replicas": 3})
    assert server.objects[PATH]["spec"] == {"replicas": 3, "fixed": 3}
    assert server.requests[-1].query["fieldManager"] != "disaggregatedset"
    await children.apply(SERVICE, _manifest(bounds=9))
    assert server.objects[PATH]["spec"] == {"replicas": 3, "bounds": 9}
    cache.store(SERVICE, server.edit(PATH, _edit_spec(replicas=7)))
    server.requests.clear()
    await children.apply(SERVICE, _manifest(bounds=9))
    assert server.requests == [], "it is theirs"
    await children.apply(SERVICE, _manifest(replicas=5, fixed=5))
    assert server.objects[PATH]["spec"] == {"replicas": 5, "fixed": 5}, "and can be taken back"


async def test_what_is_left_out_without_being_handed_over_goes(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    await children.apply(SERVICE, _manifest(replicas=3, fixed=3))
    await children.apply(SERVICE, _manifest(bounds=9))
    assert server.objects[PATH]["spec"] == {"bounds": 9}


async def test_nothing_is_handed_over_that_has_changed(server: FakeApiServer, children: Children, cache: Cache) -> None:
    await children.apply(SERVICE, _manifest(replicas=3))
    known = cache.get(SERVICE, KEY) or {}
    server.edit(PATH, _edit_spec(replicas=4))
    with pytest.raises(ApiError) as caught:
        await children.hand_over(SERVICE, known, {"replicas": 3})
    assert caught.value.status == 409
    assert server.objects[PATH]["spec"]["replicas"] == 4


async def test_a_status_is_written_whole_and_nothing_else(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    await children.apply(SERVICE, _manifest())
    await children.apply_status(SERVICE, cache.get(SERVICE, KEY) or {}, {"a": 1, "b": 2})
    await children.apply_status(SERVICE, cache.get(SERVICE, KEY) or {}, {"b": 3})
    assert server.objects[PATH]["status"] == {"b": 3}
    assert server.objects[PATH]["spec"] == {"type": "ClusterIP"}
    assert (cache.get(SERVICE, KEY) or {})["status"] == {"b": 3}, "it reads its own writes"
    assert set(server.requests[-1].body) == {"apiVersion", "kind", "metadata", "status"}


async def test_a_status_of_what_changed_or_is_gone_is_not_written(
    server: FakeApiServer, children: Children, cache: Cache
) -> None:
    await children.apply(SERVICE, _manifest())
    known = cache.get(SERVICE, KEY) or {}
    server.edit(PATH, _edit_spec(theirs=1))
    with pytest.raises(ApiError) as caught:
        await children.apply_status(SERVICE, known, {"a": 1})
    assert caught.value.status == 409
    server.remove(PATH)
    with pytest.raises(ApiError) as caught:
        await children.apply_status(SERVICE, known, {"a": 1})
    assert caught.value.status == 404
    assert cache.get(SERVICE, KEY) is None


async def test_whether_a_manifest_would_change_anything(children: Children, cache: Cache) -> None:
    assert children.differs(SERVICE, _manifest())
    await children.apply(SERVICE, _manifest())
    assert not children.differs(SERVICE, _manifest())
    assert children.differs(SERVICE, _manifest(type="NodePort"))


async def test_what_is_stored_in_other_words_does_not_differ(server: FakeApiServer, children: Children) -> None:
    server.mutate = lambda obj: obj["spec"].update(type="clusterip")
    await children.apply(SERVICE, _manifest(type="ClusterIP"))
    assert not children.differs(SERVICE, _manifest(type="ClusterIP"))
