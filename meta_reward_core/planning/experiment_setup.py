"""Turn a user's request into an experiment that can run: recipe, model, prompts, disk space.

Every problem is found here, before a file is written.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from uuid import uuid4

from meta_reward_core.context import PromptTemplates
from meta_reward_core.data.prompt_files import PromptFile
from meta_reward_core.engines.endpoints import find_endpoint
from meta_reward_core.engines.registry import require_engine
from meta_reward_core.errors import InputError, StorageFullError
from meta_reward_core.experiment import (
    Experiment,
    check_same_beginning,
    create_experiment,
    load_templates,
    open_experiment,
)
from meta_reward_core.planning.base_model import (
    check_base_model,
    explain_absent_reward_model,
    resolve_base_model,
    resolve_reward_model,
)
from meta_reward_core.planning.check_experiment import (
    check_changed_settings,
    check_new_experiment,
    keep_changed_check,
)
from meta_reward_core.planning.cost_estimate import estimate_disk_needed, plan_iteration
from meta_reward_core.planning.experiment_request import (
    DEFAULT_RECIPE,
    ExperimentRequest,
    check_name,
    load_requested_recipe,
)
from meta_reward_core.planning.fork import (
    ForkPoint,
    change_forked_recipe,
    check_fork,
    find_fork_point,
    fork_experiment,
)
from meta_reward_core.planning.launch_request import (
    PROMPTS,
    LaunchError,
    LaunchRequest,
    PromptsReference,
    find_pool_error,
    make_launch_request,
)
from meta_reward_core.planning.model_check.run import write_report
from meta_reward_core.planning.prompt_pool import read_pool
from meta_reward_core.planning.settings_change import (
    SettingsPlan,
    change_settings,
    plan_settings_change,
)
from meta_reward_core.planning.shard_size import (
    ONE_ENGINE,
    EngineCapacity,
    freeze_shard_size,
)
from meta_reward_core.recipes.canonical import canonicalize_recipe, get_current_key
from meta_reward_core.recipes.changed_values import change_recipe, parse_changes
from meta_reward_core.recipes.dataflow import flatten_values
from meta_reward_core.recipes.loader import parse_stored_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import find_differences
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import (
    ExperimentFiles,
    iter_experiment_names,
    make_missing_files_error,
)
from meta_reward_core.storage.layout import ExperimentLayout
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.fixed_items import (
    FixedItems,
    get_development_path,
    get_items_path,
    load_development_items,
    load_fixed_items,
    read_development_items,
    read_fixed_items,
)
from meta_reward_core.tasks.registry import get_task_templates


def open_or_create(
    request: ExperimentRequest,
    roots: StorageRoots,
    *,
    say: Callable[[str], None],
    engine_here: bool = False,
    iterations: int | None = None,
    change: Callable[[ExperimentFiles, SettingsPlan], object] = change_settings,
    capacity: EngineCapacity = ONE_ENGINE,
) -> Experiment:
    """Open the experiment, or create it if none has this name.

    Args:
        say: receives messages about slow steps, left-out prompts, and the effects of a change.
        engine_here: whether this environment will also run the experiment, instead of another
            machine.
        iterations: the last iteration to run in a new experiment.
        change: callback that changes the settings of an existing experiment.
        capacity: the engines that will run a new experiment, which determine its shard size.

    Raises:
        InputError: the request is invalid.
        StorageFullError: there is clearly too little disk space.
    """
    check_name(request.experiment)
    store = ArtifactStore(roots.artifacts)
    existing = open_experiment(store, request.experiment)
    if existing is None and request.fork_of is not None:
        return _create_fork(request, store, say=say)
    if existing is None:
        return _create(
            request,
            roots,
            store,
            say=say,
            engine_here=engine_here,
            iterations=iterations,
            capacity=capacity,
        )
    plan = check_can_resume(request, existing)
    if plan is None:
        return existing
    for line in plan.describe():
        say(line)
    report = check_changed_settings(existing, plan.recipe, engine_here=engine_here, say=say)
    change(existing.paths, plan)
    keep_changed_check(existing, plan.recipe, report)
    changed = open_experiment(store, request.experiment)
    if changed is None:
        raise make_missing_files_error(existing.paths)
    return changed


def check_can_fork(
    request: ExperimentRequest, store: ArtifactStore
) -> tuple[ExperimentFiles, ForkPoint, Recipe]:
    """Check that the requested fork can be created.

    Returns:
        The files of the fork's origin, the fork point, and the recipe of the fork.

    Raises:
        InputError: the request is invalid.
    """
    for option, value in {
        "--recipe": request.recipe,
        "--model": request.model,
        "--prompts": request.prompts,
        "--seed": request.seed,
    }.items():
        if value is not None:
            raise InputError(f"a fork has the values of its origin: remove {option}, or use --set")
    origin = ExperimentFiles(store, request.fork_of or "")
    point = find_fork_point(origin, request.fork_at)
    recipe = change_forked_recipe(origin, point, parse_changes(request.list_changes()))
    check_fork(origin, point, recipe)
    return origin, point, recipe


def _create_fork(
    request: ExperimentRequest, store: ArtifactStore, *, say: Callable[[str], None]
) -> Experiment:
    origin, point, recipe = check_can_fork(request, store)
    target = ExperimentFiles(store, request.experiment)
    fork_experiment(origin, target, point, recipe, uuid=request.uuid or uuid4())
    kept = ", ".join(spec.name for spec in point.list_kept_stages()) or "no stage"
    say(f"{target.name} is a fork of {origin.name}: kept of iteration {point.iteration}: {kept}")
    experiment = open_experiment(store, request.experiment)
    if experiment is None:
        raise make_missing_files_error(target)
    return experiment


def check_can_create(
    request: ExperimentRequest,
    store: ArtifactStore,
    *,
    engine_here: bool,
    iterations: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> "ExperimentInputs":
    """Check that the requested experiment can start, as far as possible without the model.

    Raises:
        InputError: the request is invalid.
    """
    if request.recipe is None:
        _check_not_misspelt(request.experiment, store)
    launch, recipe = make_launch_request(request, iterations=iterations)
    templates = load_templates(recipe, get_task_templates(recipe.task))
    if engine_here:
        _require_engines(recipe)
    items = read_fixed_items(recipe)
    for absent in items:
        if absent.obstacle is not None:
            say(f"{absent.task} will not be evaluated: {absent.obstacle}")
    development = read_development_items(recipe, items)
    prompts, all_items = _read_new_pool(request, recipe, [*items, *development], say=say)
    items, development = all_items[: len(items)], all_items[len(items) :]
    wanted = launch.iterations
    if error := find_pool_error(recipe, count=len(prompts.prompts), iterations=wanted):
        raise LaunchError({PROMPTS: error})
    if request.prompts is not None:
        given = {
            "prompts": PromptsReference.of(request.prompts),
            "skip_bad_rows": request.skip_bad_rows,
        }
        launch = launch.model_copy(update=given)
    return ExperimentInputs(launch, recipe, templates, prompts, items, development)


def _read_new_pool(
    request: ExperimentRequest,
    recipe: Recipe,
    items: Sequence[FixedItems],
    *,
    say: Callable[[str], None],
) -> tuple[PromptFile, list[FixedItems]]:
    try:
        return read_pool(
            request.prompts, recipe, items, skip_bad_rows=request.skip_bad_rows, say=say
        )
    except InputError as error:
        if type(error) is not InputError:
            raise
        raise LaunchError({PROMPTS: str(error)}) from error


@dataclass(frozen=True, slots=True)
class ExperimentInputs:
    """The inputs of a new experiment, except for its model.

    Attributes:
        launch: the whole request.
        items: the items of each task of `evaluation.tasks`.
        development: the items of each task of `development.tasks`.
    """

    launch: LaunchRequest
    recipe: Recipe
    templates: PromptTemplates
    prompts: PromptFile
    items: Sequence[FixedItems]
    development: Sequence[FixedItems]

    @property
    def documents(self) -> dict[str, bytes]:
        """The files of all items, by path below the experiment's folder."""
        return {
            **{get_items_path(one.task): one.to_json() for one in self.items},
            **{get_development_path(one.task): one.to_json() for one in self.development},
        }


