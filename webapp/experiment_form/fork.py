"""The form of a fork: a stage to keep, changed values, and the request for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meta_reward_core.errors import ArtifactError, InputError
from meta_reward_core.planning.fork import (
    ForkPoint,
    change_forked_recipe,
    check_fork,
    list_fork_points,
    list_unchangeable,
)
from meta_reward_core.recipes.dataflow import STAGE_SPECS
from meta_reward_core.recipes.schema import Recipe
from webapp.experiment_form.engine_offer import EngineOffer
from webapp.experiment_form.form_state import PREFIX
from webapp.experiment_form.forms import ForkForm
from webapp.experiment_form.presenter import SectionView, build_draft_sections
from webapp.experiment_form.recipe_draft import ValueDifference, draft_recipe
from webapp.experiment_form.recipe_fields import get_recipe_fields
from webapp.experiments.files import open_experiment_files, read_settings_history
from webapp.experiments.models import Experiment

_KEPT = {
    "sample": "prompts",
    "generate": "responses",
    "judge": "judgments",
    "pair_actor": "judgments and actor pairs",
    "meta_judge": "judgments and battles",
    "pair_judge": "pairs",
}
"""Description of the results kept from the first iteration, by the last kept stage."""


class ForkRequest(BaseModel):
    """The request for a fork, as a job stores it.

    Attributes:
        experiment: name of the fork.
        origin, origin_uuid: the experiment that is forked.
        point: iteration and last stage that is kept, in the format of `ForkPoint`.
        values: values that differ from the origin's, by key.
        iterations: number of the last iteration to run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    origin: str
    origin_uuid: str
    point: str
    values: dict[str, Any] = Field(default_factory=dict)
    iterations: int
    is_private: bool = False

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> "ForkRequest":
        """Read the request from a job.

        Raises:
            InputError: the payload is not a fork request.
        """
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            raise InputError(f"the request cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class ForkChoice:
    """A point at which an experiment can be forked, with kept and rerun stages."""

    value: str
    iteration: int
    kept: str
    begins_with: str


@dataclass(frozen=True, slots=True)
class ForkFormState:
    """The form of a fork.

    Attributes:
        choices: points at which the experiment can be forked.
        chosen: None while nothing is chosen.
        values: values that differ from the origin's, by key; `differences` shows them to users.
        problems: problems other than the errors of `form`.
    """

    choices: Sequence[ForkChoice]
    chosen: ForkChoice | None = None
    form: ForkForm | None = None
    sections: Sequence[SectionView] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    differences: Sequence[ValueDifference] = ()
    problems: Sequence[str] = ()

    @property
    def is_ready(self) -> bool:
        """Whether the fork can be requested."""
        return self.form is not None and self.form.is_valid() and not self.problems


def read_fork_form(row: Experiment, given: Mapping[str, str], *, is_sent: bool) -> ForkFormState:
    """Read the form of a fork; without a fork point, only the choices of fork points.

    Args:
        is_sent: whether the form was submitted, not only opened.
    """
    files = open_experiment_files(row)
    try:
        points = list_fork_points(files)
        history = read_settings_history(row)
    except (InputError, ArtifactError) as error:
        return ForkFormState(choices=(), problems=[str(error)])
    choices = [_describe_point(point, history.get_recipe(point.iteration)) for point in points]
    chosen = next((one for one in choices if one.value == given.get("from")), None)
    if chosen is None:
        return ForkFormState(choices)
    point = ForkPoint.parse(chosen.value)
    base = history.get_recipe(point.iteration)
    texts = {
        name.removeprefix(PREFIX): text for name, text in given.items() if name.startswith(PREFIX)
    }
    draft = draft_recipe(base, texts, model=None, is_new=False)
    problems = [f"{key}: {text}" for key, text in draft.errors.items()] + list(draft.problems)
    if draft.recipe is not None:
        try:
            check_fork(files, point, draft.recipe)
        except (InputError, ArtifactError) as error:
            problems.append(str(error))
    initial = {"until": max(row.target_iteration, point.iteration), "is_private": row.is_private}
    return ForkFormState(
        choices,
        chosen,
        ForkForm(given if is_sent else None, initial=initial),
        sections=build_draft_sections(
            draft,
            {PREFIX + key: text for key, text in draft.errors.items()},
            engines=EngineOffer.read(),
            left_out=list_unchangeable(point, base, get_recipe_fields()),
        ),
        values=draft.values,
        differences=draft.differences,
        problems=problems,
    )


def find_fork_choice(row: Experiment, iteration: int, keys: Collection[str]) -> ForkChoice | None:
    """Find the fork of an iteration that keeps most results and can still change some values.

    Args:
        keys: recipe keys of the values to change.
    """
    try:
        points = list_fork_points(open_experiment_files(row))
        recipe = read_settings_history(row).get_recipe(iteration)
    except (InputError, ArtifactError):
        return None
    for point in points:
        if point.iteration == iteration and not list_unchangeable(point, recipe, keys) & set(keys):
            return _describe_point(point, recipe)
    return None


def make_fork_request(
    row: Experiment,
    point: ForkPoint,
    values: Mapping[str, Any],
    *,
    name: str,
    until: int | None = None,
    is_private: bool | None = None,
) -> ForkRequest:
    """Make the request for a fork from typed values.

    Args:
        until: the last iteration to run; None for the origin's.
        is_private: None for the origin's visibility.

    Raises:
        InputError: the request is invalid; the message has one line per problem.
        ArtifactError: the files of the origin cannot be read.
    """
    iterations = max(row.target_iteration, point.iteration) if until is None else until
    form = ForkForm(
        {
            "name": name,
            "until": iterations,
            "is_private": row.is_private if is_private is None else is_private,
        }
    )
    if not form.is_valid():
        problems = (f"{field}: {text}" for field, texts in form.errors.items() for text in texts)
        raise InputError("\n".join(problems))
    if iterations < point.iteration:
        raise InputError(
            f"until: must be at least {point.iteration}, the first iteration of the fork"
        )
    files = open_experiment_files(row)
    check_fork(files, point, change_forked_recipe(files, point, values))
    return ForkRequest(
        experiment=form.cleaned_data["name"],
        origin=row.name,
        origin_uuid=str(row.uuid),
        point=str(point),
        values=dict(values),
        iterations=iterations,
        is_private=form.cleaned_data["is_private"],
    )


def write_fork_request(row: Experiment, state: ForkFormState) -> ForkRequest:
    """Write the request from a validated form."""
    if state.form is None or state.chosen is None:
        raise InputError("choose a fork point")
    given = state.form.cleaned_data
    return ForkRequest(
        experiment=given["name"],
        origin=row.name,
        origin_uuid=str(row.uuid),
        point=state.chosen.value,
        values=dict(state.values),
        iterations=max(given["until"], state.chosen.iteration),
        is_private=given["is_private"],
    )


def _describe_point(point: ForkPoint, recipe: Recipe) -> ForkChoice:
    kept = [spec.name for spec in point.list_kept_stages()]
    following = next(
        spec
        for spec in STAGE_SPECS
        if spec.name not in kept and spec.is_scheduled(recipe, point.iteration)
    )
    return ForkChoice(str(point), point.iteration, _describe_kept(point), following.title)


def _describe_kept(point: ForkPoint) -> str:
    parts = [f"M{point.iteration - 1}"] if point.iteration > 1 else []
    if point.keep:
        parts.append(f"the {_KEPT[point.keep]} of iteration {point.iteration}")
    return " and ".join(parts) or "the base model and the prompt pool"
