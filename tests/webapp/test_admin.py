"""The admin shows every row to whoever has the role, and acts by the pages' own ways."""

from datetime import timedelta
from typing import Any, Final

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db.models import Model
from django.test import Client
from django.utils import timezone
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken

from tests.webapp.conftest import make_person
from tests.webapp.watching_fixtures import add_worker, run_judging
from webapp.accounts.models import AccountCredentials
from webapp.api.models import make_token
from webapp.experiments.models import Experiment, Iteration, Job, Worker
from webapp.notifications.models import Notification, Recipient

pytestmark = pytest.mark.django_db

NOT_SHOWN: Final = {
    *(Permission, ContentType, Session, StaticDevice, StaticToken),
    AccountCredentials,
}
"""What Django itself keeps, the hashes of codes and sessions, and the counters that end them."""
MODELS: Final = [model for model in apps.get_models() if model not in NOT_SHOWN]
BY_LABEL: Final = {model._meta.label_lower: model for model in MODELS}


def where(model: type[Model]) -> str:
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/"


def staff(name: str, *roles: str) -> Client:
    User.objects.filter(pk=make_person(name, *roles).pk).update(is_staff=True)
    client = Client()
    client.force_login(User.objects.get(username=name))
    return client


@pytest.fixture
def ada(db: None) -> Client:
    """A browser in which ada has signed in: no superuser, but with the role of an admin."""
    return staff("ada", "admin")


@pytest.mark.parametrize("label", sorted(BY_LABEL))
def test_an_admin_sees_a_list_of_every_model(ada: Client, iteration: Iteration, label: str) -> None:
    """With fields to search, filters where there is something to filter by, and every column."""
    run_judging(iteration)
    add_worker()
    model = BY_LABEL[label]
    assert admin.site.is_registered(model)
    answer = ada.get(where(model), {"q": "x"})
    assert answer.status_code == 200
    shown = admin.site.get_model_admin(model)
    assert len(shown.list_display) > 1
    assert shown.list_filter or shown.search_fields
    assert ada.get(where(model)).status_code == 200
    row = model._default_manager.first()
    if row is not None:
        assert ada.get(f"{where(model)}{row.pk}/change/").status_code == 200


@pytest.mark.parametrize("role", ["", "viewer", "operator"])
def test_staff_of_another_role_sees_none(iteration: Iteration, role: str) -> None:
    client = staff("nora", role)
    seen = {model for model in MODELS if client.get(where(model)).status_code == 200}
    assert seen == ({Experiment} if role else set())


def test_auditors_see_their_own_answers_alone(iteration: Iteration) -> None:
    client = staff("arthur", "auditor")
    seen = {model._meta.label for model in MODELS if client.get(where(model)).status_code == 200}
    assert seen == {"audit.Answer"}


def act(client: Client, row: Model, action: str) -> list[str]:
    """Choose an action for a row; returns what the next page says."""
    given = {"action": action, "_selected_action": [row.pk], "index": 0}
    answer = client.post(where(type(row)), given, follow=True)
    return [str(message) for message in answer.context["messages"]]


@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_an_admin_asks_for_what_the_buttons_ask(
    ada: Client, iteration: Iteration, action: str
) -> None:
    run_judging(iteration)
    said = act(ada, iteration, action)
    assert said == [f"1 requested to {action}; see the activity log for the results."]
    job = Job.objects.get()
    assert (job.kind, job.status, job.experiment) == (action, "waiting", iteration.experiment)
    assert job.created_by == User.objects.get(username="ada")
    assert "is not the latest iteration" in act(ada, iteration, action)[0]
    assert Job.objects.count() == 1


def test_what_cannot_be_asked_is_said_and_not_ordered(ada: Client, iteration: Iteration) -> None:
    run_judging(iteration)
    assert "Cannot resume" in act(ada, iteration, "resume")[0]
    Iteration.objects.create(experiment=iteration.experiment, number=2, model_in="c" * 64)
    assert "Cannot pause" in act(ada, iteration, "pause")[0]
    assert not Job.objects.exists()


def test_a_failed_iteration_is_tried_again(ada: Client, iteration: Iteration) -> None:
    Iteration.objects.update(status="failed")
    act(ada, iteration, "resume")
    assert Job.objects.get().kind == "resume"


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_staff_without_the_role_asks_for_nothing(iteration: Iteration, action: str) -> None:
    run_judging(iteration)
    client = staff("vera", "viewer")
    vera = User.objects.get(username="vera")
    vera.user_permissions.add(Permission.objects.get(codename="view_iteration"))
    act(client, iteration, action)
    assert not Job.objects.exists()