def _require_engines(recipe: Recipe) -> None:
    """Check that this environment has the packages of a recipe's engines; no engine is loaded."""
    require_engine(recipe.engine.kind)
    for name in (recipe.engine.endpoint, recipe.judge.endpoint):
        if name is not None:
            find_endpoint(name)


def _check_not_misspelt(name: str, store: ArtifactStore) -> None:
    """Refuse a misspelt name: without a recipe, it most likely means an existing experiment."""
    meant = next(
        (
            close
            for close in get_close_matches(name, list(iter_experiment_names(store)))
            if ExperimentFiles(store, close).exists()
        ),
        None,
    )
    if meant is not None:
        raise InputError(
            f"experiment {name!r} does not exist; did you mean {meant!r}? To create a new one, "
            f"specify its recipe: --recipe {DEFAULT_RECIPE}"
        )


def check_can_resume(request: ExperimentRequest, existing: Experiment) -> SettingsPlan | None:
    """Check that a request matches an existing experiment; omitted values always match.

    Individually set values are changes. A recipe in the request describes the experiment at its
    creation: if a value equals the original one, the experiment keeps its current value.

    Returns:
        The planned change; None if nothing changes.

    Raises:
        InputError: the request differs, a value cannot change, or the request is invalid.
    """
    if request.fork_of is not None:
        _check_is_fork(existing, request.fork_of)
    if not request.resume:
        raise InputError(
            f"experiment {existing.name!r} already exists and --no-resume was given: "
            "choose another name"
        )
    wanted, differences = _sort_differences(request, existing)
    prompts = None
    if request.prompts is not None:
        place = existing.store, existing.paths.layout
        recipe = existing.recipe
        items = [
            *(load_fixed_items(*place, task.name) for task in recipe.evaluation.tasks),
            *(load_development_items(*place, task.name) for task in recipe.development.tasks),
        ]
        prompts, _ = read_pool(
            request.prompts, existing.recipe, items, skip_bad_rows=request.skip_bad_rows
        )
    check_same_beginning(existing, differences=differences, seed=request.seed, prompts=prompts)
    return plan_settings_change(existing.paths, wanted, apply=request.apply_changes)


