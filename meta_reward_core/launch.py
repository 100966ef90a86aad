"""From what a person asked for to an experiment that can run: recipe, model, prompts, room.

Everything that can be wrong is found here, before a file is written.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.config import EngineRecipe, Recipe
from meta_reward_core.context import EngineLoader, Model, Tools
from meta_reward_core.engines.base import Engine
from meta_reward_core.engines.endpoints import find_endpoint
from meta_reward_core.engines.installed import require_engine
from meta_reward_core.engines.kept import KeptEngine
from meta_reward_core.engines.kinds import ENGINE_LOADERS
from meta_reward_core.errors import InputError, ModelFolderError, StorageFullError
from meta_reward_core.experiment import (
    Experiment,
    begin_experiment,
    check_same_settings,
    load_templates,
    open_experiment,
)
from meta_reward_core.held_out import read_held_out, without_held_out
from meta_reward_core.hub import HubName, read_hub_name
from meta_reward_core.hub_models import fetch_model, kept_commits
from meta_reward_core.miniature.seed import ensure_seed_model, kept_seed_model
from meta_reward_core.miniature.seed_variants import (
    check_variant,
    ensure_variant,
    kept_variant,
    read_variant,
)
from meta_reward_core.miniature.world import loop_prompts
from meta_reward_core.model_folder import check_model_folder, hash_model_folder
from meta_reward_core.plan import plan_iteration, room_needed
from meta_reward_core.prompt_files import PromptFile, prompt_id_of, read_prompts
from meta_reward_core.records import Prompt
from meta_reward_core.request import (
    DEFAULT_RECIPE,
    DEFAULT_SEED,
    Request,
    check_name,
    check_pool,
    requested_recipe,
    world_pool_size,
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie.

    Attributes:
        artifacts: root of all experiments, any fsspec address.
        models: folder under which models may be loaded from.
        scratch: private folder for what is only needed while it is being made.
        hub_token: with which models are fetched; None for what the hub's client finds itself.
    """

    artifacts: str
    models: Path
    scratch: Path
    hub_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> "Places":
        """Read META_REWARD_ARTIFACT_ROOT, _MODEL_ROOT and _SCRATCH_ROOT; defaults under `var`."""
        return cls(
            artifacts=os.environ.get("META_REWARD_ARTIFACT_ROOT", "var/artifacts"),
            models=Path(os.environ.get("META_REWARD_MODEL_ROOT", "var/models")),
            scratch=Path(os.environ.get("META_REWARD_SCRATCH_ROOT", "var/scratch")),
        )


