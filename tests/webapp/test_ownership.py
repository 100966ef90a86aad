"""Whose an experiment is and who sees it may change; the log keeps who did that, and what was."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.webapp.conftest import make_person
from tests.webapp.test_api import program_of
from tests.webapp.watching_fixtures import HTMX, get, make_private
from webapp.experiments.models import Experiment, Job

pytestmark = pytest.mark.django_db

PATH = "/experiments/first/ownership"


@pytest.fixture
def bob(db: None) -> User:
    return make_person("bob", "operator")


def now(experiment: Experiment) -> tuple[User | None, bool]:
    row = Experiment.objects.get(pk=experiment.pk)
    return row.owner, row.is_private


def test_the_owner_finds_the_form_on_the_experiments_page(
    client: Client, experiment: Experiment
) -> None:
    page = get(client, "/experiments/first")
    assert f'action="{PATH}"' in page
    assert '<option value="alice" selected>' in page
    assert f'action="{PATH}"' not in get(client, "/experiments/first", **HTMX)
    assert f'action="{PATH}"' in get(client, PATH)


def test_others_find_none(client: Client, experiment: Experiment, bob: User) -> None:
    for person in (bob, make_person("vera", "viewer")):
        client.force_login(person)
        assert f'action="{PATH}"' not in get(client, "/experiments/first")
        assert client.get(PATH).status_code == 403
        assert client.post(PATH, {"owner": person.username}).status_code == 403
    assert not Job.objects.exists()


def test_what_nobody_owns_only_admins_hand_over(
    client: Client, experiment: Experiment, bob: User
) -> None:
    Experiment.objects.update(owner=None)
    client.force_login(bob)
    assert client.post(PATH, {"owner": "bob"}).status_code == 403
    client.force_login(make_person("ada", "admin"))
    assert client.post(PATH, {"owner": "bob"}).status_code == 302
    assert now(experiment) == (bob, False)


def test_an_experiment_is_handed_over_and_the_log_says_so(
    client: Client, experiment: Experiment, alice: User, bob: User
) -> None:
    answer = client.post(PATH, {"owner": "bob"})
    assert answer.headers["Location"] == "/experiments/first"
    assert now(experiment) == (bob, False)
    entry = Job.objects.get()
    assert (entry.kind, entry.created_by, entry.status) == ("hand_over", alice, "done")
    assert entry.payload == {"owner": "bob", "is_private": False}
    assert entry.outcome == {"before": {"owner": "alice", "is_private": False}}
    assert entry.finished is not None
    page = get(client, "/activity")
    assert "change owner or visibility" in page
    assert "owner: alice → bob" in page
    assert client.post(PATH, {"owner": "alice"}).status_code == 403


def test_a_private_one_is_hidden_at_once(client: Client, experiment: Experiment, bob: User) -> None:
    other = Client()
    other.force_login(bob)
    assert other.get("/experiments/first").status_code == 200
    client.post(PATH, {"owner": "alice", "is_private": "on"})
    assert other.get("/experiments/first").status_code == 404
    assert "private: no → yes" in get(client, "/activity")
    client.post(PATH, {"owner": "alice"})
    assert other.get("/experiments/first").status_code == 200


def test_whoever_gives_a_private_one_away_is_led_to_the_list(
    client: Client, experiment: Experiment, alice: User, bob: User
) -> None:
    make_private(experiment, alice)
    answer = client.post(PATH, {"owner": "bob", "is_private": "on"})
    assert answer.headers["Location"] == "/"
    assert client.get("/experiments/first").status_code == 404


def test_nothing_changed_leaves_nothing_in_the_log(client: Client, experiment: Experiment) -> None:
    answer = client.post(PATH, {"owner": "alice"}, follow=True)
    assert "No changes were made." in answer.content.decode()
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "given, field, said",
    [
        ({"owner": "", "is_private": "on"}, "is_private", "must have one"),
        ({"owner": "vera"}, "owner", "Select a valid choice"),
        ({"owner": "<script>alert(1)</script>"}, "owner", "Select a valid choice"),
        ({"owner": "gone"}, "owner", "Select a valid choice"),
    ],
)
def test_what_makes_no_sense_is_said_beside_the_field(
    client: Client,
    experiment: Experiment,
    alice: User,
    given: dict[str, Any],
    field: str,
    said: str,
) -> None:
    make_person("vera", "viewer")
    User.objects.filter(pk=make_person("gone", "operator").pk).update(is_active=False)
    answer = client.post(PATH, given)
    assert said in answer.context["ownership"].errors[field][0]
    assert "<script>alert" not in answer.content.decode()
    assert now(experiment) == (alice, False)


def test_a_program_hands_over_what_it_may(experiment: Experiment, alice: User, bob: User) -> None:
    program = program_of(alice)
    status, found = program.ask("PATCH", "/experiments/first", {"is_private": True})
    assert (status, found["owner"], found["is_private"]) == (200, "alice", True)
    assert program_of(bob).ask("PATCH", "/experiments/first", {"is_private": False})[0] == 404
    status, found = program.ask("PATCH", "/experiments/first", {"owner": "bob"})
    assert (status, found["owner"], found["is_private"]) == (200, "bob", True)
    assert Job.objects.filter(kind="hand_over", created_by=alice).count() == 2
    assert program.ask("GET", "/experiments/first")[0] == 404


@pytest.mark.parametrize(
    "body, said",
    [
        ({"owner": None, "is_private": True}, "is_private: Choose an owner"),
        ({"owner": "nobody-of-this-name"}, "owner: Select a valid choice"),
        ({"ownr": "bob"}, "ownr"),
    ],
)
def test_a_program_is_told_what_makes_no_sense(
    experiment: Experiment, alice: User, body: dict[str, Any], said: str
) -> None:
    status, found = program_of(alice).ask("PATCH", "/experiments/first", body)
    assert status == 422
    assert said in str(found["detail"])
    assert now(experiment) == (alice, False)


def test_what_others_own_a_program_cannot_hand_over(experiment: Experiment, bob: User) -> None:
    status, found = program_of(bob).ask("PATCH", "/experiments/first", {"owner": "bob"})
    assert status == 403
    assert "only the owner" in found["detail"]
