"""The form filled in from an experiment, with the difference to it."""

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.schemas import build_table
from meta_reward_core.storage.shards import IterationFiles, StageOutput, compute_shard_key
from tests.webapp.conftest import make_person
from tests.webapp.experiment_form_fixtures import (
    HTMX,
    NEW,
    filled,
    make_experiment,
    only_job,
    storage_roots,
)
from webapp.experiment_form.launch_request import read_payload
from webapp.experiments.models import Experiment

pytestmark = pytest.mark.django_db

__all__ = ["storage_roots"]


@pytest.fixture
def origin(client: Client, storage_roots: Path) -> Experiment:
    root = str(storage_roots / "artifacts")
    row = make_experiment(
        "first", seed=3, target_iteration=2, changes=["actor.samples=5"], artifact_root=root
    )
    rows = [
        {"prompt_id": f"{number:064}", "text": f"question {number}?", "extra": None}
        for number in range(80)
    ]
    files = IterationFiles(ArtifactStore(row.artifact_root), "first/iteration-0")
    work = StageOutput({("prompts", 0): build_table("prompts", rows)}, {"prompts": len(rows)})
    files.publish("pool", 0, key=compute_shard_key(stage="pool"), work=work, packages={})
    return row


def again(**changes: Any) -> dict[str, Any]:
    return filled(base_recipe="", origin="first", prompts_from="origin", seed="3") | changes


def test_it_begins_as_the_original_is(client: Client, origin: Experiment) -> None:
    answer = client.get("/experiments/first/duplicate")
    state = answer.context["state"]
    assert state.draft.texts["actor.samples"] == "5"
    assert [state.form[name].value() for name in ("seed", "until")] == [3, 2]
    assert state.draft.differences == ()
    assert state.missing == ["name"]
    assert state.prompts.count == 80
    assert "question 0?" in answer.content.decode()


def test_each_change_is_shown_before_and_after(client: Client, origin: Experiment) -> None:
    given = again(seed="4", prompts_from="world", **{"recipe.actor.samples": "7"})
    answer = client.post(NEW, given, headers=HTMX)
    state = answer.context["state"]
    seen = [(one.key, one.before, one.after) for one in state.draft.differences]
    assert seen == [("actor.samples", "5", "7")]
    told = [(one.key, one.before, one.after) for one in state.settings]
    assert told == [("seed", "3", "4"), ("prompts", "origin", "others")]
    assert "Changed from first" in answer.content.decode()


def test_its_order_needs_the_original_no_more(client: Client, origin: Experiment) -> None:
    client.post(NEW, again(action="launch", **{"recipe.pairing.rho": "0.1, 0.2"}))
    launch_request = read_payload(only_job().payload)
    assert (launch_request.origin, launch_request.same_prompts) == ("first", True)
    origin.delete()
    recipe = launch_request.build_recipe()
    assert (recipe.actor.samples, recipe.pairing.rho) == (5, [0.1, 0.2])
    assert client.get(f"{NEW}?job={only_job().pk}").status_code == 200


def test_prompts_that_are_gone_are_told(client: Client) -> None:
    make_experiment("first")
    page = client.post(NEW, again(action="launch")).content.decode()
    assert "The files of first, including its prompts, no longer exist" in page


def test_a_recipe_of_another_version_is_told(client: Client) -> None:
    row = make_experiment("first")
    Experiment.objects.update(recipe={**row.recipe, "of_tomorrow": 1})
    page = client.get("/experiments/first/duplicate").content.decode()
    assert "first cannot be duplicated" in page
    assert "of_tomorrow: unknown key" in page


def test_a_strangers_private_experiment_is_not_there(client: Client, origin: Experiment) -> None:
    Experiment.objects.update(is_private=True, owner=make_person("bob", "operator"))
    assert client.get("/experiments/first/duplicate").status_code == 404
    assert client.post(NEW, again(action="launch")).status_code == 404


def test_who_only_looks_cannot_duplicate(client: Client, origin: Experiment) -> None:
    client.force_login(make_person("vera", "viewer"))
    assert client.get("/experiments/first/duplicate").status_code == 403
    assert client.post("/experiments/first/duplicate").status_code == 405
    assert Client().get("/experiments/first/duplicate").status_code == 302
