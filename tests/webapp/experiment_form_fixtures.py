"""A person's browser before the form of a launch."""

from pathlib import Path
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from pytest_django.fixtures import Settings

from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.loader import load_recipe
from tests.model_files import write_small_folder
from webapp.experiments import throughput
from webapp.experiments.models import Experiment, Job

NEW = "/experiments/new"
HTMX = {"HX-Request": "true"}


@pytest.fixture(autouse=True)
def storage_roots(tmp_path: Path, settings: Settings) -> Path:
    settings.META_REWARD_ARTIFACT_ROOT = str(tmp_path / "artifacts")
    settings.META_REWARD_MODEL_ROOT = str(tmp_path / "models")
    settings.META_REWARD_UPLOAD_ROOT = str(tmp_path / "uploads")
    (tmp_path / "models").mkdir()
    throughput._load_throughput.cache_clear()
    return tmp_path


make_model = write_small_folder


def make_experiment(name: str, **values: Any) -> Experiment:
    recipe = load_recipe("smoke", changes=values.pop("changes", ()))
    return Experiment.objects.create(
        name=name,
        recipe=canonicalize_recipe(recipe),
        recipe_sha256=recipe.sha256,
        base_model_folder="/models/m0",
        base_model_sha256="b" * 64,
        **{"seed": 1, "artifact_root": "/nowhere", **values},
    )


def filled(**changes: Any) -> dict[str, Any]:
    """What a browser sends of a form that is filled in, with the recipe's fields as given."""
    given = {
        "base_recipe": "smoke",
        "name": "mine",
        "until": "2",
        "seed": "7",
        "model_from": "recipe",
        "prompts_from": "world",
    }
    return given | changes


def launch(client: Client, **changes: Any) -> HttpResponse:
    answer: Any = client.post(NEW, filled(action="launch", **changes))
    return answer  # type: ignore[no-any-return]


def only_job() -> Job:
    return Job.objects.get()
