"""Old keys of recipes on pages and in the API: read, named, and replaced by today's."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from meta_reward_core.recipes.canonical import restore_names
from meta_reward_core.recipes.loader import load_recipe
from tests.webapp.experiment_form_fixtures import (
    NEW,
    filled,
    launch,
    make_experiment,
    only_job,
    storage_roots,
)
from webapp.api.models import make_token
from webapp.experiment_form.launch_request import read_payload
from webapp.experiments.models import Experiment, Job, JobKind

pytestmark = pytest.mark.django_db

__all__ = ["storage_roots"]

OLD = "extends: smoke\nname: mine\nshard_prompts: 9\njudge: {top_points: 10}\n"
WARNINGS = [
    "shard_prompts is deprecated: use prompts_per_shard",
    "judge.top_points is deprecated: use judge.max_score",
]


def test_a_recipe_that_was_pasted_is_read_and_its_old_keys_are_named(client: Client) -> None:
    page = client.post(NEW, {"base_text": OLD, "action": "begin"}).content.decode()
    for warning in WARNINGS:
        assert f"<li>{warning}</li>" in page
    assert 'name="recipe.prompts_per_shard" value="9"' in page


def test_a_launch_with_old_keys_runs_what_it_says_without_another_warning(client: Client) -> None:
    launch(client, base_recipe="", base_text=OLD)
    recipe = read_payload(only_job().payload).build_recipe()
    assert (recipe.prompts_per_shard, recipe.judge.max_score) == (9, 10)


def test_a_job_of_the_version_before_asks_for_the_same(client: Client, alice: User) -> None:
    earlier = {
        "name": "mine", "seed": 7, "until": 2, "is_private": False, "recipe": "smoke",
        "recipe_text": "", "changes": ["shard_prompts=9"], "origin": "", "prompts": "",
        "prompts_called": "", "same_prompts": False, "skip_bad_rows": False,
    }  # fmt: skip
    launch_request = read_payload(earlier)
    assert launch_request.values == {"prompts_per_shard": 9}
    assert launch_request.build_recipe().prompts_per_shard == 9
    job = Job.objects.create(
        kind=JobKind.LAUNCH, created_by=alice, experiment_name="mine", payload=earlier
    )
    state: Any = client.get(f"{NEW}?job={job.pk}").context["state"]
    assert state.draft.texts["prompts_per_shard"] == "9"


def test_a_page_that_was_opened_before_an_upgrade_may_still_be_sent(client: Client) -> None:
    old = {"recipe.shard_prompts": "9", "recipe.world": "miniature",
           "recipe.evaluation.oracle": "none"}  # fmt: skip
    launch(client, **filled(**old))
    recipe = read_payload(only_job().payload).build_recipe()
    assert (recipe.prompts_per_shard, recipe.task, recipe.has_ground_truth) == (9, "toy", False)


def test_the_page_of_an_experiment_shows_todays_keys(client: Client) -> None:
    make_experiment("first", changes=("judge.max_score=10",))
    page = client.get("/experiments/first").content.decode()
    assert "judge.max_score" in page
    assert "1 value differs from the built-in recipe" in page
    for old in ("judge.top_points", "shard_prompts", "evaluation.oracle"):
        assert old not in page


class Program:
    """A program with a token of alice."""

    def __init__(self, alice: User) -> None:
        _, secret = make_token(alice, name="a program", expires=None)
        self.headers = {"Authorization": f"Bearer {secret}"}

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        answer = Client().generic(
            method,
            f"/api/v1{path}",
            json.dumps(body) if body is not None else "",
            content_type="application/json",
            headers=self.headers,
        )
        return answer.status_code, json.loads(answer.content)


@pytest.fixture
def program(client: Client, alice: User) -> Program:
    return Program(alice)


def test_the_api_reads_old_keys_and_says_what_is_deprecated(program: Program) -> None:
    values = {"pair_kinds": [["actor"]], "evaluation.oracle": None}
    body = {"name": "mine", "recipe_text": OLD, "values": values}
    status, placed = program.ask("POST", "/experiments", body)
    assert status == 202, placed
    assert placed["warnings"] == [
        *WARNINGS,
        "pair_kinds is deprecated: use train_on",
        "evaluation.oracle is deprecated: use evaluation.ground_truth",
    ]
    recipe = read_payload(only_job().payload).build_recipe()
    assert (recipe.train_on, recipe.prompts_per_shard) == ([["actor"]], 9)
    assert not recipe.has_ground_truth


def test_the_api_says_nothing_where_nothing_is_deprecated(program: Program) -> None:
    body = {"name": "mine", "recipe": "smoke", "values": {"prompts_per_shard": 9}}
    assert program.ask("POST", "/experiments", body)[1]["warnings"] == []


def test_the_api_refuses_both_names_of_a_value(program: Program) -> None:
    values = {"prompts_per_shard": 9, "shard_prompts": 9}
    body = {"name": "mine", "recipe": "smoke", "values": values}
    status, answer = program.ask("POST", "/experiments", body)
    assert status == 422
    assert "keep prompts_per_shard and remove shard_prompts" in answer["detail"]


def test_the_api_shows_a_recipe_under_todays_keys(program: Program) -> None:
    make_experiment("first")
    shown = program.ask("GET", "/experiments/first/recipe")[1]
    assert shown == load_recipe("smoke").model_dump(mode="json")
    assert "shard_prompts" in Experiment.objects.get().recipe


def test_restored_names_keep_the_order_of_the_recipe() -> None:
    row: dict[str, Any] = {
        "name": "x",
        "world": "miniature",
        "model": None,
        "shard_prompts": 3,
        "sample": {},
    }
    assert list(restore_names(row)) == [
        "name", "task", "model", "prompts_per_shard", "sample", "evaluation",
    ]  # fmt: skip
