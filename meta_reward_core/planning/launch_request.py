"""The request for a new experiment: one typed document, the same for every interface.

The command line, the API and the form build it with `build_launch_request`, so that the same
request gives the same bytes and the same errors. Imports no engine or training code.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meta_reward_core.data.prompt_formats import FORMATS, detect_format
from meta_reward_core.errors import InputError, RecipeError, TaskError
from meta_reward_core.planning.experiment_request import (
    DEFAULT_RECIPE,
    DEFAULT_SEED,
    ExperimentRequest,
)
from meta_reward_core.recipes.changed_values import (
    RecipeValuesError,
    change_recipe,
    list_changed_values,
    parse_changes,
)
from meta_reward_core.recipes.loader import (
    list_shipped_recipes,
    load_recipe,
    parse_recipe,
)
from meta_reward_core.recipes.renamed_keys import ignore_renamed
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import encode_canonical_json
from meta_reward_core.tasks.registry import find_task

PROMPTS: Final = "prompts"
"""Key under which a request's errors list problems of the prompts."""


class LaunchError(RecipeValuesError):
    """All errors of a request."""


class PromptsReference(BaseModel):
    """A reference to a file of prompts, by its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    format: str = Field(description="One of the formats of prompt files.")

    @classmethod
    def of(cls, path: Path) -> "PromptsReference":
        """Describe a file.

        Raises:
            PromptFileError: the file is missing or has an unknown format.
        """
        data = path.read_bytes()
        return cls(sha256=hashlib.sha256(data).hexdigest(), format=detect_format(data, path.name))

    @property
    def stored_name(self) -> str:
        """Name of the stored file of this content."""
        return f"{self.sha256}.{self.format}"

    @classmethod
    def parse(cls, stored_name: str) -> "PromptsReference":
        """Read the name of a stored file.

        Raises:
            InputError: the name is invalid.
        """
        digest, _, kind = stored_name.partition(".")
        try:
            found = cls(sha256=digest, format=kind)
        except ValidationError as error:
            raise InputError(f"{stored_name!r:.80} is not a stored prompt file") from error
        if found.format not in FORMATS:
            raise InputError(f"{stored_name!r:.80} is not a stored prompt file")
        return found


class LaunchRequest(BaseModel):
    """All settings of a new experiment.

    Attributes:
        experiment: name of the experiment.
        recipe: name of a shipped recipe; empty if `recipe_values` is the base.
        recipe_values: all values of a base that is not a shipped recipe: a file, a submitted text,
            or the recipe of the duplicated experiment.
        values: values that differ from the base's, by key.
        iterations: the last iteration to run, counted from 1.
        is_private: whether the experiment is visible only to its owner and to admins.
        origin: name of the duplicated experiment.
        prompts: file of prompts; None for the prompts of the task or of the origin.
        same_prompts: whether to use the origin's prompts.
        skip_bad_rows: whether to skip unusable rows of the prompt file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    recipe: str = ""
    recipe_values: dict[str, Any] | None = None
    values: dict[str, Any] = Field(default_factory=dict)
    seed: int
    iterations: int = Field(ge=1)
    is_private: bool = False
    origin: str = ""
    prompts: PromptsReference | None = None
    same_prompts: bool = False
    skip_bad_rows: bool = False

    def to_json(self) -> bytes:
        """Encode the request; the same request gives the same bytes."""
        return encode_canonical_json(self.model_dump(mode="json"))

    def get_base(self) -> Recipe:
        """The recipe before its changes.

        Raises:
            RecipeError: the recipe is missing or wrong.
        """
        if self.recipe_values is None:
            return load_recipe(self.recipe, warn=ignore_renamed)
        name = str(self.recipe_values.get("name", "the recipe"))
        return parse_recipe(self.recipe_values, origin=name)

    def build_recipe(self) -> Recipe:
        """Build the requested recipe.

        Raises:
            RecipeError: the base is missing or wrong, or a value cannot be used.
        """
        return change_recipe(self.get_base(), self.values)


