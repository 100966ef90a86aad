"""Fork an experiment: create a new experiment that keeps the results of another up to a stage.

Keys identify the inputs of each shard (`docs/decisions/0012-keys-by-need.md`) and do not include
the experiment's name. So the files of kept stages are copied unchanged, and are valid in the new
experiment as long as no value that they depend on differs. All later stages run again with the
changed values, which are stored as a settings change that applies from the forked iteration on.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from meta_reward_core.errors import ArtifactError, InputError
from meta_reward_core.planning.settings_change import FIXED_FIELDS, refuse_fixed_fields
from meta_reward_core.recipes.changed_values import change_recipe
from meta_reward_core.recipes.dataflow import STAGE_SPECS, StageSpec, list_affected_stages
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import (
    SettingsChange,
    SettingsHistory,
    compare_recipes,
    read_settings,
    write_settings_change,
)
from meta_reward_core.storage.experiment_files import Description, ExperimentFiles, get_uuid
from meta_reward_core.storage.layout import (
    PROBE_ACCEPTANCE,
    PROBE_REPORT,
    ExperimentLayout,
    get_shard_manifest_path,
    parse_iteration_name,
    parse_model_name,
)

KEEPABLE: Final = tuple(spec for spec in STAGE_SPECS if spec.name not in {"train", "evaluate"})
"""Possible last kept stages of a fork; to keep a trained model, fork from the next iteration."""


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """Iteration and stage up to which a fork keeps results.

    Attributes:
        iteration: the first iteration that the fork runs itself; all earlier iterations are kept
            completely.
        keep: name of the last stage of that iteration that is kept; empty if none is kept.
    """

    iteration: int
    keep: str = ""

    def list_kept_stages(self) -> tuple[StageSpec, ...]:
        """List the stages of the iteration that are kept."""
        if not self.keep:
            return ()
        names = [spec.name for spec in STAGE_SPECS]
        return STAGE_SPECS[: names.index(self.keep) + 1]

    def __str__(self) -> str:
        """Return the form used in URLs and jobs."""
        return f"{self.iteration}:{self.keep}"

    @classmethod
    def parse(cls, text: str) -> "ForkPoint":
        """Parse the output of `str`.

        Raises:
            InputError: the iteration is missing or invalid, or the stage cannot be kept.
        """
        number, _, keep = text.partition(":")
        is_known = keep in {"", *(spec.name for spec in KEEPABLE)}
        if not (number.isascii() and number.isdecimal() and int(number) > 0 and is_known):
            raise InputError(f"{text!r:.60} is not an iteration and stage to fork from")
        return cls(int(number), keep)


def list_fork_points(files: ExperimentFiles) -> list[ForkPoint]:
    """List where an experiment can be forked, the latest first.

    Raises:
        ArtifactError: the files cannot be read.
    """
    finished = files.count_finished_iterations()
    history = read_settings(files, files.require_description())
    points: list[ForkPoint] = []
    for number in range(1, finished + 2):
        points.append(ForkPoint(number))
        if number > 1 and _has_no_checkpoint(files, number - 1):
            points.pop()
            continue
        recipe = history.get_recipe(number)
        made = files.get_iteration(number).count_finished_shards()
        for spec in KEEPABLE:
            if not spec.is_scheduled(recipe, number):
                continue
            if not made.get(spec.name) or made[spec.name] < _count_shards(spec, files, number):
                break
            points.append(ForkPoint(number, spec.name))
    return points[::-1]


def _has_no_checkpoint(files: ExperimentFiles, number: int) -> bool:
    """Whether the weights of M_number were deleted, so that nothing can start from it."""
    names = files.get_checkpoint(number).list_files()
    return not any(name.endswith(".safetensors") for name in names)


def _count_shards(spec: StageSpec, files: ExperimentFiles, number: int) -> int:
    if not spec.by_shard:
        return 1
    return len(files.get_iteration(number).list_partition_numbers("prompts"))


def list_unchangeable(point: ForkPoint, recipe: Recipe, fields: Iterable[str]) -> set[str]:
    """List the values that a fork cannot change, because the kept results depend on them."""
    kept = {spec.name for spec in point.list_kept_stages()}
    return {*FIXED_FIELDS} | {
        field
        for field in fields
        if any(spec.name in kept for spec in list_affected_stages([field], recipe, point.iteration))
    }


def check_fork(files: ExperimentFiles, point: ForkPoint, recipe: Recipe) -> SettingsHistory:
    """Check that a fork can start at a point with the values of a recipe.

    Returns:
        The settings of the fork, as a history.

    Raises:
        InputError: the origin has not completed a stage to keep, or a kept stage depends on a
            changed value.
        ArtifactError: the files cannot be read.
    """
    if point not in list_fork_points(files):
        raise InputError(
            f"experiment {files.name!r} has not completed the stages of iteration "
            f"{point.iteration} that are to be kept: fork it from an earlier stage"
        )
    history = read_settings(files, files.require_description())
    held = tuple(one for one in history.changes if one.from_iteration <= point.iteration)
    kept_history = SettingsHistory(history.origin, history.began, held)
    before, after = compare_recipes(kept_history.get_recipe(), recipe)
    refuse_fixed_fields(files.name, after)
    kept = {spec.name for spec in point.list_kept_stages()}
    affected = [
        spec.name
        for one in (kept_history.get_recipe(), recipe)
        for spec in list_affected_stages(after, one, point.iteration)
        if spec.name in kept
    ]
    if affected:
        raise InputError(
            f"stage {affected[0]!r} depends on {', '.join(after)} and must be kept: fork "
            "from an earlier stage, or leave these values unchanged"
        )
    if not after:
        return _number_changes(kept_history)
    change = SettingsChange(len(held) + 1, point.iteration, before, after)
    return _number_changes(SettingsHistory(history.origin, history.began, (*held, change)))


def find_fork_point(files: ExperimentFiles, text: str | None) -> ForkPoint:
    """Parse a fork point; without a text, find the latest.

    Raises:
        InputError: the experiment does not exist, or the text is not a fork point.
        ArtifactError: the files cannot be read.
    """
    if not files.exists():
        raise InputError(f"there is no experiment {files.name!r} to fork")
    return list_fork_points(files)[0] if text is None else ForkPoint.parse(text)


def change_forked_recipe(
    files: ExperimentFiles, point: ForkPoint, values: Mapping[str, Any]
) -> Recipe:
    """Return the recipe of a fork: the origin's at this iteration, with changed values.

    Raises:
        RecipeError: a value is wrong.
        ArtifactError: the files cannot be read.
    """
    history = read_settings(files, files.require_description())
    return change_recipe(history.get_recipe(point.iteration), values)


def _number_changes(history: SettingsHistory) -> SettingsHistory:
    """Number the changes from 1, because changes that the fork does not copy leave gaps."""
    changes = [
        SettingsChange(number, one.from_iteration, one.before, one.after)
        for number, one in enumerate(history.changes, start=1)
    ]
    return SettingsHistory(history.origin, history.began, tuple(changes))


def fork_experiment(
    origin: ExperimentFiles,
    target: ExperimentFiles,
    point: ForkPoint,
    recipe: Recipe,
    *,
    uuid: UUID,
) -> None:
    """Write a fork; its description, which makes it an experiment, is written last.

    Raises:
        InputError: see `check_fork`; or the name is taken.
        StorageFullError: the disk or the store is full.
    """
    settings = check_fork(origin, point, recipe)
    with target.lock():
        if target.exists():
            raise InputError(f"an experiment {target.name!r} already exists: choose another name")
        target.delete_leftovers()
        try:
            for path in _list_kept_files(origin, point):
                origin.store.copy(origin.layout.get_path(path), target.layout.get_path(path))
            for change in settings.changes:
                write_settings_change(target, change)
            target.write_description(_describe_fork(origin, target.name, point, uuid))
        except BaseException:
            with contextlib.suppress(ArtifactError, OSError):  # report the first error
                if not target.exists():
                    target.delete_leftovers()
            raise


def _describe_fork(origin: ExperimentFiles, name: str, point: ForkPoint, uuid: UUID) -> Description:
    found = origin.require_description()
    forked_from = {
        "name": origin.name,
        "uuid": str(get_uuid(found, name=origin.name)),
        "iteration": point.iteration,
        "keep": point.keep,
    }
    return found | {"name": name, "uuid": str(uuid), "forked_from": forked_from}


def _list_kept_files(files: ExperimentFiles, point: ForkPoint) -> Iterator[str]:
    """Yield the paths that a fork keeps, relative to the experiment's folder; manifests last."""
    yield from (path for path in files.list_sizes() if _is_kept(path, point))
    folder = ExperimentLayout("").get_iteration(point.iteration)
    kept = {spec.name for spec in point.list_kept_stages()}
    for manifest in files.get_iteration(point.iteration).list_manifests():
        if manifest.stage in kept:
            yield from (f"{folder}/{part.path}" for part in manifest.parts)
            yield f"{folder}/{get_shard_manifest_path(manifest.stage, manifest.shard)}"


def _is_kept(path: str, point: ForkPoint) -> bool:
    """Whether a fork keeps a file that is not listed in a manifest of its first iteration."""
    plain = ExperimentLayout("")
    folder, _, rest = path.partition("/")
    number = parse_iteration_name(folder)
    if number is not None:
        is_probe = rest in {PROBE_REPORT, PROBE_ACCEPTANCE}
        return number < point.iteration or (
            number == point.iteration and bool(point.keep) and is_probe
        )
    if folder == plain.evaluations:
        model = parse_model_name(rest.partition("/")[0])
        return model is not None and model < point.iteration
    return folder in {plain.model_check, plain.evaluation_items}