def _check_is_fork(existing: Experiment, origin: str) -> None:
    description = existing.paths.require_description()
    if (description.get("forked_from") or {}).get("name") != origin:
        raise InputError(
            f"experiment {existing.name!r} already exists and is not a fork of {origin!r}: "
            "choose another name"
        )


def _sort_differences(
    request: ExperimentRequest, existing: Experiment
) -> tuple[Recipe, Sequence[str]]:
    """Return the recipe with the individually set values, and the other differences.

    A request that leaves the shard size open keeps the size that was chosen earlier.
    """
    if request.recipe is None:
        wanted = change_recipe(existing.recipe, parse_changes(request.list_changes()))
        return _keep_shard_size(wanted, existing.recipe), ()
    asked = _keep_shard_size(load_requested_recipe(request), existing.settings.get_recipe(0))
    began = flatten_values(_normalize(existing.settings.get_recipe(0)))
    before, after = find_differences(_normalize(existing.recipe), _normalize(asked))
    given = (change.partition("=")[0].strip() for change in request.list_changes())
    named = [get_current_key(key) for key in given]
    differing = [key for key in after if began.get(key) != after[key]]
    changed = [key for key in differing if _is_named(key, named)]
    other = [
        f"{key}: created with {before[key]!r}, now {after[key]!r}"
        for key in differing
        if key not in changed
    ]
    return change_recipe(existing.recipe, {key: after[key] for key in changed}), other


def _keep_shard_size(asked: Recipe, existing: Recipe) -> Recipe:
    if asked.prompts_per_shard is not None:
        return asked
    return asked.model_copy(update={"prompts_per_shard": existing.prompts_per_shard})


def _normalize(recipe: Recipe) -> Mapping[str, Any]:
    """Write out every value; recipes with the same canonical form give the same result."""
    return parse_stored_recipe(canonicalize_recipe(recipe), origin=recipe.name).model_dump(
        mode="json"
    )


