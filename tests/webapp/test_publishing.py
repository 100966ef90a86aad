"""The page on which a model is published."""

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from tests.webapp.conftest import make_person
from webapp.experiments.models import Experiment, Iteration, Job

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}
PAGE = "/experiments/first/iterations/1/publish"
HOSTILE = "<script>alert(1)</script>"
OUTCOME = {
    "folder": "first/M1",
    "archive": "first/M1.tar",
    "bytes": 2_400_000,
    "files": ["README.md", "model.safetensors"],
}


@pytest.fixture(autouse=True)
def _m1(iteration: Iteration, settings: Settings, tmp_path: Path) -> None:
    Iteration.objects.update(status="finished", model_out="c" * 64)
    settings.META_REWARD_PUBLISH_ROOT = str(tmp_path)
    settings.META_REWARD_HF_TOKEN = ""


def add_publication(experiment: Experiment, number: int = 1, **values: Any) -> Job:
    payload = {"number": number, "repository": "", "is_public": False}
    return Job.objects.create(
        kind="publish", experiment=experiment, experiment_name="first", payload=payload, **values
    )


def get(client: Client, path: str = PAGE, **headers: str) -> str:
    answered = client.get(path, headers=headers)
    assert answered.status_code == 200
    return answered.content.decode()


def test_publishing_places_an_order(client: Client, alice: User) -> None:
    answered = client.post(PAGE)
    assert (answered.status_code, answered.headers["Location"]) == (302, PAGE)
    job = Job.objects.get()
    assert (job.kind, job.created_by) == ("publish", alice)
    assert job.payload == {"number": 1, "repository": "", "is_public": False}


def test_a_repository_can_be_named_only_where_a_token_is_configured(
    client: Client, settings: Settings
) -> None:
    assert 'name="repository"' not in get(client)
    client.post(PAGE, {"repository": "org/name"})
    assert Job.objects.get().payload["repository"] == ""
    settings.META_REWARD_HF_TOKEN = "hf_secret"
    page = get(client)
    assert 'name="repository"' in page
    assert "hf_secret" not in page
    client.post(PAGE, {"repository": "org/name", "is_public": "on"})
    job = Job.objects.first()
    assert job is not None
    assert (job.payload["repository"], job.payload["is_public"]) == ("org/name", True)


@pytest.mark.parametrize("name", ["name", "../etc/passwd", "a/b/c", "https://x/y", "org/na me"])
def test_what_is_no_repository_is_said_to_be_none(
    client: Client, settings: Settings, name: str
) -> None:
    settings.META_REWARD_HF_TOKEN = "hf_secret"
    assert "Use owner/name" in client.post(PAGE, {"repository": name}).content.decode()
    assert not Job.objects.exists()


def test_a_model_that_is_not_made_cannot_be_published(client: Client) -> None:
    Iteration.objects.update(status="failed")
    page = get(client)
    assert "once its iteration is completed" in page
    assert ">Publish</button>" not in page
    assert client.post(PAGE).status_code == 200
    assert not Job.objects.exists()


def test_what_came_of_it_is_shown_and_watched(client: Client, experiment: Experiment) -> None:
    job = add_publication(experiment)
    assert f'hx-get="{PAGE}" hx-trigger="every 2s"' in get(client, **HTMX)
    doing = OUTCOME | {"doing": "uploading to org/name"}
    Job.objects.update(status="running", token="0" * 32, outcome=doing)
    assert "uploading to org/name" in get(client, **HTMX)
    hub = OUTCOME | {"repository": "https://hub.example/org/name", "commit": "5" * 40}
    Job.objects.update(status="done", token=None, outcome=hub)
    page = get(client)
    assert "hx-get" not in page
    assert "first/M1.tar" in page
    assert "2.3\xa0MB" in page
    assert 'href="https://hub.example/org/name"' in page
    assert f"<code>{'5' * 40}</code>" in page
    add_publication(experiment, number=2, message="of another model")
    assert "of another model" not in get(client)
    Job.objects.filter(pk=job.pk).update(status="refused", message=HOSTILE)
    assert HOSTILE not in get(client)


def test_the_archive_can_be_fetched_once_it_is_there(
    client: Client, experiment: Experiment, tmp_path: Path
) -> None:
    """Also one that an earlier version put into a folder of the experiment's name."""
    add_publication(experiment, status="done", outcome=OUTCOME)
    assert client.get(f"{PAGE}/archive").status_code == 404
    assert "Download the archive" not in get(client)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "M1.tar").write_bytes(b"a tar")
    assert "Download the archive" in get(client)
    answered = client.get(f"{PAGE}/archive")
    assert answered.getvalue() == b"a tar"
    assert 'filename="first-M1.tar"' in answered.headers["Content-Disposition"]


@pytest.mark.parametrize(
    "headers, is_whole",
    [
        ({}, True),
        (HTMX, False),
        (HTMX | {"HX-History-Restore-Request": "true"}, True),
    ],
)
def test_htmx_gets_the_region_alone(
    client: Client, headers: dict[str, str], is_whole: bool
) -> None:
    assert ("<html" in get(client, **headers)) == is_whole


def test_methods_roles_and_strangers(client: Client) -> None:
    assert client.put(PAGE).status_code == 405
    assert client.post(f"{PAGE}/archive").status_code == 405
    assert Client().get(PAGE).status_code == 302
    assert client.get("/experiments/first/iterations/9/publish").status_code == 404
    viewer, bob, nobody = Client(), Client(), Client()
    viewer.force_login(make_person("vera", "viewer"))
    bob.force_login(make_person("bob", "operator"))
    nobody.force_login(make_person("nora"))
    for browser in (viewer, bob):
        assert "Only the owner of the experiment" in get(browser)
        assert browser.post(PAGE).status_code == 403
    assert nobody.get(PAGE).status_code == 403
    Experiment.objects.update(is_private=True)
    for path in (PAGE, f"{PAGE}/archive"):
        assert bob.get(path).status_code == 404
    assert bob.post(PAGE).status_code == 404
    assert not Job.objects.exists()


def test_the_page_asks_the_database_as_often_for_many(
    client: Client, experiment: Experiment
) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as asked:
            get(client)
        return len(asked)

    add_publication(experiment, created_by=make_person("p"))
    before = count()
    for number in range(8):
        add_publication(experiment, created_by=make_person(f"p{number}"))
    assert count() == before <= 9
