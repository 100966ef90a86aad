"""From the engine section of a recipe to an engine: each kind's libraries are imported here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from meta_reward_core.engines.base import Engine
from meta_reward_core.recipes.schema import EngineRecipe


def _load_transformers(folder: Path, recipe: EngineRecipe, base: Path | None) -> Engine:  # noqa: ARG001
    from meta_reward_core.engines.transformers import load_transformers_engine

    return load_transformers_engine(
        folder,
        dtype=recipe.dtype,
        device=recipe.device,
        threads=recipe.threads,
        batch_tokens=recipe.batch_tokens,
        max_model_tokens=recipe.max_model_tokens,
    )


def _load_vllm(folder: Path, recipe: EngineRecipe, base: Path | None) -> Engine:
    from meta_reward_core.engines.vllm import load_vllm_engine

    return load_vllm_engine(
        folder,
        dtype=recipe.dtype,
        threads=recipe.threads,
        batch_tokens=recipe.batch_tokens,
        max_model_tokens=recipe.max_model_tokens,
        max_sequences=recipe.max_sequences,
        tensor_parallel=recipe.tensor_parallel,
        memory_share=recipe.memory_share,
        base=base,
    )


def _load_openai(folder: Path, recipe: EngineRecipe, base: Path | None) -> Engine:  # noqa: ARG001
    from meta_reward_core.engines.openai import load_endpoint_engine

    return load_endpoint_engine(recipe.endpoint or "", folder)


def _load_scripted(folder: Path, recipe: EngineRecipe, base: Path | None) -> Engine:  # noqa: ARG001
    from meta_reward_core.engines.fake_replies import make_fake_reply
    from meta_reward_core.engines.scripted import ScriptedEngine

    return ScriptedEngine(make_fake_reply)


_Loader = Callable[[Path, EngineRecipe, Path | None], Engine]

ENGINE_LOADERS: Final[Mapping[str, _Loader]] = {
    "transformers": _load_transformers,
    "vllm": _load_vllm,
    "openai": _load_openai,
    "scripted": _load_scripted,
}
"""By `engine.kind`. The last argument is what the adapter inside the folder belongs to, if one was
kept; who does not take adapters loads the weights into which it was merged."""
