"""Recipes for models that people use pass the model check on a small folder of their kind."""

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    Qwen3Config,
)

from meta_reward_core.experiment import load_templates
from meta_reward_core.models.check.result import Level
from meta_reward_core.planning.model_check.run import ModelCheckRequest, check_model
from meta_reward_core.recipes.loader import load_recipe
from tests.core.chat_models import make_chat_tokenizer

TINY: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "dtype": "bfloat16",
}  # fmt: skip
MODELS: dict[str, tuple[Any, str, int]] = {
    "qwen3-4b": (Qwen3Config, "qwen3", 40_960),
    "qwen3-8b": (Qwen3Config, "qwen3", 40_960),
    "llama3-1-8b": (LlamaConfig, "llama3_1", 131_072),
    "gemma3-1b": (Gemma3TextConfig, "gemma3", 32_768),
    "gemma3-4b": (Gemma3TextConfig, "gemma3", 131_072),
    "smollm2-135m": (LlamaConfig, "qwen2_5", 8_192),
    "smollm2-1-7b": (LlamaConfig, "qwen2_5", 8_192),
}
"""Class of the configuration, chat template of TRL's, and positions of each model."""
FOR_HARDWARE = {
    "gemma3-1b-24gb": "gemma3-1b",
    "qwen3-4b-24gb": "qwen3-4b",
    "llama3-1-8b-24gb": "llama3-1-8b",
    "llama3-1-8b-8gpu": "llama3-1-8b",
}
"""Recipes for certain devices, and the recipes that they change for these."""
RECIPES = (*MODELS, *FOR_HARDWARE)
PROMPTS = ("What is the boiling point of water?", "Explain this:\n\n" + "word " * 150)


def make_folder(recipe: str, folder: Path) -> Path:
    kind, chat, positions = MODELS[FOR_HARDWARE.get(recipe, recipe)]
    tokenizer = make_chat_tokenizer(chat)
    config = kind(
        **TINY,
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_of_a_model_passes_the_check_with_it(name: str, tmp_path: Path) -> None:
    """The tiny tokenizer spells the judge's prompt in more than twice a real one's tokens."""
    recipe = load_recipe(name)
    folder = make_folder(name, tmp_path / name)
    report = check_model(
        ModelCheckRequest(name, folder, (tmp_path,), recipe, load_templates(recipe), PROMPTS)
    )
    levels = {check.name: check.level for check in report.checks}
    assert not report.select(Level.RED), [one.describe() for one in report.select(Level.RED)]
    for name in ("rows.actor", "prompts.actor", "prompts.judge", "prompts.meta_judge"):
        assert levels[name] is Level.GREEN
    assert levels["chat_template.reasoning"] is Level.GREEN


@pytest.mark.parametrize("name", RECIPES)
def test_rows_with_cut_off_texts_are_trained_on(name: str) -> None:
    """Where template, rubric and prompt of a judgment have at most 1,000 tokens."""
    recipe = load_recipe(name)
    texts = recipe.actor.max_new_tokens + recipe.judge.max_new_tokens
    assert recipe.training.max_length > texts + 1000


def test_every_recipe_of_a_model_keeps_the_papers_method() -> None:
    """They differ from the paper's recipe in lengths and in the policy on reasoning alone.

    But for the smallest model, whose sizes are those of a small machine.
    """
    paper = load_recipe("paper-llama3-8b")
    for name in MODELS.keys() - {"smollm2-135m"}:
        recipe = load_recipe(name)
        assert recipe.pairing == paper.pairing
        assert (recipe.actor.samples, recipe.judge.samples) == (7, 11)
        assert (recipe.iterations, recipe.train_on) == (paper.iterations, paper.train_on)
        assert (
            recipe.training.model_copy(update={"max_length": paper.training.max_length})
            == paper.training
        )


@pytest.mark.parametrize(("name", "base"), FOR_HARDWARE.items())
def test_a_recipe_for_certain_devices_changes_the_training_alone(name: str, base: str) -> None:
    own, other = load_recipe(name), load_recipe(base)
    apart = {"name", "description", "training"}
    assert own.model_dump(exclude=apart) == other.model_dump(exclude=apart)
    mine, theirs = own.training.model_dump(), other.training.model_dump()
    changed = {field for field in mine if mine[field] != theirs[field]}
    if name.endswith("-24gb"):
        assert changed == {"device_batch_size", "learning_rate", "group_by_length", "lora"}
    else:
        assert changed == {"processes", "sharding", "device_batch_size"}


def test_the_arms_of_the_smallest_model_draw_alike() -> None:
    """So Self-Rewarding takes the responses and judgments of Meta-Rewarding from its cache."""
    own, other = load_recipe("smollm2-135m"), load_recipe("smollm2-135m-self-rewarding")
    named = {"name", "description", "train_on"}
    assert own.model_dump(exclude=named) == other.model_dump(exclude=named)
    assert (own.train_on[0], other.train_on) == (["actor", "judge"], [["actor"]])
