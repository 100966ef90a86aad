"""What became of a launch: waiting, being opened, refused with a way back, or begun."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from tests.webapp.conftest import make_person
from tests.webapp.experiment_form_fixtures import (
    HTMX,
    launch,
    make_experiment,
    only_job,
    storage_roots,
)
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Job, JobKind

pytestmark = pytest.mark.django_db

__all__ = ["storage_roots"]


@pytest.fixture
def job(client: Client) -> Job:
    launch(client, **{"recipe.actor.samples": "5", "seed": "9"})
    return only_job()


def page_of(job: Job) -> str:
    return f"/jobs/{job.pk}"


def test_a_waiting_order_asks_for_itself(client: Client, job: Job) -> None:
    page = client.get(page_of(job)).content.decode()
    assert "Queued" in page
    assert 'hx-trigger="every 1s"' in page
    assert "actor.samples=5" in page
    assert "Still queued" not in page
    region = client.get(page_of(job), headers=HTMX).content.decode()
    assert "<html" not in region


def test_one_that_nobody_takes_says_what_may_be_missing(client: Client, job: Job) -> None:
    Job.objects.update(created=timezone.now() - timedelta(minutes=1))
    assert "Still queued" in client.get(page_of(job)).content.decode()


def test_what_is_said_while_it_is_opened_is_shown(client: Client, job: Job) -> None:
    said = {"opening": True, "said": ["p.txt: <b>2</b> duplicate(s) left out"]}
    Job.objects.update(status="running", token="0" * 32, outcome=said)
    page = client.get(page_of(job)).content.decode()
    assert "Preparing" in page
    assert "&lt;b&gt;2&lt;/b&gt; duplicate(s) left out" in page


def test_a_refusal_gives_the_reason_and_the_form_as_it_was(client: Client, job: Job) -> None:
    Job.objects.update(status="refused", message="no <room> left")
    page = client.get(page_of(job)).content.decode()
    assert "no &lt;room&gt; left" in page
    assert "hx-get" not in page
    assert f"/experiments/new?job={job.pk}" in page
    state: Any = client.get(f"/experiments/new?job={job.pk}").context["state"]
    assert state.draft.texts["actor.samples"] == "5"
    assert state.form["name"].value() == "mine"
    assert state.form["seed"].value() == 9
    assert [one.key for one in state.draft.differences] == ["actor.samples"]
    assert state.is_ready


def test_once_begun_it_leads_to_the_experiment(client: Client, job: Job) -> None:
    Job.objects.update(status="done", experiment=make_experiment("mine"))
    assert client.get(page_of(job)).headers["Location"] == "/experiments/mine"
    answer = client.get(page_of(job), headers=HTMX)
    assert answer.headers["HX-Redirect"] == "/experiments/mine"


def test_begun_and_gone_since(client: Client, job: Job) -> None:
    Job.objects.update(status="done")
    page = client.get(page_of(job)).content.decode()
    assert "since been deleted" in page
    assert "hx-get" not in page


def test_an_order_is_for_who_placed_it_and_for_admins(client: Client, job: Job) -> None:
    client.force_login(make_person("bob", "operator"))
    assert client.get(page_of(job)).status_code == 404
    assert client.get(f"/experiments/new?job={job.pk}").status_code == 404
    client.force_login(make_person("root", "admin"))
    assert client.get(page_of(job)).status_code == 200


def test_orders_of_other_kinds_have_no_such_page(client: Client, alice: User) -> None:
    other = enqueue_job(JobKind.PAUSE, by=alice, experiment_name="x")
    assert client.get(page_of(other)).status_code == 404
    assert client.get("/experiments/new?job=x").status_code == 404
