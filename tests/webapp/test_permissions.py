"""Who may ask what: every address of the site against every kind of person.

The table must name each address; a new view cannot be forgotten.
"""

from collections.abc import Iterator
from typing import Final

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from tests.webapp.conftest import make_person
from webapp.experiments.models import Experiment, Iteration, Job

pytestmark = pytest.mark.django_db

# Who may ask at all; what they get may still be that there is no such thing.
ANYBODY: Final = {"healthz", "livez", "login"}
WATCHERS: Final = {"health_report", "metrics"}  # by a token, or admins
MEMBERS: Final = {
    *("logout", "password_change", "two_factor", "confirm_identity", "unsent_form"),
    *("start_two_factor", "confirm_two_factor", "remove_two_factor"),
}
VIEWERS: Final = {
    *(
        "index",
        "workers",
        "activity",
        "experiment",
        "iteration",
        "attempt_output",
        "compare",
        "files",
        "file",
    ),
    *("report", "evaluations"),
    *(
        "prompts",
        "prompt",
        "battle",
        "prompt_across_models",
        "what-if",
        "playground",
        "conversation",
    ),
    *("publish", "published_archive", "job"),
    *("audits", "audit_report", "audit_export", "experiment_audits"),
    *("iteration_audits", "audit_items", "audit_items_csv", "audit_answers_csv", "audit_review"),
    *("tokens", "revoke_token", "notifications", "renew_webhook_secret", "send_test_notification"),
}
OPERATORS: Final = {
    *(
        "audit_new",
        "audit_gate",
        "audit_gate_remove",
        "audit_override",
    ),
    "audit_import",
    *(
        "new_experiment",
        "new_experiment_prompts",
        "duplicate",
        "fork",
        "request_action",
        "cancel_turn",
    ),
    *("compare_models", "ownership", "send_to_audit"),
    *("model_check", "settings", "bulk_action", "details", "archive", "delete"),
}
AUDITORS: Final = {
    *("annotate", "audit_skipped", "audit_item", "audit_draft", "audit_skip", "audit_undo"),
    "audit_reveal",
}
LEADS: Final = {"audit_review_draft", "audit_review_undo"}
OPERATORS_AND_LEADS: Final = {"audit_close", "audit_auditors"}
OF_AN_EXPERIMENT: Final = {
    "name": "first",
    "number": 1,
    "prompt_id": "a" * 64,
    "path": "x",
    "form": "jsonl",
}
ASKED_BY_POST: Final = {
    *("start_two_factor", "confirm_two_factor", "remove_two_factor"),
    *("logout", "revoke_token", "renew_webhook_secret", "send_test_notification"),
    *("new_experiment_prompts", "request_action", "cancel_turn", "compare_models"),
    *("bulk_action", "archive"),
    *("audit_auditors", "audit_import", "audit_draft", "audit_skip", "audit_undo"),
    *("audit_gate", "audit_gate_remove", "audit_override", "audit_reveal", "audit_skipped"),
    *("audit_review_draft", "audit_review_undo"),
}
APART: Final = {"admin", "api-1.0.0"}  # tests of their own stand beside them


def named_patterns(resolver: URLResolver) -> Iterator[tuple[str, list[str]]]:
    for entry in resolver.url_patterns:
        if isinstance(entry, URLPattern):
            if entry.name and entry.lookup_str.partition(".")[0] == "webapp":
                yield entry.name, list(entry.pattern.regex.groupindex)
            elif entry.name in {"login", "logout", "password_change"}:
                yield entry.name, []
        elif entry.namespace not in APART:
            yield from named_patterns(entry)


ADDRESSES: Final = dict(named_patterns(get_resolver()))


def test_every_address_is_in_the_table_once() -> None:
    table = [*ANYBODY, *WATCHERS, *MEMBERS, *VIEWERS, *OPERATORS, *AUDITORS, *LEADS]
    table += OPERATORS_AND_LEADS
    assert sorted(table) == sorted(ADDRESSES)


def ask(client: Client, name: str, **given: object) -> int:
    """The status of an answer, to the method that the address knows."""
    values = OF_AN_EXPERIMENT | {"pk": 1} | given
    path = reverse(name, kwargs={key: values[key] for key in ADDRESSES[name]})
    return (client.post if name in ASKED_BY_POST else client.get)(path).status_code


def browser_of(person: User | None) -> Client:
    client = Client()
    if person is not None:
        client.force_login(person)
    return client


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_strangers_are_asked_to_sign_in(iteration: Iteration, name: str) -> None:
    status = ask(browser_of(None), name)
    assert status == (200 if name in ANYBODY else 401 if name in WATCHERS else 302)


