"""The log: who did what, and what became of it; nothing about what one may not see."""

import csv
import io
import json

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.webapp.conftest import make_person
from tests.webapp.watching_fixtures import HOSTILE, HTMX, RESTORE, count_queries, get, make_private
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action, Activity, ObjectType
from webapp.activity.recording import record_activity
from webapp.activity.request_tracking import use_source
from webapp.api.models import make_token
from webapp.audit.models import Gate
from webapp.audit.services import override_gate, remove_gate
from webapp.dashboard import activity_log
from webapp.experiments.jobs import record_job
from webapp.experiments.models import Experiment, Job

pytestmark = pytest.mark.django_db


def add(kind: str, by: User | None, experiment: Experiment | None, **values: object) -> Job:
    experiment_name = str(values.pop("experiment_name", experiment))
    job = Job.objects.create(
        kind=kind, created_by=by, experiment=experiment, experiment_name=experiment_name, **values
    )
    record_job(job)
    return job


def entries(client: Client) -> str:
    """The lines of the log, without the form above them."""
    return get(client, "/activity").partition('id="log-entries"')[2]


def test_the_log_says_who_asked_what_and_what_became_of_it(
    client: Client, experiment: Experiment, alice: User
) -> None:
    add("next", alice, experiment, status="done", outcome={"iteration": 3})
    gone = make_person("gone", "operator")
    add("pause", gone, experiment, status="refused", message="there is nothing to stop")
    gone.delete()
    page = get(client, "/activity")
    assert "start the next iteration" in page
    assert 'href="/experiments/first/iterations/3"' in page
    assert "gone" in page, "the name of a deleted user stays"
    assert "there is nothing to stop" in page
    assert page.index("there is nothing") < page.index("iteration 3")  # newest first


def read_csv(client: Client, query: str = "") -> list[dict[str, str]]:
    answer = client.get(f"/activity?format=csv{query}")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    text = b"".join(answer).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_log_is_a_csv_file_too(client: Client, experiment: Experiment, alice: User) -> None:
    add("next", alice, experiment, status="done", outcome={"iteration": 3})
    add("pause", None, experiment, status="refused", message='=HYPERLINK("http://evil")')
    gate = Gate.objects.create(experiment=experiment)
    remove_gate(gate.experiment, by=alice, reason="there is no time for it")
    removed, refused, done = read_csv(client, "&experiment=first")
    assert (removed["user"], removed["action"], removed["object"]) == (
        *("alice", "removed the gate", "first"),
    )
    assert removed["reason"] == "there is no time for it"
    assert json.loads(removed["before"])["min_answers"] == 50
    assert (refused["status"], refused["message"][0]) == ("refused", "'")
    assert (done["iteration"], done["after"]) == ("3", "")
    assert Activity.objects.get(action="exported").object_name == "activity log"
    assert [row["action"] for row in read_csv(client, "&kind=pause")] == ["pause"]


def test_a_long_log_is_sent_in_parts(
    client: Client, experiment: Experiment, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity_log, "_ENTRIES_AT_ONCE", 2)
    for number in range(5):
        add("next", alice, experiment, message=f"entry {number}")
    rows = read_csv(client, "&kind=next")
    assert [row["message"] for row in rows] == [f"entry {number}" for number in (4, 3, 2, 1, 0)]


def test_a_program_reads_the_log(client: Client, experiment: Experiment, alice: User) -> None:
    bob = make_person("bob", "operator")
    add("next", alice, experiment, message="of alice")
    add("pause", bob, experiment, message="of bob")
    path = "/api/v1/activity"
    everything = client.get(f"{path}?experiment=first").json()
    assert (everything["count"], [one["message"] for one in everything["entries"]]) == (
        *(2, ["of bob", "of alice"]),
    )
    assert (
        client.get(f"{path}?user=ali").json()["entries"][0]["action"] == "start the next iteration"
    )
    assert client.get(f"{path}?kind=pause&limit=1&offset=1").json() == {"count": 1, "entries": []}
    unknown = client.get(f"{path}?kind=nonsense")
    assert (unknown.status_code, "use one of" in unknown.json()["detail"]) == (422, True)
    make_private(experiment, alice)
    client.force_login(make_person("vera", "viewer"))
    assert client.get(f"{path}?experiment=first").json()["count"] == 0
    assert read_csv(client, "&experiment=first") == []


