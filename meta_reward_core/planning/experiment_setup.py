"""From what a person asked for to an experiment that can run: recipe, model, prompts, room.

Everything that can be wrong is found here, before a file is written.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from meta_reward_core.context import EngineLoader, ModelRef, StageResources
from meta_reward_core.data.holdout import read_held_out, remove_held_out
from meta_reward_core.data.prompt_files import PromptFile, compute_prompt_id, read_prompts
from meta_reward_core.engines.availability import require_engine
from meta_reward_core.engines.base import Engine
from meta_reward_core.engines.completion_cache import CachingEngine
from meta_reward_core.engines.endpoints import find_endpoint
from meta_reward_core.engines.registry import ENGINE_LOADERS
from meta_reward_core.errors import InputError, ModelFolderError, StorageFullError
from meta_reward_core.experiment import (
    Experiment,
    check_same_settings,
    create_experiment,
    load_templates,
    open_experiment,
)
from meta_reward_core.models.hf_download import fetch_model, list_local_commits
from meta_reward_core.models.hf_hub import HubName, parse_hub_name
from meta_reward_core.models.validation import check_model_folder, hash_model_folder
from meta_reward_core.planning.cost_estimate import estimate_disk_needed, plan_iteration
from meta_reward_core.planning.experiment_request import (
    DEFAULT_RECIPE,
    DEFAULT_SEED,
    ExperimentRequest,
    check_name,
    check_pool,
    compute_pool_size,
    load_requested_recipe,
)
from meta_reward_core.recipes.schema import EngineRecipe, Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.records import Prompt
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.toy.base_model import ensure_seed_model, find_cached_seed_model
from meta_reward_core.tasks.toy.base_model_variants import (
    check_variant,
    ensure_variant,
    find_cached_variant,
    parse_variant,
)
from meta_reward_core.tasks.toy.task import sample_pool_prompts


def open_or_create(
    request: ExperimentRequest,
    places: StorageRoots,
    *,
    say: Callable[[str], None],
    engine_here: bool = False,
) -> Experiment:
    """Open the experiment, or begin it if there is none of this name.

    Args:
        say: told what takes long, and what was left out of the prompts.
        engine_here: whether this environment will also run it, and not another machine's.

    Raises:
        InputError: something that was asked for is wrong.
        StorageFullError: there is visibly too little room.
    """
    check_name(request.experiment)
    store = ArtifactStore(places.artifacts)
    existing = open_experiment(store, request.experiment)
    if existing is None:
        return _create(request, places, store, say=say, engine_here=engine_here)
    check_can_resume(request, existing)
    return existing


def check_can_create(
    request: ExperimentRequest,
    store: ArtifactStore,
    *,
    engine_here: bool,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Recipe, PromptFile]:
    """See that an experiment can begin as it is asked for, as far as that needs no model.

    Raises:
        InputError: something that was asked for is wrong.
    """
    if request.recipe is None:
        _check_not_misspelt(request.experiment, store)
    recipe = load_requested_recipe(request)
    load_templates(recipe)
    if engine_here:
        _require_engines(recipe)
    prompts = read_pool(request.prompts, recipe, say=say)
    check_pool(recipe, len(prompts.prompts))
    return recipe, prompts


def _require_engines(recipe: Recipe) -> None:
    """See that this environment has what a recipe's engines are made of; nothing is asked."""
    require_engine(recipe.engine.kind)
    for name in (recipe.engine.endpoint, recipe.judge.endpoint):
        if name is not None:
            find_endpoint(name)


def _check_not_misspelt(name: str, store: ArtifactStore) -> None:
    """Without a recipe a name most likely means an experiment that is there."""
    meant = next(
        (
            close
            for close in get_close_matches(name, store.names(""))
            if store.exists(f"{close}/experiment.json")
        ),
        None,
    )
    if meant is not None:
        raise InputError(
            f"there is no experiment {name!r}; did you mean {meant!r}? To begin a new one, name "
            f"its recipe: --recipe {DEFAULT_RECIPE}"
        )


def check_can_resume(request: ExperimentRequest, existing: Experiment) -> None:
    """See that what is asked for is what the experiment began with; what is not named is.

    Without a recipe, changes are changes to the recipe that the experiment began with.

    Raises:
        InputError: it is not, or something that was asked for is wrong.
    """
    if not request.resume:
        raise InputError(
            f"experiment {existing.name!r} exists already and --no-resume was given: "
            "choose another name"
        )
    asked = request if request.recipe is not None else replace(request, recipe=existing.recipe)
    recipe, prompts = load_requested_recipe(asked), None
    if request.prompts is not None:
        prompts = read_pool(request.prompts, existing.recipe)
    check_same_settings(existing, recipe=recipe, seed=request.seed, prompts=prompts)


