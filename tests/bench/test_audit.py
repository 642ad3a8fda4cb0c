import datetime as dt
import json

from e2e.bench import audit

OPERATOR = "system:serviceaccount:system:operator"
BASE = "/apis/apps/v1/namespaces/bench/deployments"


def line(audit_id, verb="patch", uri=f"{BASE}/a?force=true", user=OPERATOR, second=0, code=200, **reference):
    event = {
        "auditID": audit_id,
        "verb": verb,
        "requestURI": uri,
        "user": {"username": user},
        "requestReceivedTimestamp": f"2026-01-01T00:00:{second:02}.000000Z",
        "responseStatus": {"code": code},
    }
    return json.dumps(event | ({"objectRef": reference} if reference else {}))


def at(second):
    return dt.datetime(2026, 1, 1, 0, 0, second, tzinfo=dt.UTC)


def test_counts_a_users_requests_by_verb_and_resource():
    lines = [
        line("1", resource="deployments"),
        line("2", resource="deployments"),
        line("3", uri=f"{BASE}/a?dryRun=All", resource="deployments"),
        line("4", resource="disaggregatedsets", subresource="status"),
        line("5", "get", "/apis"),
        line("6", user="system:apiserver", resource="deployments"),
        # Somebody else whose request only mentions the user.
        line("7", "get", f"/api/v1/users/{OPERATOR}", user="admin", resource="users"),
    ]
    assert audit.count(audit.read(lines, OPERATOR)) == {
        "patch deployments": 2,
        "patch (dry run) deployments": 1,
        "patch disaggregatedsets/status": 1,
        "get /apis": 1,
    }


def test_a_watch_that_started_and_ended_is_one_request():
    lines = [line("1", "watch", resource="services"), line("1", "watch", second=9, resource="services")]
    (watch,) = audit.read(lines, OPERATOR)
    assert watch.at == at(0)


def test_a_dry_run_writes_nothing():
    lines = [
        line("1", resource="deployments"),
        line("2", uri=f"{BASE}/a?dryRun=All", resource="deployments"),
        line("3", "list", BASE, resource="deployments"),
    ]
    assert [request.writes for request in audit.read(lines, OPERATOR)] == [True, False, False]


def test_only_requests_of_a_time():
    requests = audit.read([line(str(n), second=n, resource="pods") for n in range(5)], OPERATOR)
    assert [r.at.second for r in audit.between(requests, at(1), at(3))] == [1, 2]


def test_failures_have_their_status():
    lines = [line("1", resource="services"), line("2", resource="services", code=409)]
    assert audit.failures(audit.read(lines, OPERATOR)) == {"patch services 409": 1}
