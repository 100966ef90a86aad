"""Whatever a person writes into a field stays text: on the page that answers, and on later ones."""

from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from pytest_django.fixtures import Settings

from tests.webapp.experiment_form_fixtures import NEW, filled
from tests.webapp.test_playground import FOLLOW_UP, add_try, answer
from tests.webapp.test_playground import FORM as TRY_FORM
from webapp.experiments.models import Experiment, Iteration

pytestmark = pytest.mark.django_db

HOSTILE: Final = {
    "script": "</textarea></pre></title><script>alert(1)</script>",
    "markup": "\"><img src=x onerror=alert(2)><a href='javascript:alert(3)'>",
    "htmx": '" hx-get="/stolen" hx-trigger="load" x=\'><blink hx-post=/stolen hx-trigger=load>',
    "template": "{{ 987654|add:1 }}{% now 'Y' %}{% include 'accounts/login.html' %}",
    "megabyte": "x" * 1_000_000,
    "zero width": "a\u200bb\u200d\ufeffc\u2060",
    "right to left": "\u202egnp.exe\u202c \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
}
ANSWERS: Final = {200, 302, 400, 404, 413, 422}
"""Taken, refused beside the field, refused as a whole, or about an experiment that there is not;
never a failure of the site."""

LAUNCH_FIELDS: Final = (
    *("name", "model_hub", "prompts_text", "prompts_called", "prompts_stored", "base_text"),
    *("base_recipe", "origin", "origin_uuid", "model_folder", "until", "seed"),
    "shown_recipe",
)
NOTICE_FIELDS: Final = ("email", "webhook_url")


class Elements(HTMLParser):
    """The elements of a page as a browser would make them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


def assert_harmless(answer: HttpResponse) -> None:
    """No element, attribute or result of a template comes from what was written."""
    assert answer.status_code in ANSWERS
    page = answer.content.decode()
    elements = Elements(page)
    assert not any(text.strip() for text in elements.scripts)
    for tag, attributes in elements.found:
        assert tag not in {"img", "blink"}
        assert not [name for name in attributes if name.startswith("on")]
        assert "/stolen" not in (attributes.get("hx-get"), attributes.get("hx-post"))
        assert not str(attributes.get("href", "")).startswith("javascript:")
    assert "987655" not in page
    assert page.count("<form") == page.count("</form")


def fields_of(page: str) -> Iterator[str]:
    """Names of the fields of a page into which text can be written."""
    written = {"text", "hidden", "search", "email", "url", "number", "password", None}
    for tag, attributes in Elements(page).found:
        is_text = tag == "textarea" or (tag == "input" and attributes.get("type") in written)
        if is_text and attributes.get("name") != "csrfmiddlewaretoken":
            yield attributes.get("name") or ""


@pytest.fixture
def storage_roots(tmp_path: Path, settings: Settings) -> None:
    settings.META_REWARD_ARTIFACT_ROOT = str(tmp_path / "artifacts")
    settings.META_REWARD_MODEL_ROOT = str(tmp_path / "models")
    settings.META_REWARD_UPLOAD_ROOT = str(tmp_path / "uploads")
    (tmp_path / "models").mkdir()


def send(client: Client, path: str, given: Mapping[str, Any], *later: str) -> None:
    """Send a form; look at its answer, and at pages that show what was sent."""
    answer: Any = client.post(path, given)
    assert_harmless(answer)
    for place in (answer.headers.get("Location"), *later):
        if place:
            assert_harmless(client.get(place))  # type: ignore[arg-type]


def recipe_fields(client: Client) -> list[str]:
    page = client.get(NEW, {"recipe": "smoke"}).content.decode()
    return [name for name in fields_of(page) if name.startswith("recipe.")]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_in_the_form_of_a_launch(client: Client, storage_roots: None, text: str) -> None:
    """Each field by itself, where what else there is may be in order; then all of the recipe."""
    for name in LAUNCH_FIELDS:
        send(client, NEW, filled(action="check") | {name: text})
    pasted = {"prompts_from": "paste", "prompts_text": text, "prompts_called": text}
    send(client, NEW, filled(action="launch") | pasted, "/activity", "/workers", "/")
    names = recipe_fields(client)
    assert len(names) > 20
    send(client, NEW, filled(action="launch") | dict.fromkeys(names, text[:10_000]))


def test_every_field_of_the_launch_is_among_them(client: Client, storage_roots: None) -> None:
    """Also those that come when a part of the form is opened: each is in the page."""
    page = client.get(NEW, {"recipe": "smoke"}).content.decode()
    # The search among the fields has no name: it is never sent.
    own = {name for name in fields_of(page) if name and not name.startswith("recipe.")}
    assert own <= set(LAUNCH_FIELDS)
    assert {"name", "prompts_text", "model_hub"} <= own


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_in_the_choice_of_notices(client: Client, text: str) -> None:
    page = client.get("/account/notifications").content.decode()
    assert set(fields_of(page)) == set(NOTICE_FIELDS)
    for name in NOTICE_FIELDS:
        send(client, "/account/notifications", {name: text}, "/account/notifications")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_in_the_name_of_a_token(client: Client, text: str) -> None:
    page = client.get("/account/tokens").content.decode()
    assert set(fields_of(page)) == {"name", "once"}
    send(
        client,
        "/account/tokens",
        {"name": "t", "days": "30", "scope": "read", "once": text},
        "/account/tokens",
    )
    for name in (text, text[:64]):
        send(
            client,
            "/account/tokens",
            {"name": name, "days": "30", "scope": "read"},
            "/account/tokens",
            "/activity",
        )


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_in_a_question_to_models(client: Client, iteration: Iteration, text: str) -> None:
    Iteration.objects.update(status="finished", model_out="c" * 64)
    path = "/experiments/first/playground"
    fields = set(fields_of(client.get(path).content.decode()))
    assert fields <= TRY_FORM.keys()
    for name in sorted(fields):
        send(client, path, TRY_FORM | {name: text}, path)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_in_a_follow_up(
    client: Client, experiment: Experiment, iteration: Iteration, text: str
) -> None:
    answers = [answer(0, text), answer(1, text)]
    done = add_try(experiment, status="done", outcome={"answers": answers, "judgments": []})
    path = f"/experiments/first/playground/{done.pk}"
    vote = {"vote": "tie", "turn": str(done.pk)}
    assert set(fields_of(client.get(path).content.decode())) <= FOLLOW_UP.keys() | vote.keys()
    for name in sorted(vote):
        send(client, path, vote | {name: text}, path)
    for name in sorted(FOLLOW_UP):
        send(client, path, FOLLOW_UP | {name: text}, path, "/experiments/first/playground")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_in_what_narrows_a_list(client: Client, iteration: Iteration, text: str) -> None:
    for path, names in {
        "/": ("q", "status"),
        "/activity": ("person", "experiment", "kind"),
    }.items():
        for name in names:
            assert_harmless(client.get(path, {name: text[:4000]}))  # type: ignore[arg-type]


def test_a_page_that_would_take_markup_is_caught(alice: User) -> None:
    """The proof that these tests can fail: what is not escaped is found."""
    for name, page in {
        "script": "<p>{}</p>",
        "markup": '<a id="{}">',
        "htmx": '<a id="{}">',
    }.items():
        with pytest.raises(AssertionError):
            assert_harmless(HttpResponse(page.format(HOSTILE[name])))