def check_next_engine(existing: Experiment, *, until: int | None) -> None:
    """See that this environment has the engine of an experiment whose next iteration is to begin.

    One that has begun may need no engine any more: its shards find out.

    Raises:
        InputError: it has not.
    """
    number = existing.count_finished_iterations() + 1
    is_asked_for = until is None or number <= until
    if is_asked_for and not existing.files(number).has_manifests():
        _require_engines(existing.recipe)


def _create(
    request: ExperimentRequest,
    places: StorageRoots,
    store: ArtifactStore,
    *,
    say: Callable[[str], None],
    engine_here: bool,
) -> Experiment:
    recipe, prompts = check_can_create(request, store, engine_here=engine_here, say=say)
    model = resolve_seed_model(recipe, places, say=say)
    check_disk_space(recipe, model.folder, places)
    seed = DEFAULT_SEED if request.seed is None else request.seed
    return create_experiment(
        store, request.experiment, recipe=recipe, seed=seed, seed_model=model, prompts=prompts
    )


def read_pool(
    path: Path | None, recipe: Recipe, *, say: Callable[[str], None] = lambda _: None
) -> PromptFile:
    """The instructions that an experiment begins with: a file's, or those of the recipe's world.

    Raises:
        InputError: there are none, or the file cannot be read as prompts.
    """
    pool = _read_whole_pool(path, recipe, say=say)
    if recipe.sample.held_out is None:
        return pool
    left = remove_held_out(pool, read_held_out([Path(recipe.sample.held_out)]))
    say(f"{left.held_out} prompt(s) of the pool left out: held out for evaluation")
    return left


def _read_whole_pool(
    path: Path | None, recipe: Recipe, *, say: Callable[[str], None]
) -> PromptFile:
    if path is not None:
        found = read_prompts(path)
        if found.duplicates:
            say(f"{path.name}: {found.duplicates} duplicate(s) left out")
        for place, reason in found.rejected:
            say(f"{path.name}, row {place}: left out, {reason}")
        return found
    if recipe.world is None:
        raise InputError(
            f"recipe {recipe.name!r} has no world of its own: "
            "give your prompts with --prompts FILE (txt, jsonl, csv or parquet)"
        )
    count = compute_pool_size(recipe)
    try:
        texts = sample_pool_prompts(count, seed=0)
    except ValueError as error:
        raise InputError(f"the miniature world has fewer than {count} instructions") from error
    prompts = [Prompt(compute_prompt_id(text), text) for text in texts]
    return PromptFile(prompts=prompts, duplicates=0, rejected=[])


def resolve_seed_model(
    recipe: Recipe, places: StorageRoots, *, say: Callable[[str], None]
) -> ModelRef:
    """Find M0: the recipe's model, or the miniature world's.

    Raises:
        ModelFolderError: it is absent, unsafe, or outside the allowed root.
        HubError: it is to be fetched, and the hub does not answer.
    """
    variant = parse_variant(recipe.model) if recipe.world == "miniature" else None
    if variant is not None:
        folder = ensure_variant(variant, places.models, scratch=places.scratch, say=say)
    elif recipe.model is None and recipe.world == "miniature":
        folder = ensure_seed_model(places.models, scratch=places.scratch, say=say)
    else:
        folder = _get_or_fetch_folder(_require_model_name(recipe), places, say=say)
    return ModelRef("M0", folder, hash_model_folder(folder))


def check_seed_model(recipe: Recipe, places: StorageRoots) -> str | None:
    """See that M0 is there, as far as that takes no network and writes nothing.

    Returns:
        What is found out only when the experiment begins, in words; None if that is nothing.

    Raises:
        InputError: it is not there, or may not be loaded.
        TrainingError: it was trained before, and is no seed model.
        StorageFullError: there is visibly too little room.
    """
    folder, unknown = _find_folder_or_reason(recipe, places)
    if folder is not None:
        check_disk_space(recipe, folder, places)
    return unknown


def _find_folder_or_reason(recipe: Recipe, places: StorageRoots) -> tuple[Path | None, str | None]:
    if recipe.world == "miniature":
        variant = parse_variant(recipe.model)
        if variant is not None or recipe.model is None:
            folder = (
                check_variant(variant, places.models)
                if variant is not None
                else find_cached_seed_model(places.models)
            )
            why_not = "the seed model is not here yet: it is trained when the experiment begins"
            return folder, None if folder is not None else why_not
    name = _require_model_name(recipe)
    folder = _find_local_folder(name, places)
    return folder, None if folder is not None else _explain_not_fetched(
        _require_hub_name(name, places), places
    )


