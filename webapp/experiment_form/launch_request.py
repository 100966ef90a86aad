"""What a person asks for when an experiment shall begin, as it stands in the order."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import yaml

from meta_reward_core.errors import RecipeError
from meta_reward_core.recipes.loader import list_shipped_recipes, load_recipe, read_recipe_text
from meta_reward_core.recipes.renamed_keys import Warn, ignore_renamed
from meta_reward_core.recipes.schema import Recipe
from webapp.experiment_form.recipe_draft import apply_changes


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """Everything that an experiment begins with; plain values alone.

    Attributes:
        recipe: a shipped recipe's name; empty if `recipe_text` is the base.
        recipe_text: YAML that a person sent, or the recipe of the experiment that is duplicated.
        changes: `key=value` changes of the base.
        origin: name of the experiment that is duplicated.
        prompts: name of a file that is kept; empty for the task's, or the origin's.
        prompts_called: what the person called it.
        same_prompts: begin with the origin's instructions.
        skip_bad_rows: leave out rows of the prompt file that cannot be used.
        until: the iteration to go on to.
    """

    name: str
    seed: int
    until: int
    is_private: bool = False
    recipe: str = ""
    recipe_text: str = ""
    changes: tuple[str, ...] = ()
    origin: str = ""
    prompts: str = ""
    prompts_called: str = ""
    same_prompts: bool = False
    skip_bad_rows: bool = False

    @classmethod
    def read(cls, values: dict[str, Any]) -> "LaunchRequest":
        """Read it from the payload of a job."""
        return cls(**{**values, "changes": tuple(values.get("changes", ()))})

    def write(self) -> dict[str, Any]:
        """Write it as the payload of a job."""
        return {**asdict(self), "changes": list(self.changes)}

    def load_base(self) -> Recipe:
        """The recipe before its changes.

        Raises:
            RecipeError: it is missing or wrong.
        """
        return load_base_recipe(self.recipe, self.recipe_text, warn=ignore_renamed)

    def build_recipe(self) -> Recipe:
        """The recipe that is asked for.

        Raises:
            RecipeError: it is missing or wrong, or names a file of this machine.
        """
        return apply_changes(self.load_base(), self.changes)


def load_base_recipe(name: str, text: str, *, warn: Warn) -> Recipe:
    """Read a recipe by its shipped name, or as the text that somebody sent.

    Args:
        warn: told about each deprecated key of the text.

    Raises:
        RecipeError: it is missing or wrong.
    """
    if not name:
        return read_recipe_text(text, warn=warn)
    if name not in list_shipped_recipes():
        known = ", ".join(list_shipped_recipes())
        raise RecipeError(f"no recipe {name!r} comes with this installation; there are: {known}")
    return load_shipped_recipe(name)


@cache
def load_shipped_recipe(name: str) -> Recipe:
    """Read a recipe that comes with the package, once in a process."""
    return load_recipe(name)


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as a text that `load_base_recipe` reads."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=100)
    return text
