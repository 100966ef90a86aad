"""What holds for every address: methods that it does not know, and htmx that goes back.

The addresses are those that `test_access` finds in the URL map, so a new view is asked, too: it
refuses what it does not take, and whoever goes back in a browser gets a whole page of it.
"""

from typing import Any, Final

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from meta_reward_core.planning.launch_request import LaunchRequest
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.schema import Recipe
from tests.core import scripted_world
from tests.webapp.audit_fixtures import artifacts, audited, batch, browser, carol, dave, take
from tests.webapp.test_permissions import ADDRESSES, ASKED_BY_POST
from tests.webapp.watching_fixtures import HTMX, RESTORE, add_attempt, add_stage
from webapp.audit.models import Batch
from webapp.experiments.models import Job, Shard
from webapp.results.iteration_reader import open_iteration
from webapp.results.prompt_index import find_index

__all__ = ["artifacts", "audited", "batch", "carol", "dave"]
pytestmark = pytest.mark.django_db

WITH_A_FORM: Final = {
    *("login", "password_change", "tokens", "notifications", "ownership"),
    *("new_experiment", "duplicate", "playground", "conversation", "publish", "audit_new"),
    *("send_to_audit", "audit_close"),
    *("audit_item", "audit_review", "settings", "fork", "confirm_identity", "details", "delete"),
}
"""Pages whose own form is sent back to them."""
NO_PAGES: Final = {
    *("livez", "healthz", "health_report", "metrics"),
    *("file", "published_archive", "audit_export", "audit_items_csv", "audit_answers_csv"),
    *("annotate", "login", "unsent_form"),  # these lead elsewhere whoever has signed in
}
TRIED: Final = {
    "models": [0, 1],
    "prompt": "Why?",
    "judges": [],
    "judgments": 1,
    "seed": 1,
    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 10},
}
BOOSTED: Final = HTMX | {"HX-Boosted": "true"}
VARY: Final = {"HX-Request", "HX-History-Restore-Request", "HX-Boosted"}


@pytest.fixture
def world(batch: Batch, carol: User, settings: Settings, tmp_path: object) -> dict[str, object]:
    """Something at every address; returns what stands in the place of what varies."""
    settings.META_REWARD_SCRATCH_ROOT = str(tmp_path)
    experiment = batch.experiment
    assert experiment is not None
    experiment.recipe = canonicalize_recipe(Recipe.model_validate(scripted_world.RECIPE))
    experiment.save()
    index, _ = find_index(open_iteration(experiment, 1))
    return {
        "name": experiment.name,
        "number": 1,
        "prompt_id": index.prompt_ids[0],
        "path": "experiment.json",
        "form": "jsonl",
        "pk": batch.pk,
    }


@pytest.fixture
def everybody(carol: User) -> Client:
    """A browser of an auditor who is also a superuser: no address is closed to her."""
    User.objects.filter(pk=carol.pk).update(is_superuser=True)
    client = Client()
    client.force_login(carol)
    return client


def make_row(name: str, person: User, batch: Batch) -> dict[str, object]:
    """Make the row that an address names by its number."""
    if name == "attempt_output":
        assert batch.experiment is not None
        stage = add_stage(batch.experiment.iterations.get(number=1), name="generate", position=9)
        return {"pk": add_attempt(Shard.objects.create(stage=stage, index=0)).pk}
    common: dict[str, Any] = {"created_by": person, "experiment_name": "mine"}
    if name == "model_check":
        return {"pk": Job.objects.create(kind="check_model", **common).pk}
    if name == "job":
        request = LaunchRequest(experiment="mine", seed=1, iterations=1, recipe="smoke")
        payload = request.model_dump(mode="json")
        return {"pk": Job.objects.create(kind="launch", payload=payload, **common).pk}
    return {}


def path_of(name: str, world: dict[str, object], person: User, batch: Batch) -> str:
    """The address of something that is there; what the page is about is made if need be."""
    given, query = world | make_row(name, person, batch), ""
    if name == "conversation":
        job = Job.objects.create(
            kind="chat",
            created_by=person,
            experiment=batch.experiment,
            experiment_name="scripted",
            payload=TRIED,
        )
        given["number"] = job.pk
    elif name == "audit_item":
        given["number"] = take(browser(person), batch).number
    elif name == "audit_review":  # carol answers this batch: open, it would be hidden from her
        Batch.objects.update(status="closed")
    elif name == "battle":
        query = "?first=0&second=1"
    elif name == "report":
        query = "?name=scripted"
    return reverse(name, kwargs={key: given[key] for key in ADDRESSES[name]}) + query


def test_the_tables_name_addresses_that_there_are() -> None:
    assert ADDRESSES.keys() >= WITH_A_FORM | NO_PAGES | ASKED_BY_POST
    assert not WITH_A_FORM & ASKED_BY_POST


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_a_method_that_an_address_does_not_know_is_refused(everybody: Client, name: str) -> None:
    """Before anything is looked for: there is no such experiment."""
    path = reverse(name, kwargs={key: _ABSENT[key] for key in ADDRESSES[name]})
    unknown = {"put", "patch", "delete"}
    unknown |= {"get"} if name in ASKED_BY_POST else set()
    unknown |= set() if name in ASKED_BY_POST | WITH_A_FORM else {"post"}
    for method in sorted(unknown):
        answer = getattr(everybody, method)(path)
        assert answer.status_code == 405, method
        assert set(answer.headers["Allow"].split(", ")) & {"GET", "POST"}


_ABSENT: Final = {
    "name": "gone", "number": 9, "pk": 9, "prompt_id": "f" * 64, "path": "x", "form": "jsonl"
}  # fmt: skip


def is_whole(answer: Any) -> bool:
    return "<html" in answer.content.decode()


@pytest.mark.parametrize("name", sorted(ADDRESSES.keys() - ASKED_BY_POST - NO_PAGES))
def test_whoever_goes_back_gets_the_whole_page(
    everybody: Client, carol: User, batch: Batch, world: dict[str, object], name: str
) -> None:
    """What htmx keeps of a page is put back whole, and no cache mistakes a region for it."""
    path = path_of(name, world, carol, batch)
    plain = everybody.get(path)
    assert plain.status_code == 200, path
    assert is_whole(plain)
    assert is_whole(everybody.get(path, headers=RESTORE))
    assert is_whole(everybody.get(path, headers=BOOSTED))
    region = everybody.get(path, headers=HTMX)
    assert region.status_code == 200
    if not is_whole(region):
        for answer in (plain, region):
            assert {one.strip() for one in answer.headers["Vary"].split(",")} >= VARY