def _is_named(key: str, named: Sequence[str]) -> bool:
    return any(
        key == one or key.startswith(f"{one}.") or one.startswith(f"{key}.") for one in named
    )


def check_next_engine(existing: Experiment, *, target_iteration: int | None) -> None:
    """Check that this environment has the engine for the next iteration, if it is about to start.

    An iteration that has started may not need the engine any more, so its shards check instead.

    Raises:
        InputError: the engine is not installed.
    """
    number = existing.count_finished_iterations() + 1
    is_asked_for = target_iteration is None or number <= target_iteration
    if is_asked_for and not existing.get_files(number).has_manifests():
        _require_engines(existing.recipe)


def _create(
    request: ExperimentRequest,
    roots: StorageRoots,
    store: ArtifactStore,
    *,
    say: Callable[[str], None],
    engine_here: bool,
    iterations: int | None,
    capacity: EngineCapacity,
) -> Experiment:
    inputs = check_can_create(
        request, store, engine_here=engine_here, iterations=iterations, say=say
    )
    recipe = freeze_shard_size(inputs.recipe, capacity)
    model = resolve_base_model(recipe, roots, say=say)
    reward_model = resolve_reward_model(recipe, roots, say=say)
    check_disk_space(recipe, model.folder, roots)
    report = check_new_experiment(
        recipe,
        model,
        roots,
        templates=inputs.templates,
        prompts=[prompt.text for prompt in inputs.prompts.prompts],
        has_own_prompts=request.prompts is not None,
        engine_here=engine_here,
        say=say,
    )
    experiment = create_experiment(
        store,
        request.experiment,
        recipe=recipe,
        templates=inputs.templates,
        seed=inputs.launch.seed,
        seed_model=model,
        prompts=inputs.prompts,
        documents=inputs.documents,
        uuid=request.uuid,
        reward_model=reward_model,
    )
    if report is not None:
        write_report(store, ExperimentLayout.from_name(experiment.name), report)
    return experiment


def check_seed_model(recipe: Recipe, roots: StorageRoots) -> str | None:
    """Check that M0 and the reward model exist, without the network and without writing anything.

    Returns:
        A message about what can only be checked when the experiment starts; None if nothing is
        left to check.

    Raises:
        InputError: the model does not exist, or may not be loaded.
        TrainingError: the model was trained before, but is not usable as a seed model.
        StorageFullError: there is clearly too little disk space.
    """
    folder, unknown = check_base_model(recipe, roots)
    if folder is not None:
        check_disk_space(recipe, folder, roots)
    messages = (unknown, explain_absent_reward_model(recipe, roots))
    return "; ".join(message for message in messages if message is not None) or None


def check_disk_space(recipe: Recipe, model: Path, roots: StorageRoots) -> None:
    """Refuse a plan that clearly needs more than the free disk space (local stores only).

    Raises:
        StorageFullError: too little space; the message gives the needed and the free space.
    """
    store = ArtifactStore(roots.artifacts)
    if not store.is_local:
        return
    model_bytes = sum(file.stat().st_size for file in model.iterdir())
    needed = estimate_disk_needed(plan_iteration(recipe, 1), model_bytes=model_bytes)
    free = shutil.disk_usage(_find_existing_parent(Path(store.root))).free
    if free < needed:
        raise StorageFullError(
            f"one iteration of recipe {recipe.name!r} needs about {needed / 1e6:,.0f} MB, but "
            f"{store.root} has {free / 1e6:,.0f} MB free: free space or move "
            "META_REWARD_ARTIFACT_ROOT"
        )


def _find_existing_parent(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def list_next_iterations(experiment: Experiment, *, target_iteration: int | None) -> Sequence[int]:
    """List the iterations to run: up to `target_iteration`, or else the next unfinished one.

    With `target_iteration`, finished iterations are listed too: running them verifies their files
    and reruns damaged shards.
    """
    if target_iteration is None:
        return [experiment.count_finished_iterations() + 1]
    return range(1, target_iteration + 1)