@pytest.mark.parametrize(
    "query, expected",
    [
        ("", {"alice next", "bob pause", "bob cancel"}),
        ("person=BOB", {"bob pause", "bob cancel"}),
        ("kind=cancel", {"bob cancel"}),
        ("experiment=other", {"bob cancel"}),
        ("person=bob&experiment=first", {"bob pause"}),
        ("kind=nonsense", {"alice next", "bob pause", "bob cancel"}),
        ("person=carol", set()),
    ],
)
def test_fields_narrow_the_log(
    client: Client, experiment: Experiment, alice: User, query: str, expected: set[str]
) -> None:
    bob = make_person("bob", "operator")
    other = Experiment.objects.create(name="other", recipe={}, seed=1)
    add("next", alice, experiment, message="alice next")
    add("pause", bob, experiment, message="bob pause")
    add("cancel", bob, other, message="bob cancel")
    page = get(client, f"/activity?{query}")
    assert {text for text in ("alice next", "bob pause", "bob cancel") if text in page} == expected


def test_what_one_may_not_see_is_not_in_the_log(
    client: Client, experiment: Experiment, alice: User
) -> None:
    bob = make_person("bob", "operator")
    make_private(experiment, bob)
    add("next", bob, experiment)
    add("launch", bob, None, experiment_name="secret-plan")
    add("launch", alice, None, experiment_name="my-plan")
    page = get(client, "/activity")
    assert "first" not in page
    assert "secret-plan" not in page
    assert "my-plan" in page
    client.force_login(make_person("root", "admin"))
    assert "secret-plan" in get(client, "/activity")


def test_what_became_of_accounts_stands_between_the_orders(
    client: Client, experiment: Experiment, alice: User
) -> None:
    """Each sees what concerns the own account; who may know, all of it."""
    bob = make_person("bob", "operator")
    make_token(bob, name="nightly", expires=None)
    add("next", alice, experiment)
    make_token(alice, name="hourly", expires=None)
    page = entries(client)
    assert "token created" in page
    assert "hourly" in page
    assert page.index("hourly") < page.index("start the next iteration")
    assert "nightly" not in page
    assert "account bob" not in page
    client.force_login(make_person("ada", "admin"))
    page = entries(client)
    assert page.index("hourly") < page.index("nightly")
    assert "account bob" in page
    assert "nightly" not in get(client, "/activity?kind=next")
    assert "nightly" not in get(client, "/activity?experiment=first")
    only = get(client, "/activity?kind=accounts&person=bob")
    assert "nightly" in only
    assert "hourly" not in only


def test_a_stranger_who_guesses_a_name_is_told_to_admins(
    client: Client, experiment: Experiment
) -> None:
    log_event(Action.FAILED, HOSTILE)
    assert "entered a wrong password" not in get(client, "/activity")
    client.force_login(make_person("ada", "admin"))
    page = get(client, "/activity")
    assert "entered a wrong password" in page
    assert "the system" in page
    assert "<script>alert" not in page


def test_who_let_an_iteration_train_without_a_passed_audit_is_in_the_log(
    client: Client, experiment: Experiment, alice: User
) -> None:
    override_gate(experiment, 2, source_sha256="", outcome="all", reason="a test run", by=alice)
    for query in ("", "?kind=overrides", "?experiment=first&person=alice"):
        page = get(client, f"/activity{query}")
        assert "overrode the audit gate" in page
        assert "a test run" in page
        assert 'href="/experiments/first/iterations/2"' in page
    assert "a test run" not in get(client, "/activity?kind=next")
    assert "a test run" not in get(client, "/activity?person=bob")
    make_private(experiment, make_person("bob", "operator"))
    assert "a test run" not in get(client, "/activity")


def test_who_asked_an_audit_for_less_is_in_the_log(
    client: Client, experiment: Experiment, alice: User
) -> None:
    gate = Gate.objects.create(experiment=experiment)
    remove_gate(gate.experiment, by=alice, reason="people have no time for it")
    for query in ("", "?kind=acts", "?experiment=first&person=alice"):
        page = get(client, f"/activity{query}")
        assert "removed the gate" in page
        assert "people have no time for it" in page
    assert "removed the gate" not in get(client, "/activity?kind=next")
    assert "removed the gate" not in get(client, "/activity?person=bob")
    make_private(experiment, make_person("bob", "operator"))
    assert "removed the gate" not in get(client, "/activity")


