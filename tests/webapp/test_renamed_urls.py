"""Every address of an earlier version still leads to what it was the address of."""

import re
from typing import Final

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import resolve, reverse

from webapp.renamed_urls import PUBLIC, RENAMED

pytestmark = pytest.mark.django_db

VALUES: Final = {"name": "a-1.b", "pk": 7, "number": 7, "prompt_id": "f" * 64}
QUERY: Final = "next=%2Faudits&page=2&q=a%20b"


def fill_in(route: str) -> tuple[str, dict[str, object]]:
    """An address of a route, and what stands in the place of what varies."""
    names = re.findall(r"<\w+:(\w+)>", route)
    address = re.sub(r"<\w+:(\w+)>", lambda found: str(VALUES[found[1]]), route)
    return f"/{address}", {name: VALUES[name] for name in names}


@pytest.fixture
def browser(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


@pytest.mark.parametrize("route", RENAMED)
def test_an_earlier_address_leads_to_the_new_one(browser: Client, route: str) -> None:
    earlier, values = fill_in(route)
    target = reverse(RENAMED[route], kwargs=values)
    assert resolve(target).url_name == RENAMED[route]
    assert earlier != target
    for path, expected in ((earlier, target), (f"{earlier}?{QUERY}", f"{target}?{QUERY}")):
        for ask, status in ((browser.get, 301), (browser.head, 301), (browser.post, 308)):
            answer = ask(path)
            assert (answer.status_code, answer.headers["Location"]) == (status, expected)


@pytest.mark.parametrize("route", RENAMED)
def test_visitors_sign_in_before_they_are_led_on(db: None, route: str) -> None:
    earlier, values = fill_in(route)
    answer = Client().get(earlier)
    if RENAMED[route] in PUBLIC:
        assert answer.headers["Location"] == reverse(RENAMED[route], kwargs=values)
    else:
        assert answer.headers["Location"] == f"/account/login?next={earlier}"


def test_a_name_cannot_lead_to_another_site(browser: Client) -> None:
    """A name is one part of the path, and every character with a meaning in it is escaped."""
    for name in ("%5C%5Cevil.example", "evil.example%3Fa", "%0d%0aLocation:x", "@evil.example"):
        location = browser.get(f"/experiments/{name}/try").headers["Location"]
        assert re.fullmatch(r"/experiments/[\w.%@:-]+/playground", location), location
    assert browser.get("//evil.example/try").status_code == 404


def test_what_was_posted_arrives(browser: Client) -> None:
    """A form of an open page of the earlier version still does its work."""
    form = {"name": "nightly", "days": "30", "scope": "read"}
    answer = browser.post("/people/tokens?x=1", form, follow=True)
    assert answer.redirect_chain == [("/account/tokens?x=1", 308)]
    assert b"nightly" in answer.content