def open_or_begin(
    request: Request, places: Places, *, say: Callable[[str], None], engine_here: bool = False
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
        return _begin(request, places, store, say=say, engine_here=engine_here)
    check_goes_on(request, existing)
    return existing


def check_begins(
    request: Request,
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
    recipe = requested_recipe(request)
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


def check_goes_on(request: Request, existing: Experiment) -> None:
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
    recipe, prompts = requested_recipe(asked), None
    if request.prompts is not None:
        prompts = read_pool(request.prompts, existing.recipe)
    check_same_settings(existing, recipe=recipe, seed=request.seed, prompts=prompts)


def check_engine_of_next(existing: Experiment, *, until: int | None) -> None:
    """See that this environment has the engine of an experiment whose next iteration is to begin.

    One that has begun may need no engine any more: its shards find out.

    Raises:
        InputError: it has not.
    """
    number = existing.finished_iterations() + 1
    is_asked_for = until is None or number <= until
    if is_asked_for and not existing.files(number).is_begun():
        _require_engines(existing.recipe)


def _begin(
    request: Request,
    places: Places,
    store: ArtifactStore,
    *,
    say: Callable[[str], None],
    engine_here: bool,
) -> Experiment:
    recipe, prompts = check_begins(request, store, engine_here=engine_here, say=say)
    model = find_seed_model(recipe, places, say=say)
    check_room(recipe, model.folder, places)
    seed = DEFAULT_SEED if request.seed is None else request.seed
    return begin_experiment(
        store, request.experiment, recipe=recipe, seed=seed, seed_model=model, prompts=prompts
    )


def read_pool(
    path: Path | None, recipe: Recipe, *, say: Callable[[str], None] = lambda _: None
) -> PromptFile:
    """The instructions that an experiment begins with: a file's, or those of the recipe's world.

    Raises:
        InputError: there are none, or the file cannot be read as prompts.
    """
    pool = _whole_pool(path, recipe, say=say)
    if recipe.sample.held_out is None:
        return pool
    left = without_held_out(pool, read_held_out([Path(recipe.sample.held_out)]))
    say(f"{left.held_out} prompt(s) of the pool left out: held out for evaluation")
    return left


def _whole_pool(path: Path | None, recipe: Recipe, *, say: Callable[[str], None]) -> PromptFile:
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
    count = world_pool_size(recipe)
    try:
        texts = loop_prompts(count, seed=0)
    except ValueError as error:
        raise InputError(f"the miniature world has fewer than {count} instructions") from error
    prompts = [Prompt(prompt_id_of(text), text) for text in texts]
    return PromptFile(prompts=prompts, duplicates=0, rejected=[])


def find_seed_model(recipe: Recipe, places: Places, *, say: Callable[[str], None]) -> Model:
    """Find M0: the recipe's model, or the miniature world's.

    Raises:
        ModelFolderError: it is absent, unsafe, or outside the allowed root.
        HubError: it is to be fetched, and the hub does not answer.
    """
    variant = read_variant(recipe.model) if recipe.world == "miniature" else None
    if variant is not None:
        folder = ensure_variant(variant, places.models, scratch=places.scratch, say=say)
    elif recipe.model is None and recipe.world == "miniature":
        folder = ensure_seed_model(places.models, scratch=places.scratch, say=say)
    else:
        folder = _model_folder(_named_model(recipe), places, say=say)
    return Model("M0", folder, hash_model_folder(folder))


def check_seed_model(recipe: Recipe, places: Places) -> str | None:
    """See that M0 is there, as far as that takes no network and writes nothing.

    Returns:
        What is found out only when the experiment begins, in words; None if that is nothing.

    Raises:
        InputError: it is not there, or may not be loaded.
        TrainingError: it was trained before, and is no seed model.
        StorageFullError: there is visibly too little room.
    """
    folder, unknown = _folder_or_why_not(recipe, places)
    if folder is not None:
        check_room(recipe, folder, places)
    return unknown


def _folder_or_why_not(recipe: Recipe, places: Places) -> tuple[Path | None, str | None]:
    if recipe.world == "miniature":
        variant = read_variant(recipe.model)
        if variant is not None or recipe.model is None:
            folder = (
                check_variant(variant, places.models)
                if variant is not None
                else kept_seed_model(places.models)
            )
            why_not = "the seed model is not here yet: it is trained when the experiment begins"
            return folder, None if folder is not None else why_not
    name = _named_model(recipe)
    folder = _local_folder(name, places)
    return folder, None if folder is not None else _not_fetched(_hub_name(name, places), places)


def _not_fetched(name: HubName, places: Places) -> str:
    kept = kept_commits(name, places.models)
    here = f", and whether it is one of those here ({', '.join(kept)})" if kept else ""
    return (
        f"the model {name} has not been fetched yet: whether the hub has it{here}, and whether it "
        "may be loaded, is found when the experiment begins"
    )


def _named_model(recipe: Recipe) -> str:
    if recipe.model is None:
        raise InputError(
            f"recipe {recipe.name!r} names no model: give one with --model FOLDER or a "
            "Hugging Face id"
        )
    return recipe.model


def seed_model_here(recipe: Recipe, places: Places) -> Model | None:
    """M0 as it lies on this machine, or None: nothing is trained for it and nothing is fetched.

    Raises:
        ModelFolderError: it may not be loaded.
    """
    folder = _folder_here(recipe, places)
    return None if folder is None else Model("M0", folder, hash_model_folder(folder))


def _folder_here(recipe: Recipe, places: Places) -> Path | None:
    if recipe.world == "miniature" and recipe.model is None:
        return kept_seed_model(places.models)
    variant = read_variant(recipe.model) if recipe.world == "miniature" else None
    if variant is not None:
        return kept_variant(variant, places.models)
    return None if recipe.model is None else _local_folder(recipe.model, places)


def _local_folder(name: str, places: Places) -> Path | None:
    """A folder by its path: as given, or below the models' root."""
    for folder in (Path(name), places.models / name):
        if folder.exists():
            return check_model_folder(folder, allowed_roots=[places.models])
    return None


def _model_folder(name: str, places: Places, *, say: Callable[[str], None]) -> Path:
    """A folder of this machine, else a hub's name."""
    folder = _local_folder(name, places)
    if folder is not None:
        return folder
    fetched = fetch_model(_hub_name(name, places), places.models, token=places.hub_token, say=say)
    return check_model_folder(fetched, allowed_roots=[places.models])


def _hub_name(name: str, places: Places) -> HubName:
    on_hub = read_hub_name(name)
    if on_hub is None:
        raise ModelFolderError(
            f"there is no model folder {name!r}: give a folder below {places.models} "
            "(META_REWARD_MODEL_ROOT), or a Hugging Face id such as org/name or org/name@revision"
        )
    return on_hub


def check_room(recipe: Recipe, model: Path, places: Places) -> None:
    """Refuse a plan for which the disk is visibly too small (local stores).

    Raises:
        StorageFullError: naming what is needed and what is there.
    """
    store = ArtifactStore(places.artifacts)
    if not store.is_local:
        return
    model_bytes = sum(file.stat().st_size for file in model.iterdir())
    needed = room_needed(plan_iteration(recipe, 1), model_bytes=model_bytes)
    free = shutil.disk_usage(_existing_parent(Path(store.root))).free
    if free < needed:
        raise StorageFullError(
            f"one iteration of recipe {recipe.name!r} needs about {needed / 1e6:,.0f} MB, but "
            f"{store.root} has {free / 1e6:,.0f} MB free: free space or move "
            "META_REWARD_ARTIFACT_ROOT"
        )


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def load_engine(model: Model, recipe: EngineRecipe) -> Engine:
    """Load the engine that a recipe names; its libraries are imported then, not before."""
    base = None if model.base is None else model.base.folder
    return ENGINE_LOADERS[recipe.kind](model.folder, recipe, base)


def make_tools(
    experiment: Experiment, places: Places, *, number: int, draws: Path | None = None
) -> Tools:
    """Lend this process's engine and scratch folder to the stages of one iteration.

    Args:
        draws: a folder that keeps what engines draw, for experiments that have draws in common.
    """
    scratch = places.scratch / experiment.name / f"iteration-{number}"
    return Tools(load_engine=load_engine if draws is None else _keeping(draws), scratch=scratch)


def _keeping(draws: Path) -> EngineLoader:
    """Engines that look first whether the same weights were asked the same here before."""
    store = ArtifactStore(str(draws))

    def load(model: Model, recipe: EngineRecipe) -> Engine:
        identity = {
            "weights": model.sha256,
            "settings": recipe.model_dump(mode="json"),
            "packages": Tools.packages(),
        }
        return KeptEngine(
            lambda: load_engine(model, recipe),
            identity=identity,
            store=store,
            shard_conversations=None,
            keeps_token_ids=True,
        )

    return load


def next_iterations(experiment: Experiment, *, until: int | None) -> Sequence[int]:
    """List which iterations to run: up to `until`, or else the next one that is not finished.

    Iterations that are finished are listed too where `until` is given: running them verifies
    their files and remakes what is damaged.
    """
    if until is None:
        return [experiment.finished_iterations() + 1]
    return range(1, until + 1)
