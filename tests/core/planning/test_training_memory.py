"""Whether a training fits on a device, by a formula."""

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from meta_reward_core.planning.gpu_estimate import DEVICES
from meta_reward_core.planning.training_memory import (
    SHAPES,
    ModelShape,
    describe_fit,
    estimate_training_memory,
)
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.training_settings import DpoSettings, LoraSettings
from meta_reward_core.training.trainer import _build_peft_config


def plan(recipe: str, model: str, hardware: str, *changes: str) -> str:
    settings = load_recipe(recipe, changes=changes).training
    memory = estimate_training_memory(settings, SHAPES[model])
    return describe_fit(memory, settings, DEVICES[hardware].memory)


@pytest.mark.parametrize(
    ("recipe", "model", "hardware"),
    [
        ("gemma3-1b-24gb", "gemma3-1b", "rtx4090"),
        ("qwen3-4b-24gb", "qwen3-4b", "rtx4090"),
        ("llama3-1-8b-24gb", "llama3-8b", "rtx4090"),
        ("llama3-1-8b-8gpu", "llama3-8b", "h100"),
    ],
)
def test_shipped_recipes_fit_where_they_say(recipe: str, model: str, hardware: str) -> None:
    assert plan(recipe, model, hardware).endswith(": it fits.")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ((), "Set training.sharding to fsdp"),
        (("training.lora.r=16",), "Set training.lora.base to bfloat16."),
        (
            ("training.lora.r=16", "training.lora.base=nf4", "training.device_batch_size=16"),
            "Lower training.device_batch_size.",
        ),
        (
            ("training.lora.r=16", "training.lora.base=nf4", "training.device_batch_size=1",
             "training.gradient_checkpointing=false", "training.max_length=4096"),
            "Set training.gradient_checkpointing to true.",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_the_setting_to_change(
    changes: tuple[str, ...], remedy: str
) -> None:
    told = plan("paper-llama3-8b", "llama3-8b", "rtx4090", *changes)
    assert "on each device, which has 24 GB: the training does not fit." in told
    assert told.endswith(remedy) or f" {remedy}" in told


def test_sharding_divides_weights_gradients_and_optimizer_state() -> None:
    shape = SHAPES["llama3-8b"]
    whole = estimate_training_memory(DpoSettings(), shape)
    assert whole.weights + whole.gradients + whole.optimizer == 16 * shape.parameters
    sharded = estimate_training_memory(DpoSettings(processes=8, sharding="fsdp"), shape)
    assert sharded.weights + sharded.gradients + sharded.optimizer == 2 * shape.parameters


def test_adapters_are_counted_as_peft_makes_them() -> None:
    """An upper bound: keys and values are counted as if they were as wide as queries."""
    from peft import get_peft_model

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=176, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    shape = ModelShape(model.num_parameters(), 64, 176, 2, 64, 0)
    settings = DpoSettings(lora=LoraSettings(r=4))
    adapted = get_peft_model(model, _build_peft_config(settings.lora))
    trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    assert estimate_training_memory(settings, shape).optimizer == 8 * trained