@pytest.mark.parametrize("headers, is_whole", [({}, True), (HTMX, False), (RESTORE, True)])
def test_htmx_gets_the_entries_alone(
    client: Client, headers: dict[str, str], is_whole: bool
) -> None:
    page = get(client, "/activity", **headers)
    assert ("<html" in page) == is_whole
    assert page.count('id="log-entries"') == 1


def test_the_log_comes_in_pages_and_asks_as_often(
    client: Client, experiment: Experiment, alice: User
) -> None:
    add("next", alice, experiment, message="the first of all")
    before = count_queries(client, "/activity")
    assert before <= 9  # three tables are read
    for _ in range(50):
        add("pause", alice, experiment)
    assert count_queries(client, "/activity") <= before
    assert "the first of all" not in get(client, "/activity")
    assert "the first of all" in get(client, "/activity?page=2")
    assert 'href="?kind=&amp;page=2"' in get(client, "/activity?kind=")


def test_text_of_others_is_never_html(client: Client, experiment: Experiment) -> None:
    mallory = make_person(HOSTILE)
    add("next", mallory, experiment, message=HOSTILE, outcome={"iteration": HOSTILE})
    for path in ("/activity", f"/activity?person={HOSTILE}"):
        page = get(client, path)
        assert "<script>alert" not in page
        assert "<img" not in page


def test_strangers_are_kept_out(client: Client) -> None:
    assert Client().get("/activity").status_code == 302
    assert client.post("/activity").status_code == 405
    client.force_login(make_person("ada", "auditor"))
    assert client.get("/activity").status_code == 403


def test_what_auditors_answered_is_shown_to_who_may_decide_between_them(
    client: Client, experiment: Experiment, alice: User
) -> None:
    record_activity(
        Action.ANSWERED, object_type=ObjectType.ITEM, object_id=7, object_name="item 7",
        experiment=experiment, by=make_person("ada", "auditor"),
    )  # fmt: skip
    assert "item 7" not in get(client, "/activity?kind=items")
    client.force_login(make_person("root", "admin"))
    assert "item 7" in get(client, "/activity?kind=items")


def test_source_and_days_narrow_the_log(
    client: Client, experiment: Experiment, alice: User
) -> None:
    with use_source("cli"):
        add("next", alice, experiment, message="by a command")
    add("next", alice, experiment, message="by the system")
    Activity._base_manager.filter(source="system").update(created="2026-01-31T23:30:00Z")

    def shown(query: str) -> list[str]:
        return [row["message"] for row in read_csv(client, f"&kind=next{query}")]

    assert shown("&source=cli") == ["by a command"]
    assert shown("&since=2026-01-31&until=2026-01-31") == ["by the system"]
    assert shown("&until=2026-01-30") == []
    assert shown("&since=2026-02-01") == ["by a command"]
    path = "/api/v1/activity?kind=next"
    assert client.get(f"{path}&source=cli").json()["entries"][0]["source"] == "CLI"
    assert client.get(f"{path}&until=2026-01-31").json()["count"] == 1
    assert client.get(f"{path}&source=elsewhere").status_code == 422


@pytest.mark.parametrize("query", ["until=9999-12-31", "since=0001-01-01&until=0001-01-01"])
def test_the_first_and_the_last_day_of_the_calendar_are_days(client: Client, query: str) -> None:
    assert client.get(f"/activity?{query}").status_code == 200
    assert client.get(f"/api/v1/activity?{query}").status_code == 200


def test_who_gets_the_name_of_a_deleted_account_does_not_see_its_events() -> None:
    earlier = make_person("bob", "viewer")
    log_event(Action.SIGNED_IN, "bob", detail="from the home of the first bob")
    Activity.objects.create(
        action=Action.SIGNED_IN,
        object_type=ObjectType.ACCOUNT,
        object_name="bob",
        details="recorded by an earlier version",
        source="unknown",
    )
    assert "the first bob" in read_account_events(earlier)
    assert "an earlier version" in read_account_events(earlier)
    earlier.delete()
    bob = make_person("bob", "viewer")
    log_event(Action.SIGNED_IN, "bob", detail="from the home of the second bob")
    seen = read_account_events(bob)
    assert "the second bob" in seen
    assert "the first bob" not in seen
    assert "an earlier version" not in seen


def read_account_events(user: User) -> str:
    return " ".join(
        row.details
        for row in activity_log.find_activity(user, activity_log.LogFilter(kind="accounts"))
    )
