"""Engines by kind, and whether their packages are installed.

The libraries of a kind are imported only when an engine of that kind is loaded.
"""

import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from meta_reward_core.engines.base import Engine
from meta_reward_core.engines.openai_forced_lines import LineTokenizer
from meta_reward_core.errors import InputError
from meta_reward_core.recipes.schema import EngineRecipe
from meta_reward_core.system.library_imports import import_libraries_quickly


def require_engine(kind: str) -> None:
    """Refuse an engine whose package is not installed.

    Only vLLM can be missing: the project itself requires the packages of all other kinds.

    Raises:
        InputError: the package is not installed; the message explains how to install it.
    """
    if not is_engine_installed(kind):
        raise make_vllm_missing_error()


def is_engine_installed(kind: str) -> bool:
    """Whether the package of an engine is installed in this environment."""
    return kind != "vllm" or find_spec("vllm") is not None


def list_installed_engines() -> list[str]:
    """List the kinds of engines that this environment can load."""
    return [kind for kind in ENGINE_LOADERS if is_engine_installed(kind)]


def make_vllm_missing_error() -> InputError:
    """Build the error for a missing vLLM."""
    return InputError(
        f"engine.kind: vllm needs vLLM, which is not installed in {sys.prefix}: install it with "
        'the command in docs/engines.md under "vLLM", or use another engine, '
        "such as --engine transformers"
    )


def _load_transformers(folder: Path, recipe: EngineRecipe, base: Path | None) -> Engine:  # noqa: ARG001
    with import_libraries_quickly():
        from meta_reward_core.engines.transformers import load_transformers_engine

    return load_transformers_engine(
        folder,
        dtype=recipe.dtype,
        device=recipe.device,
        threads=recipe.threads,
        max_batch_tokens=recipe.max_batch_tokens,
        max_model_len=recipe.max_model_len,
        decoding=recipe.decoding,
    )


def _load_vllm(folder: Path, recipe: EngineRecipe, base: Path | None) -> Engine:
    from meta_reward_core.engines.vllm import load_vllm_engine

    return load_vllm_engine(
        folder,
        dtype=recipe.dtype,
        threads=recipe.threads,
        max_batch_tokens=recipe.max_batch_tokens,
        max_model_len=recipe.max_model_len,
        max_num_seqs=recipe.max_num_seqs,
        tensor_parallel_size=recipe.tensor_parallel_size,
        gpu_memory_utilization=recipe.gpu_memory_utilization,
        max_num_batched_tokens=recipe.max_num_batched_tokens,
        kv_cache_dtype=recipe.kv_cache_dtype,
        quantization=recipe.quantization,
        base=base,
    )


def _load_openai(folder: Path, recipe: EngineRecipe, base: Path | None) -> Engine:  # noqa: ARG001
    from meta_reward_core.engines.openai import load_endpoint_engine

    def load_tokenizer() -> LineTokenizer:
        from meta_reward_core.engines.forced_lines import PolicyTokenizer

        return PolicyTokenizer.load(folder)

    return load_endpoint_engine(recipe.endpoint or "", folder, load_tokenizer=load_tokenizer)


def _load_scripted(folder: Path, recipe: EngineRecipe, base: Path | None) -> Engine:  # noqa: ARG001
    from meta_reward_core.engines.scripted import (
        ScriptedEngine,
        make_fake_log_probability,
        make_fake_reply,
    )

    return ScriptedEngine(make_fake_reply, make_fake_log_probability)


_Loader = Callable[[Path, EngineRecipe, Path | None], Engine]

ENGINE_LOADERS: Final[Mapping[str, _Loader]] = {
    "transformers": _load_transformers,
    "vllm": _load_vllm,
    "openai": _load_openai,
    "scripted": _load_scripted,
}
"""Loaders by `engine.kind`.

The last argument is the base model of the adapter in the folder, if one was kept; engines without
adapter support load the merged weights.
"""
