"""Nothing is open by oversight: the whole URL map and every API operation, as they are found.

`test_access` says what each page is for; here stands what holds for all of them, the admin's too,
so that a new view, form of the admin or operation is covered before anybody thinks of it.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLResolver, get_resolver

from tests.webapp.conftest import make_person
from webapp.api.models import make_token
from webapp.api.ninja_api import api
from webapp.experiments.models import Iteration, Job

pytestmark = pytest.mark.django_db

OPEN: Final = {"livez", "healthz", "account/login", "people/login", "admin/login/"}
FOR_WATCHERS: Final = {"healthz/report", "metrics"}
VALUES: Final = {
    "name": "first",
    "format": "jsonl",
    "form": "jsonl",
    "prompt_id": "a" * 64,
    "action": "cancel",
}
BODIES: Final = {
    "/api/v1/experiments": {"name": "mine", "recipe": "smoke"},
    "/api/v1/experiments/first/duplicate": {"name": "mine"},
    "/api/v1/experiments/first/fork": {"name": "mine", "iteration": 1, "keep": "pair_judge"},
    "/api/v1/experiments/first/playground": {"models": [0, 1], "prompt": "Why?"},
    "/api/v1/experiments/first/playground/1/follow-ups": {"prompt": "And why?"},
    "/api/v1/experiments/first/settings": {"values": {"training.epochs": 3}},
    "/api/v1/experiments/first/tries": {"models": [0, 1], "prompt": "Why?"},
    "/api/v1/experiments/first/tries/1/follow-ups": {"prompt": "And why?"},
    "/api/v1/experiments/first/iterations/1/publish": {},
    "/api/v1/models/check": {"model": {"source": "hub", "name": "org/name"}},
}
GOES_TO_SIGN_IN: Final = ("/account/login", "/admin/login/")


def every_path(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    """Each address of the map, with something in the place of what varies."""
    for entry in resolver.url_patterns:
        route = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from every_path(entry, route)
        else:
            yield filled(route)


def filled(route: str) -> str:
    route = route.replace("(?P<url>.*)$", "nowhere")  # two of the admin's are written as patterns
    route = re.sub(r"\^\(\?P<app_label>[^)]*\)/\$", "auth/", route)
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: VALUES.get(found[1], "1"), route)


IN_ADMIN: Final = [model for model in apps.get_models() if admin.site.is_registered(model)]
PATHS: Final = sorted(set(every_path(get_resolver())))


def test_the_map_is_read_as_a_whole() -> None:
    assert len(PATHS) > 100
    unread = [path for path in PATHS if re.search(r"[<>()\\?]", path)]
    assert not unread


def operations() -> Iterator[tuple[str, str]]:
    """Method and path of each operation of the API."""
    for prefix, router in api._routers:
        for path, view in router.path_operations.items():
            for operation in view.operations:
                for method in operation.methods:
                    whole = f"/api/v1{prefix}{path}".replace("//", "/")
                    yield (
                        method,
                        re.sub(r"\{(?:\w+:)?(\w+)\}", lambda at: VALUES.get(at[1], "1"), whole),
                    )


OPERATIONS: Final = sorted(set(operations()))


@pytest.mark.parametrize("method", ["get", "post", "put", "delete"])
def test_strangers_are_let_in_nowhere(iteration: Iteration, method: str) -> None:
    stranger, answers = Client(), {}
    for path in PATHS:
        if path in OPEN:
            continue
        answer = getattr(stranger, method)(f"/{path}")
        answers[path] = answer.status_code
        if answer.status_code == 302:
            assert answer.headers["Location"].startswith(GOES_TO_SIGN_IN), path
        else:
            assert answer.status_code in {401, 404, 405}, path
            open_404 = not path.startswith(("api/", "admin/"))
            assert not (answer.status_code == 404 and open_404), path
    assert {answers[path] for path in FOR_WATCHERS} <= {401, 405}


@pytest.mark.parametrize("role", ["", "viewer", "operator", "auditor", "admin"])
def test_the_admin_is_closed_to_whoever_is_no_staff(iteration: Iteration, role: str) -> None:
    client = Client()
    client.force_login(make_person("nora", role))
    for path in PATHS:
        if path.startswith("admin/") and path not in {"admin/login/", "admin/logout/"}:
            answer = client.get(f"/{path}")
            to_login = answer.headers.get("Location", "").startswith("/admin/login/")
            assert to_login or answer.status_code in {404, 405}, path


def test_staff_without_a_right_sees_no_row_in_the_admin(iteration: Iteration) -> None:
    User.objects.filter(pk=make_person("nora").pk).update(is_staff=True)
    client = Client()
    client.force_login(User.objects.get(username="nora"))
    for model in IN_ADMIN:
        where = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        for path in (where, f"{where}add/", f"{where}1/delete/"):
            assert client.get(path).status_code in {403, 302}, path


@pytest.mark.parametrize("model", [model._meta.label_lower for model in IN_ADMIN])
def test_what_workers_and_logs_wrote_is_edited_by_nobody(db: None, model: str) -> None:
    """Only accounts may be added by hand; roles are in the code."""
    app, name = model.split(".")
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    added = client.get(f"/admin/{app}/{name}/add/").status_code
    assert added == (200 if model == "auth.user" else 403)


def test_the_operations_are_found() -> None:
    assert len(OPERATIONS) > 15
    assert {method for method, _ in OPERATIONS} == {"GET", "POST", "PATCH", "DELETE"}


def ask(method: str, path: str, person: User | None) -> int:
    headers = {}
    if person is not None:
        headers["Authorization"] = f"Bearer {make_token(person, name='t', expires=None)[1]}"
    asked = Client().generic(
        method,
        path,
        data=json.dumps(BODIES.get(path, {})),
        content_type="application/json",
        headers=headers,
    )
    return asked.status_code


@pytest.mark.parametrize("method, path", OPERATIONS)
def test_each_operation_asks_who_it_is_and_what_they_may(
    iteration: Iteration, method: str, path: str
) -> None:
    assert ask(method, path, None) == 401
    if not path.endswith("/openapi.json"):
        assert ask(method, path, make_person("nora")) == 403
        assert ask(method, path, make_person("arthur", "auditor")) == 403
    viewer = ask(method, path, make_person("vera", "viewer"))
    assert (viewer != 403) if method == "GET" else (viewer == 403)
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "method, path", [one for one in OPERATIONS if "/experiments/first" in one[1]]
)
def test_no_operation_knows_a_strangers_private_experiment(
    iteration: Iteration, method: str, path: str
) -> None:
    iteration.experiment.is_private = True
    iteration.experiment.save()
    assert ask(method, path, make_person("mallory", "operator")) == 404
    assert not Job.objects.exists()


@pytest.mark.parametrize("path", ["account/login", "", "workers", "admin/login/", "no-such-page"])
def test_every_page_has_the_strict_policy(client: Client, path: str) -> None:
    answer = client.get(f"/{path}", follow=True)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"


def test_a_form_without_its_token_changes_nothing(iteration: Iteration) -> None:
    """Every address that takes a POST refuses one that another site could have made."""
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(User.objects.create_superuser("root"))
    refused = 0
    for path in PATHS:
        if browser.post(f"/{path}").status_code == 403:
            refused += 1
        else:
            assert browser.post(f"/{path}").status_code in {301, 404, 405}, path
    assert refused > 30
