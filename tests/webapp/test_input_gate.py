"""Malformed requests: each is answered in words, none by a fault, and none takes long."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import get_resolver
from django.utils import timezone
from pytest_django.fixtures import Settings

from meta_reward_core.errors import InputError
from tests.webapp.conftest import make_person
from webapp.accounts.credentials import raise_generation
from webapp.api.models import make_token
from webapp.experiments.models import Experiment, Iteration, Job
from webapp.experiments.reserved_names import list_reserved_names
from workers.pipeline.sync_rows import check_rows_have_files

SECONDS: Final = 5.0
"""CPU time that no request may take, on machines several times slower than usual too."""

HOSTILE_RECIPES: Final = {
    "brackets": "[" * 20_000,
    "braces": "{" * 60_000,
    "block lists": "- " * 30_000,
    "a long integer": "sample: {prompts: " + "9" * 60_000 + "}",
    "half a pair": 'name: "\\ud800"',
    "a date that is none": "name: 2024-13-99",
    "a list as a key": "? [a]\n: b",
    "many keys": "\n".join(f"k{n}: 1" for n in range(6000)),
}


def send(client: Client, token: str, body: bytes) -> tuple[int, Any]:
    begin = time.process_time()
    answer = client.post(
        "/api/v1/experiments",
        body,
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert time.process_time() - begin < SECONDS
    return answer.status_code, answer.json()


@pytest.fixture
def token(alice: User) -> str:
    return make_token(alice, name="t", expires=None)[1]


@pytest.mark.parametrize("text", HOSTILE_RECIPES.values(), ids=HOSTILE_RECIPES)
def test_a_hostile_recipe_is_refused_by_the_api_and_the_form(
    text: str, token: str, client: Client
) -> None:
    status, said = send(Client(), token, json.dumps({"name": "a", "recipe_text": text}).encode())
    assert (status, "detail" in said) == (422, True)
    begin = time.process_time()
    answer = client.post("/experiments/new", {"base_text": text, "name": "a"})
    assert time.process_time() - begin < SECONDS
    assert answer.status_code in (200, 302, 422)
    assert not Job.objects.exists()


HOSTILE_BODIES: Final = {
    "brackets": (b"[" * 3000, "nested"),
    "many brackets": (b"[" * 1_000_000, "values"),
    "objects": (b'{"a":' * 30_000, "nested"),
    "a long integer": (b'{"seed": ' + b"9" * 1_000_000 + b"}", "integer"),
    "an infinity": (b'{"seed": 1e999}', "too large"),
    "NaN": (b'{"seed": NaN}', "NaN"),
    "half a pair": (b'{"name": "\\ud800"}', "surrogate"),
    "half a key": (b'{"values": {"\\udc00": 1}}', "surrogate"),
    "not UTF-8": (b'{"name": "\xff"}', "UTF-8"),
    "not JSON": (b"name: a", "not valid JSON"),
    "many values": (b"[" + b"1," * 300_000 + b"1]", "values"),
}


@pytest.mark.parametrize("body, said", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_a_hostile_body_is_refused_with_the_reason(body: bytes, said: str, token: str) -> None:
    status, answer = send(Client(), token, body)
    assert status == 422
    assert said in answer["detail"]


def test_strangers_learn_nothing_of_their_bodies(db: None) -> None:
    for body in (b"[" * 3000, b'{"name": "\\ud800"}'):
        answer = Client().post("/api/v1/experiments", body, content_type="application/json")
        assert answer.status_code == 401


MULTIPART: Final = "multipart/form-data; boundary=x"


def make_part(disposition: str, content: str = "a") -> str:
    return f"--x\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n"


HOSTILE_FORMS: Final = {
    "UTF-7": (MULTIPART + "; charset=utf-7", make_part('name="name"', "+2AA-")),
    "UTF-16": ("application/x-www-form-urlencoded; charset=utf-16", "name=a"),
    "an unknown charset": (MULTIPART + "; charset=nope", make_part('name="name"')),
    "a file's name in UTF-7": (
        MULTIPART,
        make_part("name=prompts_file; filename*=utf-7''%2B2AA-.txt"),
    ),
    "a file's name in no charset": (
        MULTIPART,
        make_part("name=prompts_file; filename*=nope''a.txt"),
    ),
    "a field's name with NUL": (MULTIPART, make_part("name*=utf-8''a%00b")),
    "a file's name with NUL": (MULTIPART, make_part("name=f; filename*=utf-8''a%00b.txt")),
    "NUL in a value": ("application/x-www-form-urlencoded", "name=a%00b"),
    "no boundary": ("multipart/form-data", "name=a"),
    "an open part": (MULTIPART, '--x\r\nContent-Disposition: form-data; name="a'),
    "many fields": ("application/x-www-form-urlencoded", "&".join(["a=1"] * 5000)),
    "many parts": (MULTIPART, make_part('name="a"') * 3000 + "--x--\r\n"),
    "long headers": (MULTIPART, make_part('name="' + "a" * 300_000 + '"') + "--x--\r\n"),
}


@pytest.mark.parametrize("path", ["/experiments/new", "/account/tokens", "/account/login"])
@pytest.mark.parametrize("kind, body", HOSTILE_FORMS.values(), ids=HOSTILE_FORMS)
def test_a_malformed_form_is_answered_and_never_by_a_fault(
    kind: str, body: str, path: str, client: Client
) -> None:
    begin = time.process_time()
    answer = client.generic("POST", path, body.encode() + b"--x--\r\n", content_type=kind)
    assert time.process_time() - begin < SECONDS
    assert answer.status_code in (200, 302, 400, 413, 415, 422)


@pytest.mark.parametrize("kind", [MULTIPART, "application/x-www-form-urlencoded", "text/plain"])
def test_a_form_sent_to_the_api_is_answered_in_json(kind: str, client: Client, token: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {token}"}):
        answer = client.post(
            "/api/v1/experiments", make_part('name="a"'), content_type=kind, headers=headers
        )
        assert answer.status_code in (400, 401, 403, 415, 422)
        assert "detail" in answer.json()


def test_requests_in_utf_8_pass_however_they_say_so(client: Client) -> None:
    for charset in ("", "; charset=utf-8", '; charset="UTF-8"'):
        kind = f"application/x-www-form-urlencoded{charset}"
        answer = client.post("/account/tokens", "name=%C3%A9&days=30", content_type=kind)
        assert answer.status_code != 415


def test_deeply_nested_files_of_an_experiment_are_named_on_its_pages(
    client: Client, experiment: Experiment, iteration: Iteration, tmp_path: Path
) -> None:
    Experiment.objects.update(artifact_root=str(tmp_path))
    folder = tmp_path / "first" / "evaluations" / "M1"
    folder.mkdir(parents=True)
    for content in (b"[" * 100_000, b'{"benchmark": "b", "figures": [[]]}'):
        (folder / "b.json").write_bytes(content)
        (tmp_path / "first" / "experiment.json").write_bytes(content)
        for path in ("", "/evaluations", "/files", "/iterations/1", "/audits", "/audits/1"):
            assert client.get(f"/experiments/first{path}").status_code in (200, 404, 503), path
        assert client.get("/reports?name=first").status_code in (200, 503)


# Names and headers.


def test_names_that_pages_have_are_reserved_for_them(db: None) -> None:
    assert list_reserved_names() == {"new", "compare", "actions"}
    for name in list_reserved_names():
        assert get_resolver().resolve(f"/experiments/{name}").kwargs == {}
        with pytest.raises(InputError, match="page of the site"):
            check_rows_have_files(name, artifact_root="/a", files_exist=False)


def test_a_reserved_name_is_refused_by_the_form_and_the_api(client: Client, token: str) -> None:
    page = client.post("/experiments/new", {"base_recipe": "smoke", "name": "new"})
    assert "This name is reserved" in page.content.decode()
    status, said = send(Client(), token, b'{"name": "compare", "recipe": "smoke"}')
    assert status == 422
    assert "This name is reserved" in said["detail"]


@pytest.mark.parametrize(
    "path",
    ["/", "/account/login", "/workers", "/livez", "/nowhere", "/api/v1/experiments", "/api/x"],
)
def test_no_answer_of_a_view_may_be_kept(path: str, client: Client) -> None:
    for browser in (client, Client()):
        assert "no-store" in browser.get(path).headers["Cache-Control"]


def test_static_files_may_be_kept(client: Client) -> None:
    answer = client.get("/static/site.css")
    answer.close()
    assert answer.status_code in (200, 404)
    assert "no-store" not in answer.headers.get("Cache-Control", "")


def test_an_admin_page_is_not_kept_either(db: None) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    assert "no-store" in client.get("/admin/").headers["Cache-Control"]
    make_person("vera", "viewer")


def test_more_values_than_a_recipe_has_are_refused_without_work(client: Client) -> None:
    values = {f"k{number}": 1 for number in range(100_000)}
    body = {"name": "mine", "recipe": "smoke", "values": values}
    begin = time.process_time()
    answer = client.post("/api/v1/experiments", body, content_type="application/json")
    assert answer.status_code == 422
    assert "at most 300 items" in answer.json()["detail"][0]["msg"]
    assert time.process_time() - begin < 10


def test_a_schedule_has_as_many_entries_as_iterations_can_be(client: Client) -> None:
    body = {"name": "mine", "recipe": "smoke", "values": {"pairing.rho": [0.1] * 1001}}
    answer = client.post("/api/v1/experiments", body, content_type="application/json")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("pairing.rho: List should have at most 1000 items")
    assert not Job.objects.exists()


def test_strangers_keep_no_forms_in_the_database(db: None) -> None:
    stranger = Client()
    answer = stranger.post("/experiments/new", {"name": "x" * 100_000})
    assert answer.status_code == 302
    assert not Session.objects.exists()
    stranger.cookies["sessionid"] = "made up"
    stranger.post("/experiments/new", {"name": "x" * 100_000})
    assert not Session.objects.exists()


def end_session(user: User, *, by_expiry: bool) -> None:
    """End sessions by their age, or by a change of the account."""
    if by_expiry:
        Session.objects.update(expire_date=timezone.now() - timedelta(days=1))
    else:
        raise_generation(user)


@pytest.mark.parametrize("has_expired", [True, False])
def test_who_had_signed_in_keeps_a_form(alice: User, has_expired: bool) -> None:
    """The session expired, or a change of the account ended it."""
    client = Client()
    client.force_login(alice)
    end_session(alice, by_expiry=has_expired)
    answer = client.post("/experiments/new", {"name": "written for an hour"})
    assert answer["Location"] == "/account/login?next=/account/unsent-form"
    client.post("/account/login", {"username": "alice", "password": "correct horse"})
    assert "written for an hour" in client.get("/account/unsent-form").content.decode()


@pytest.mark.parametrize("has_expired", [True, False])
def test_a_form_is_not_shown_to_the_next_user_of_the_browser(
    alice: User, has_expired: bool
) -> None:
    make_person("bob", "operator")
    client = Client()
    client.force_login(alice)
    end_session(alice, by_expiry=has_expired)
    client.post("/experiments/new", {"name": "private-plan"})
    client.post("/experiments/new", {"name": "another-private-plan"})
    client.post("/account/login", {"username": "bob", "password": "correct horse"})
    page = client.get("/account/unsent-form", follow=True).content.decode()
    assert "private-plan" not in page
    assert "unsent_form" not in client.session


LONG_PATHS = ("a" * 300, "a/" * 3000, "a" * 5000, "/" + "a" * 300)


@pytest.mark.parametrize("path", LONG_PATHS, ids=[f"{len(path)} characters" for path in LONG_PATHS])
@pytest.mark.parametrize(
    "key", ["model", "judge.reward_model", "evaluation.tasks", "development.tasks"]
)
def test_a_path_that_no_file_can_have_is_refused(
    key: str, path: str, token: str, settings: Settings, tmp_path: Path
) -> None:
    settings.META_REWARD_MODEL_ROOT = settings.META_REWARD_EVALUATION_ROOT = str(tmp_path)
    value = [{"name": "ifeval", "data": path}] if key.endswith("tasks") else path
    body = {"name": "mine", "recipe": "miniature", "values": {key: value}}
    status, said = send(Client(), token, json.dumps(body).encode())
    assert status == 422
    assert "the path is too long" in said["detail"]


def test_a_folder_name_that_no_folder_can_have_is_not_found(
    token: str, settings: Settings, tmp_path: Path
) -> None:
    settings.META_REWARD_MODEL_ROOT = str(tmp_path)
    answer = Client().post(
        "/api/v1/models/check",
        {"model": {"source": "folder", "name": "a" * 300}, "recipe": "smoke"},
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 422


def test_a_job_with_an_impossible_number_is_not_found(client: Client) -> None:
    assert client.get("/experiments/new", {"job": "9" * 5000}).status_code == 404
