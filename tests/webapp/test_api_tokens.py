"""The page on which people make and revoke tokens."""

import re

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.webapp.conftest import make_person
from webapp.api.models import ApiToken, hash_token, make_token

pytestmark = pytest.mark.django_db

PAGE = "/account/tokens"
MORE = {"name": "more", "days": "30", "scope": "read"}
HOSTILE = "<script>alert(1)</script>"


def get(client: Client) -> str:
    return client.get(PAGE).content.decode()


def test_a_new_token_is_shown_once_and_works(client: Client, alice: User) -> None:
    answered = client.post(PAGE, {"name": "nightly", "days": "30", "scope": "run"})
    found = re.search(r'class="secret">(mr_[\w-]+)<', answered.content.decode())
    assert found is not None
    row = ApiToken.objects.get()
    assert (row.owner, row.name, row.digest) == (alice, "nightly", hash_token(found[1]))
    assert row.expires is not None
    assert 29 <= (row.expires - timezone.now()).days <= 30
    assert "no-store" in answered.headers["Cache-Control"]
    assert found[1] not in get(client)
    headers = {"Authorization": f"Bearer {found[1]}"}
    assert Client().get("/api/v1/experiments", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "form", [{"name": ""}, {"name": "x" * 65}, {"name": "x", "days": "31", "scope": "run"}, {}]
)
def test_what_is_wrong_is_said(client: Client, form: dict[str, str]) -> None:
    assert "errorlist" in client.post(PAGE, form).content.decode()
    assert not ApiToken.objects.exists()


def test_one_has_fifty_tokens_at_most(client: Client, alice: User) -> None:
    for number in range(50):
        make_token(alice, name=str(number), expires=None)
    assert "Revoke a token first" in client.post(PAGE, MORE).content.decode()
    assert ApiToken.objects.count() == 50


def test_one_revokes_ones_own_alone(client: Client, alice: User) -> None:
    mine, _ = make_token(alice, name="mine", expires=None)
    others, _ = make_token(make_person("bob", "operator"), name="theirs", expires=None)
    assert client.post(f"{PAGE}/{others.pk}/revoke").status_code == 404
    assert (
        "mine is revoked" in client.post(f"{PAGE}/{mine.pk}/revoke", follow=True).content.decode()
    )
    assert list(ApiToken.objects.all()) == [others]
    assert "theirs" not in get(client)


def test_names_are_never_html(client: Client, alice: User) -> None:
    make_token(alice, name=HOSTILE, expires=timezone.now())
    page = get(client)
    assert HOSTILE not in page
    assert "expired" in page


def test_methods_and_roles(client: Client, alice: User) -> None:
    row, _ = make_token(alice, name="mine", expires=None)
    assert client.put(PAGE).status_code == 405
    assert client.get(f"{PAGE}/{row.pk}/revoke").status_code == 405
    assert Client().get(PAGE).status_code == 302
    assert Client().post(f"{PAGE}/{row.pk}/revoke").status_code == 302
    nobody = Client()
    nobody.force_login(make_person("nora"))
    assert nobody.get(PAGE).status_code == 403
    assert ApiToken.objects.count() == 1


def test_the_page_asks_the_database_as_often_for_many(client: Client, alice: User) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as asked:
            get(client)
        return len(asked)

    make_token(alice, name="first", expires=None)
    before = count()
    for number in range(10):
        make_token(alice, name=str(number), expires=None)
    assert count() == before <= 8