def _explain_not_fetched(name: HubName, places: StorageRoots) -> str:
    kept = list_local_commits(name, places.models)
    here = f", and whether it is one of those here ({', '.join(kept)})" if kept else ""
    return (
        f"the model {name} has not been fetched yet: whether the hub has it{here}, and whether it "
        "may be loaded, is found when the experiment begins"
    )


def _require_model_name(recipe: Recipe) -> str:
    if recipe.model is None:
        raise InputError(
            f"recipe {recipe.name!r} names no model: give one with --model FOLDER or a "
            "Hugging Face id"
        )
    return recipe.model


def find_local_seed_model(recipe: Recipe, places: StorageRoots) -> ModelRef | None:
    """M0 as it lies on this machine, or None: nothing is trained for it and nothing is fetched.

    Raises:
        ModelFolderError: it may not be loaded.
    """
    folder = _find_seed_folder(recipe, places)
    return None if folder is None else ModelRef("M0", folder, hash_model_folder(folder))


def _find_seed_folder(recipe: Recipe, places: StorageRoots) -> Path | None:
    if recipe.world == "miniature" and recipe.model is None:
        return find_cached_seed_model(places.models)
    variant = parse_variant(recipe.model) if recipe.world == "miniature" else None
    if variant is not None:
        return find_cached_variant(variant, places.models)
    return None if recipe.model is None else _find_local_folder(recipe.model, places)


def _find_local_folder(name: str, places: StorageRoots) -> Path | None:
    """A folder by its path: as given, or below the models' root."""
    for folder in (Path(name), places.models / name):
        if folder.exists():
            return check_model_folder(folder, allowed_roots=[places.models])
    return None


def _get_or_fetch_folder(name: str, places: StorageRoots, *, say: Callable[[str], None]) -> Path:
    """A folder of this machine, else a hub's name."""
    folder = _find_local_folder(name, places)
    if folder is not None:
        return folder
    fetched = fetch_model(
        _require_hub_name(name, places), places.models, token=places.hub_token, say=say
    )
    return check_model_folder(fetched, allowed_roots=[places.models])


def _require_hub_name(name: str, places: StorageRoots) -> HubName:
    on_hub = parse_hub_name(name)
    if on_hub is None:
        raise ModelFolderError(
            f"there is no model folder {name!r}: give a folder below {places.models} "
            "(META_REWARD_MODEL_ROOT), or a Hugging Face id such as org/name or org/name@revision"
        )
    return on_hub


def check_disk_space(recipe: Recipe, model: Path, places: StorageRoots) -> None:
    """Refuse a plan for which the disk is visibly too small (local stores).

    Raises:
        StorageFullError: naming what is needed and what is there.
    """
    store = ArtifactStore(places.artifacts)
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


def load_engine(model: ModelRef, recipe: EngineRecipe) -> Engine:
    """Load the engine that a recipe names; its libraries are imported then, not before."""
    base = None if model.base is None else model.base.folder
    return ENGINE_LOADERS[recipe.kind](model.folder, recipe, base)


def make_stage_resources(
    experiment: Experiment, places: StorageRoots, *, number: int, draws: Path | None = None
) -> StageResources:
    """Lend this process's engine and scratch folder to the stages of one iteration.

    Args:
        draws: a folder that keeps what engines draw, for experiments that have draws in common.
    """
    scratch = places.scratch / experiment.name / f"iteration-{number}"
    return StageResources(
        load_engine=load_engine if draws is None else _make_caching_loader(draws), scratch=scratch
    )


def _make_caching_loader(draws: Path) -> EngineLoader:
    """Engines that look first whether the same weights were asked the same here before."""
    store = ArtifactStore(str(draws))

    def load(model: ModelRef, recipe: EngineRecipe) -> Engine:
        identity = {
            "weights": model.sha256,
            "settings": recipe.model_dump(mode="json"),
            "packages": StageResources.packages(),
        }
        return CachingEngine(
            lambda: load_engine(model, recipe),
            identity=identity,
            store=store,
            shard_conversations=None,
            keeps_token_ids=True,
        )

    return load


def list_next_iterations(experiment: Experiment, *, until: int | None) -> Sequence[int]:
    """List which iterations to run: up to `until`, or else the next one that is not finished.

    Iterations that are finished are listed too where `until` is given: running them verifies
    their files and remakes what is damaged.
    """
    if until is None:
        return [experiment.count_finished_iterations() + 1]
    return range(1, until + 1)