@pytest.mark.parametrize("name", sorted(WATCHERS))
@pytest.mark.parametrize("role", ["", "viewer", "operator", "auditor"])
def test_figures_of_the_whole_installation_are_for_watchers(
    iteration: Iteration, role: str, name: str
) -> None:
    assert ask(browser_of(make_person("nora", role)), name) == 401


@pytest.mark.parametrize("name", sorted(VIEWERS | OPERATORS))
@pytest.mark.parametrize("role", ["", "auditor"])
def test_whoever_has_no_role_that_sees_is_turned_away(
    iteration: Iteration, role: str, name: str
) -> None:
    expected = {"index": 302, "audits": 200}.get(name, 403) if role == "auditor" else 403
    assert ask(browser_of(make_person("nora", role)), name) == expected


def test_whoever_only_audits_is_led_to_the_audits(db: None) -> None:
    answer = browser_of(make_person("arthur", "auditor")).get("/")
    assert answer.headers["Location"] == reverse("audits")


@pytest.mark.parametrize("name", sorted(AUDITORS))
@pytest.mark.parametrize("role", ["", "viewer", "operator"])
def test_only_auditors_sit_at_the_desk(iteration: Iteration, role: str, name: str) -> None:
    assert ask(browser_of(make_person("nora", role)), name) == 403


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_viewers_only_look(iteration: Iteration, name: str) -> None:
    assert ask(browser_of(make_person("vera", "viewer")), name) == 403


@pytest.mark.parametrize("name", sorted(VIEWERS))
def test_viewers_may_look(iteration: Iteration, name: str) -> None:
    assert ask(browser_of(make_person("vera", "viewer")), name) in (200, 302, 404)


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_members_keep_their_own_things(db: None, name: str) -> None:
    assert ask(browser_of(make_person("nora")), name) in (200, 302, 303, 404, 422)


TURNS: Final = {"conversation", "cancel_turn"}
THEIRS: Final = sorted(name for name, keys in ADDRESSES.items() if "name" in keys)


@pytest.mark.parametrize("name", sorted(LEADS))
@pytest.mark.parametrize("role", ["", "viewer", "operator", "auditor", "lead"])
def test_only_leads_adjudicate(iteration: Iteration, role: str, name: str) -> None:
    status = ask(browser_of(make_person("nora", role)), name)
    assert status == (404 if role == "lead" else 403)


@pytest.mark.parametrize("name", sorted(OPERATORS_AND_LEADS))
@pytest.mark.parametrize("role", ["", "viewer", "operator", "auditor", "lead"])
def test_operators_and_leads_manage_batches(iteration: Iteration, role: str, name: str) -> None:
    status = ask(browser_of(make_person("nora", role)), name)
    assert status == (404 if role in ("operator", "lead") else 403)


@pytest.mark.parametrize("name", THEIRS)
def test_a_private_experiment_is_not_there_for_strangers(iteration: Iteration, name: str) -> None:
    Experiment.objects.update(is_private=True)
    stranger = make_person("mallory", "operator")
    job = Job.objects.create(kind="chat", experiment=iteration.experiment, experiment_name="first")
    assert ask(browser_of(stranger), name, number=job.pk if name in TURNS else 1) == 404


@pytest.mark.parametrize("path", ["actions", "iterations/1/publish"])
@pytest.mark.parametrize("name, role", [("mallory", "operator"), ("vera", "viewer")])
def test_what_belongs_to_somebody_else_is_seen_and_not_steered(
    iteration: Iteration, name: str, role: str, path: str
) -> None:
    Iteration.objects.update(status="finished", model_out="c" * 64)
    person = browser_of(make_person(name, role))
    assert ask(person, "experiment") == 200
    assert person.post(f"/experiments/first/{path}", {"do": "next"}).status_code == 403
    assert not Job.objects.exists()


@pytest.mark.parametrize("name", ["experiment", "iteration"])
def test_admins_see_private_experiments(iteration: Iteration, name: str) -> None:
    Experiment.objects.update(is_private=True)
    assert ask(browser_of(make_person("ada", "admin")), name) == 200


def test_a_private_experiment_is_in_no_list_of_strangers(iteration: Iteration) -> None:
    Experiment.objects.update(is_private=True)
    stranger = browser_of(make_person("mallory", "operator"))
    for path in ("/", "/experiments/compare", "/activity"):
        assert "first" not in stranger.get(path).content.decode().replace("first account", "")


def test_somebody_who_was_dismissed_is_a_stranger(iteration: Iteration, alice: User) -> None:
    client = browser_of(alice)
    assert ask(client, "index") == 200
    User.objects.update(is_active=False)
    assert ask(client, "index") == 302


def test_a_region_sends_the_whole_page_to_the_form(iteration: Iteration) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://evil.example/workers"}
    answer = browser_of(None).get("/workers", headers=headers)
    assert (answer.status_code, answer.headers["HX-Refresh"]) == (204, "true")
    assert "evil" not in str(answer.headers)
