"""The pages as a person's browser asks for them."""

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from webapp import health
from webapp.experiments.models import Iteration

pytestmark = pytest.mark.django_db


def test_the_index_lists_experiments_and_iterations(client: Client, iteration: Iteration) -> None:
    page = client.get("/").content.decode()
    assert "first" in page
    assert "recipe smoke" in page
    assert "pending" in page
    assert "alice" in page


def test_the_index_says_how_to_begin(client: Client) -> None:
    assert "run_iteration --experiment" in client.get("/").content.decode()


def test_a_finding_is_shown_as_text_and_never_as_html(client: Client, iteration: Iteration) -> None:
    Iteration.objects.update(message="<script>alert(1)</script>", status="no_pairs")
    page = client.get("/").content.decode()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "no pairs" in page


@pytest.mark.parametrize("path", ["/", "/workers", "/healthz"])
def test_pages_that_show_take_no_post(client: Client, path: str) -> None:
    assert client.post(path).status_code == 405


def test_healthz_says_ok(client: Client) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok")


def test_healthz_says_when_the_database_is_gone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        def cursor(self) -> None:
            raise DatabaseError("gone")

    monkeypatch.setattr(health, "connection", Gone())
    assert client.get("/healthz").status_code == 503


def test_the_style_sheet_is_served(client: Client) -> None:
    answer = client.get("/static/site.css")
    assert answer.status_code == 200
    assert b"prefers-color-scheme: dark" in b"".join(iter(answer))
    answer.close()


@pytest.mark.parametrize(
    "model", ["experiment", "iteration", "stage", "shard", "attempt", "job", "worker"]
)
def test_the_admin_lists_rows_but_does_not_change_them(
    client: Client, iteration: Iteration, model: str
) -> None:
    client.force_login(User.objects.create_superuser("root", password="correct horse"))
    assert client.get(reverse(f"admin:experiments_{model}_changelist")).status_code == 200
    assert client.get(reverse(f"admin:experiments_{model}_add")).status_code == 403


def test_the_admin_is_for_staff(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get(reverse("admin:index")).status_code == 302


@pytest.mark.parametrize("path", ["/experiments/%00", "/?name=%00", "/api/v1/experiments/%00"])
def test_the_character_nul_is_no_address(client: Client, path: str) -> None:
    """PostgreSQL would refuse the question itself."""
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("url", ["/docs/", ""])
def test_pages_link_to_the_documentation_if_it_is_built(
    client: Client, settings: Settings, url: str
) -> None:
    settings.DOCUMENTATION_URL = url
    assert ('<a href="/docs/">Docs</a>' in client.get("/").content.decode()) is bool(url)
