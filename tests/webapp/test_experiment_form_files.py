"""A recipe from far away never makes the workers' machine read a file of prompts."""

import pytest

from meta_reward_core.errors import RecipeError
from meta_reward_core.recipes.schema import Recipe
from webapp.experiment_form.recipe_draft import require_launchable
from webapp.experiment_form.recipe_fields import get_recipe_fields


def test_a_file_of_held_out_prompts_is_refused_and_not_asked_for() -> None:
    recipe = Recipe.model_validate({"name": "mine", "sample": {"held_out": "/etc/passwd"}})
    with pytest.raises(RecipeError, match=r"sample\.held_out is a file"):
        require_launchable(recipe)
    require_launchable(Recipe(name="mine"))
    assert "sample.held_out" not in get_recipe_fields()
    assert "sample.prompts" in get_recipe_fields()
