"""The recipe's values reach vLLM, for which a recorder stands in; tests/vllm has the library."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from meta_reward_core.engines import vllm
from meta_reward_core.engines.registry import ENGINE_LOADERS
from meta_reward_core.recipes.schema import EngineRecipe
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the latest `LLM`, on a stand-in for a GPU."""
    arguments: dict[str, Any] = {}

    class Recorder:
        def __init__(self, **more: Any) -> None:
            arguments.clear()
            arguments.update(more)
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=512))

    modules: dict[str, Any] = {name: ModuleType(name) for name in ("vllm", "vllm.platforms")}
    modules["vllm"].LLM = Recorder
    modules["vllm.platforms"].current_platform = SimpleNamespace(is_cpu=lambda: False)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vllm, "_ENVIRONMENT", {})
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    return arguments


def load(**values: Any) -> None:
    recipe = EngineRecipe(kind="vllm", **values)
    ENGINE_LOADERS["vllm"](get_shipped_seed_model(), recipe, None)


def test_the_settings_of_a_recipe_are_those_of_vllm(given: dict[str, Any]) -> None:
    chosen = {
        "dtype": "bfloat16", "max_model_len": 256, "max_num_seqs": 512, "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.8, "max_num_batched_tokens": 16_384, "kv_cache_dtype": "fp8",
        "quantization": "fp8",
    }  # fmt: skip
    load(**chosen)
    assert {name: given[name] for name in chosen} == chosen
    assert given["enable_prefix_caching"] is True
    assert given["enforce_eager"] is False
    assert given["trust_remote_code"] is False


def test_by_default_vllm_chooses_for_the_gpu(given: dict[str, Any]) -> None:
    """Nothing changes what is sampled: no FP8 unless a recipe asks for it."""
    load()
    assert (given["max_num_batched_tokens"], given["quantization"]) == (None, None)
    assert given["kv_cache_dtype"] == "auto"
    assert not {"enable_chunked_prefill", "async_scheduling"} & given.keys()
