"""Every address and operation, by GET and POST, answers every kind of person as the page says."""

import os
from collections.abc import Sequence

import pytest
from celery import current_app
from django.contrib.auth.models import User
from django.test import Client

from tests.services import Broker
from tests.webapp import authorization
from tests.webapp.audit_fixtures import artifacts, audited, batch, carol, dave
from tests.webapp.authorization import KINDS, METHODS, SIGN_IN, Address, Answers
from tests.webapp.conftest import make_person
from webapp.audit.models import Batch
from webapp.experiments.models import Experiment, Job

__all__ = ["artifacts", "audited", "batch", "carol", "dave"]

pytestmark = pytest.mark.django_db

OPEN = {"livez", "healthz", "account/login"}
TRY = {
    "prompt": "Why?",
    "models": [0],
    "judges": [],
    "judgments": 1,
    "seed": 1,
    "sampling": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 64},
}
SOME = ("stranger", "viewer", "auditor", "owner", "other, private")
"""One for each way to be let in or kept out; the quick tests ask for these."""
UPDATE = "read docs/authorization.md, then run: make authorization"


@pytest.fixture
def people(batch: Batch, alice: User, carol: User) -> dict[str, User | None]:
    """One person of each kind; the batch is assigned to the auditor."""
    roles = ("viewer", "operator", "lead", "admin")
    found: dict[str, User | None] = {role: make_person(f"a-{role}", role) for role in roles}
    return found | {
        "stranger": None,
        "no role": make_person("nora"),
        "auditor": carol,
        "owner": alice,
    }


@pytest.fixture
def broker(running_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that answers: each look for one that does not takes two seconds."""
    for key in ("broker_url", "broker_read_url", "broker_write_url"):
        monkeypatch.setattr(current_app.conf, key, running_broker.url)


@pytest.fixture
def rows(batch: Batch, alice: User) -> dict[str, int]:
    """The numbers of a batch and of a try: one that no address has by chance, on any database."""
    job = Job.objects.create(
        pk=70_001,
        kind="chat",
        experiment=batch.experiment,
        experiment_name="scripted",
        created_by=alice,
        payload=TRY,
    )
    return {"batch": batch.pk, "job": job.pk}


def answers_now(
    people: dict[str, User | None], rows: dict[str, int], kinds: Sequence[str]
) -> Answers:
    found: dict[tuple[str, str], list[str]] = {}
    for kind in kinds:
        name, _, private = kind.partition(", ")
        Experiment.objects.update(is_private=bool(private))
        client = Client()
        person = people["operator" if name == "other" else name]
        if person is not None:
            client.force_login(person)
        for address in authorization.every_address():
            for method in METHODS:
                given = found.setdefault((address.route, method), [])
                given.append(authorization.ask(client, method, address, rows))
    return {key: tuple(given) for key, given in found.items()}


@pytest.mark.parametrize(
    "kinds",
    [pytest.param(KINDS, id="all kinds", marks=pytest.mark.slow), pytest.param(SOME, id="some")],
)
def test_everybody_gets_the_answers_of_the_page(
    people: dict[str, User | None], rows: dict[str, int], broker: None, kinds: Sequence[str]
) -> None:
    now = answers_now(people, rows, kinds)
    if os.environ.get("WRITE_AUTHORIZATION") and kinds == KINDS:
        authorization.write_page(now)
    expected = {
        key: tuple(given[KINDS.index(kind)] for kind in kinds)
        for key, given in authorization.read_page().items()
    }
    assert list(expected) == list(now), f"addresses without an expectation: {UPDATE}"
    assert {key: given for key, given in now.items() if given != expected[key]} == {}, UPDATE


EXPECTED = authorization.read_page()


def cells(kind: str) -> dict[tuple[str, str], str]:
    """What the page says of one kind of person."""
    return {key: given[KINDS.index(kind)] for key, given in EXPECTED.items()}


def test_the_page_lets_strangers_in_nowhere() -> None:
    """Whatever was written anew: these hold for every address that there will be."""
    for (route, method), answer in cells("stranger").items():
        if route in OPEN:
            continue
        shut = {"401", "404", "405"} if route.startswith("api/") else {SIGN_IN, "401", "405"}
        assert answer in shut, (route, method)


def test_the_page_hides_a_private_experiment_from_others() -> None:
    of_one = [key for key in EXPECTED if "experiments/<str:name>" in key[0]]
    assert len(of_one) > 20
    for key in of_one:
        assert cells("other, private")[key] in {"404", "405"}, key


@pytest.mark.parametrize("kind", ["no role", "viewer", "auditor", "lead"])
def test_the_page_lets_nobody_start_or_steer_who_may_not(kind: str) -> None:
    """By POST these change at most their own account, and what their role decides about items."""
    batch = "audits/<int:pk>/"
    of_role = {
        "auditor": [batch],
        "lead": [f"{batch}{one}" for one in ("items/<int:number>/review", "close", "auditors")],
    }
    own = ("account/", *of_role.get(kind, []))
    for (route, method), answer in cells(kind).items():
        if method == "POST" and not route.startswith(own) and route not in OPEN:
            assert answer in {"401", "403", "404", "405"}, (route, kind)


def test_an_address_is_filled_in() -> None:
    rows = {"batch": 7, "job": 8}
    route = "experiments/<str:name>/iterations/<int:number>/prompts/<str:prompt_id>"
    assert Address(route).path(rows) == f"/experiments/scripted/iterations/1/prompts/{'a' * 64}"
    assert Address("audits/<int:pk>/annotate").path(rows) == "/audits/7/annotate"
    assert Address("experiments/<str:name>/audits/<int:number>").path(rows).endswith("/audits/1")
    assert Address("jobs/<int:pk>").path(rows) == "/jobs/8"
    assert Address("experiments/<str:name>/playground/<int:number>").path(rows).endswith("/8")