def test_experiments_are_hidden_and_shown_and_the_log_says_so(
    ada: Client, experiment: Experiment
) -> None:
    act(ada, experiment, "hide")
    assert Experiment.objects.get().is_private
    act(ada, experiment, "show")
    assert not Experiment.objects.get().is_private
    assert [job.kind for job in Job.objects.all()] == ["hand_over", "hand_over"]
    Experiment.objects.update(owner=None)
    assert "has no owner" in act(ada, experiment, "hide")[0]
    assert not Experiment.objects.get().is_private


def test_a_token_ends_and_stays_in_the_list(ada: Client, alice: User) -> None:
    row, token = make_token(alice, name="lost", expires=None)
    headers = {"Authorization": f"Bearer {token}"}
    assert Client(headers=headers).get("/api/v1/experiments").status_code == 200
    assert act(ada, row, "expire_tokens") == ["1 tokens ended."]
    assert Client(headers=headers).get("/api/v1/experiments").status_code == 401
    row.refresh_from_db()
    assert row.expires is not None


def test_a_notice_that_was_given_up_is_tried_again(ada: Client, alice: User) -> None:
    recipient = Recipient.objects.create(user=alice)
    values: dict[str, Any] = {"recipient": recipient, "channel": "email", "due": timezone.now()}
    lost = Notification.objects.create(
        event="test", status="given_up", attempts=9, error="no", **values
    )
    sent = Notification.objects.create(event="ended", status="sent", attempts=1, **values)
    act(ada, lost, "send_again")
    act(ada, sent, "send_again")
    lost.refresh_from_db()
    sent.refresh_from_db()
    assert (lost.status, lost.attempts, lost.error) == ("waiting", 0, "")
    assert (sent.status, sent.attempts) == ("sent", 1)


def test_workers_are_told_apart_by_whether_they_are_heard(ada: Client) -> None:
    add_worker(pid=1, name="lively")
    add_worker(pid=2, name="mute", heartbeat=timezone.now() - timedelta(minutes=5))
    for heard, name in {"lately": "lively", "silent": "mute"}.items():
        found = ada.get(where(Worker), {"heard": heard}).context["cl"].queryset
        assert [row.name for row in found] == [name]
    assert [row.name for row in ada.get(where(Worker), {"q": "mut"}).context["cl"].queryset] == [
        "mute"
    ]


def account_form(person: User, **changes: object) -> dict[str, object]:
    joined = timezone.now()
    return {
        "username": person.username,
        "is_active": "on",
        "date_joined_0": joined.strftime("%Y-%m-%d"),
        "date_joined_1": joined.strftime("%H:%M:%S"),
        **changes,
    }


def test_an_admin_gives_roles_and_makes_staff_but_no_superusers(ada: Client, alice: User) -> None:
    role = Group.objects.get(name="admin")
    wishes = {"groups": [role.pk], "is_staff": "on", "is_superuser": "on"}
    rights = [Permission.objects.get(codename="delete_experiment").pk]
    answer = ada.post(
        f"{where(User)}{alice.pk}/change/",
        account_form(alice, user_permissions=rights, **wishes),
    )
    assert answer.status_code == 302
    alice.refresh_from_db()
    assert alice.is_staff
    assert list(alice.groups.all()) == [role]
    assert not alice.is_superuser
    assert not alice.user_permissions.exists()


def test_a_superusers_account_is_not_an_admins_to_change(ada: Client) -> None:
    root = User.objects.create_superuser("root", password="correct horse")
    page = f"{where(User)}{root.pk}"
    assert ada.get(f"{page}/change/").context["has_change_permission"] is False
    assert ada.post(f"{page}/change/", account_form(root)).status_code == 403
    new = {"password1": "Zwetschge-17-blau", "password2": "Zwetschge-17-blau"}
    assert ada.post(f"{page}/password/", new).status_code == 403
    assert ada.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    act(ada, root, "delete_selected")
    ada.post(
        where(User),
        {"action": "delete_selected", "_selected_action": [root.pk], "index": 0, "post": "yes"},
    )
    assert User.objects.get(username="root").check_password("correct horse")


def test_an_admin_makes_an_account(ada: Client) -> None:
    password = "Zwetschge-17-blau"
    given = {"username": "newt", "password1": password, "password2": password}
    ada.post(f"{where(User)}add/", given | {"usable_password": "true"})
    assert User.objects.get(username="newt").check_password(password)
