"""Load the engine of a recipe in this process for the stages of an iteration."""

from pathlib import Path

from meta_reward_core.context import EngineLoader, ModelRef, StageResources
from meta_reward_core.engines.base import Engine, RewardModel
from meta_reward_core.engines.completion_cache import CachingEngine
from meta_reward_core.engines.registry import ENGINE_LOADERS
from meta_reward_core.experiment import Experiment
from meta_reward_core.recipes.canonical import canonicalize_section
from meta_reward_core.recipes.schema import EngineRecipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.roots import StorageRoots


def load_engine(model: ModelRef, recipe: EngineRecipe) -> Engine:
    """Load the engine that a recipe names; its libraries are imported only now."""
    base = None if model.base is None else model.base.folder
    return ENGINE_LOADERS[recipe.kind](model.folder, recipe, base)


def load_reward_model(model: ModelRef, recipe: EngineRecipe) -> RewardModel:
    """Load the reward model of an experiment with the engine's settings."""
    from meta_reward_core.engines import reward_model

    return reward_model.load_reward_model(
        model.folder,
        dtype=recipe.dtype,
        device=recipe.device,
        threads=recipe.threads,
        max_model_len=recipe.max_model_len,
    )


def make_stage_resources(
    experiment: Experiment,
    roots: StorageRoots,
    *,
    number: int,
    completion_cache: Path | None = None,
) -> StageResources:
    """Provide the engine and scratch folder of this process to the stages of one iteration.

    Args:
        completion_cache: folder that stores completions, for experiments that have some in common.
    """
    scratch = experiment.paths.layout.get_scratch(roots.scratch, number)
    return StageResources(
        load_engine=load_engine
        if completion_cache is None
        else _make_caching_loader(completion_cache),
        scratch=scratch,
        load_reward_model=load_reward_model,
    )


def _make_caching_loader(completion_cache: Path) -> EngineLoader:
    """Wrap an engine loader with a cache of completions of the same weights and requests."""
    store = ArtifactStore(str(completion_cache))

    def load(model: ModelRef, recipe: EngineRecipe) -> Engine:
        identity = {
            "weights": model.sha256,
            "settings": canonicalize_section(recipe, "engine."),
            "packages": StageResources.list_packages(),
        }
        return CachingEngine(
            lambda: load_engine(model, recipe),
            identity=identity,
            store=store,
            shard_conversations=None,
            keeps_token_ids=True,
        )

    return load
