"""An experiment that was begun before a recipe knew a value goes on after it does."""

import json

import pytest

from meta_reward_core.errors import ArtifactError
from meta_reward_core.experiment import open_experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.recipes import changed_values, loader, schema
from meta_reward_core.recipes.field import OURS, Section, declare_field
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.runner import publish_manifest
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.workers.installation import Installation, UseScript
from webapp.experiments.models import Attempt, Experiment, Iteration
from workers.pipeline import open_experiment as opening


class NoveltyRecipe(Section):
    """What the next version has added."""

    strength: int = declare_field(3, "How much of the new.", source=OURS)


class NewerRecipe(Recipe):
    """The recipe of the next version: a value and a section more."""

    patience: int = declare_field(7, "A value that nobody knew.", source=OURS)
    novelty: NoveltyRecipe = NoveltyRecipe()


@pytest.fixture
def begun(installation: Installation, use_script: UseScript) -> Installation:
    installation.run_iteration()
    return installation


def upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "Recipe", NewerRecipe)
    monkeypatch.setattr(schema, "Recipe", NewerRecipe)
    monkeypatch.setattr(changed_values, "Recipe", NewerRecipe)
    changed_values.list_value_keys.cache_clear()
    opening._open_cached.cache_clear()


def test_every_finished_shard_stays_finished(
    begun: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = begun.artifacts / "mine" / "iteration-1" / "manifest.json"
    before, attempts = manifest.read_bytes(), Attempt.objects.count()
    upgrade(monkeypatch)
    context = opening.build_context(Iteration.objects.get())
    assert context.recipe.model_dump()["patience"] == 7
    scheduled = [stage for stage in STAGES if stage.is_scheduled_in(context)]
    assert len(scheduled) > 5
    for stage in scheduled:
        for shard in range(stage.plan_shards(context)):
            assert stage.find_finished_shard(context, shard) is not None, stage.name
    publish_manifest(context)
    assert manifest.read_bytes() == before
    assert Attempt.objects.count() == attempts


def test_the_next_iteration_runs_under_the_recipe_that_it_began_with(
    begun: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(monkeypatch)
    begun.run_iteration("--iterations", 2)
    first, second = (
        json.loads((begun.artifacts / "mine" / f"iteration-{number}" / "manifest.json").read_text())
        for number in (1, 2)
    )
    assert first["recipe"] == second["recipe"] == Experiment.objects.get().recipe_sha256


def test_a_recipe_that_was_edited_on_disk_is_still_refused(begun: Installation) -> None:
    path = begun.artifacts / "mine" / "experiment.json"
    found = json.loads(path.read_text())
    found["recipe"]["actor"]["temperature"] = 0.1
    path.write_text(json.dumps(found))
    opening._open_cached.cache_clear()
    with pytest.raises(ArtifactError, match="belong to another experiment"):
        opening.open_row(Experiment.objects.get())


def test_the_hash_of_what_was_written_down_is_that_of_the_recipe(begun: Installation) -> None:
    opened = open_experiment(ArtifactStore(str(begun.artifacts)), "mine")
    assert opened is not None
    assert opened.recipe_sha256 == opened.recipe.sha256