@dataclass(frozen=True, slots=True)
class LaunchBase:
    """The base recipe of a request, before its changes.

    Attributes:
        name: name of a shipped recipe; empty for any other recipe.
        origin: name of the duplicated experiment.
    """

    recipe: Recipe
    name: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """The fields of a request other than its recipe; see `LaunchRequest`."""

    experiment: str
    seed: int
    iterations: int
    is_private: bool = False
    prompts: PromptsReference | None = None
    same_prompts: bool = False
    skip_bad_rows: bool = False


def build_launch_request(
    base: LaunchBase, recipe: Recipe, settings: LaunchSettings
) -> LaunchRequest:
    """Write a request whose recipe has been checked."""
    is_shipped = base.name in list_shipped_recipes()
    return LaunchRequest(
        experiment=settings.experiment,
        recipe=base.name if is_shipped else "",
        recipe_values=None if is_shipped else base.recipe.model_dump(mode="json"),
        values=list_changed_values(base.recipe, recipe),
        seed=settings.seed,
        iterations=settings.iterations,
        is_private=settings.is_private,
        origin=base.origin,
        prompts=settings.prompts,
        same_prompts=settings.same_prompts,
        skip_bad_rows=settings.skip_bad_rows and settings.prompts is not None,
    )


def make_launch_request(
    request: ExperimentRequest, *, iterations: int | None = None
) -> tuple[LaunchRequest, Recipe]:
    """Convert a command line's request to a launch request for a new experiment.

    Args:
        iterations: the last iteration to run; 1 if not given.

    Returns:
        The request without its prompts, whose file has not been read, and the recipe.

    Raises:
        RecipeError: the recipe is missing or wrong, or values cannot be used.
    """
    base, values = _load_base(request)
    recipe = check_recipe_values(base.recipe, values)
    settings = LaunchSettings(
        experiment=request.experiment,
        seed=DEFAULT_SEED if request.seed is None else request.seed,
        iterations=iterations or 1,
    )
    return build_launch_request(base, recipe, settings), recipe


def _load_base(request: ExperimentRequest) -> tuple[LaunchBase, dict[str, Any]]:
    values = parse_changes(request.list_changes())
    if isinstance(request.recipe, Recipe):
        return LaunchBase(request.recipe), values
    name = request.recipe or DEFAULT_RECIPE
    try:
        return LaunchBase(load_recipe(name), name), values
    except RecipeError:
        if not values:
            raise
        # A recipe file may only be valid together with the changes.
        return LaunchBase(load_recipe(name, changes=request.list_changes())), {}


def check_recipe_values(base: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Apply changed values to a base.

    Raises:
        RecipeValuesError: values are wrong; the error contains all problems.
    """
    recipe = change_recipe(base, values)
    if error := find_task_error(recipe):
        raise LaunchError({"task": error})
    return recipe


def find_task_error(recipe: Recipe) -> str:
    """Explain why a recipe's task cannot be used here; empty if it can."""
    try:
        find_task(recipe.task)
    except TaskError as error:
        return str(error)
    return ""


def find_pool_error(recipe: Recipe, *, count: int, iterations: int) -> str:
    """Explain why a pool has too few prompts for a request; empty if it has enough.

    Args:
        count: number of prompts in the pool.
        iterations: the last iteration to run.
    """
    per_iteration = recipe.sample.prompts
    if count < per_iteration:
        return (
            f"An iteration needs {per_iteration:,} prompts, but there are only {count:,}: add "
            "more, or lower sample.prompts."
        )
    wanted = per_iteration * iterations
    if recipe.sample.allow_reuse or count >= wanted:
        return ""
    return (
        f"{iterations} iterations need {wanted:,} different prompts, but there are only "
        f"{count:,}: add more, run fewer iterations, lower sample.prompts, or allow reuse "
        "(sample.allow_reuse)."
    )
