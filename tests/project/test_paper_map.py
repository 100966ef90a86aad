"""docs/paper_map.md names code that exists."""

import importlib
import re
from pathlib import Path

import pytest

from meta_reward_core.recipes.loader import list_shipped_recipes, load_recipe
from meta_reward_core.recipes.schema import MetaJudgeRecipe
from meta_reward_core.recipes.training_settings import DpoSettings

PAGE = Path(__file__).parents[2] / "docs" / "paper_map.md"
NAMES = sorted(set(re.findall(r"`(meta_reward_core\.[\w.]+)`", PAGE.read_text(encoding="utf-8"))))


def test_the_map_names_the_methods_modules() -> None:
    assert len(NAMES) > 15


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_the_map_can_be_imported(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


SAID = {
    "which epoch `last` publishes": "the last one, so epoch 10 of 10",
    "the warm-up": "a warm-up over the first 10% of the steps",
    "the longest row": "rows above `max_length` (2,048 tokens) are refused",
    "the mean of sft_weight": "a mean over all tokens of a step",
    "the warnings of our prompts": "not a reproduction of Table 5",
    "how the meta-judge is sampled": "temperature 0.8 and top-p 0.95",
    "what is not built": "Starling-RM-34B",
}


@pytest.mark.parametrize("passage", SAID.values(), ids=SAID)
def test_the_map_states_each_choice(passage: str) -> None:
    assert passage in " ".join(PAGE.read_text(encoding="utf-8").split())


def test_the_map_states_the_values_of_the_code() -> None:
    """And which recipes use which rule and which prompts."""
    training, meta_judge = DpoSettings(), MetaJudgeRecipe()
    assert (training.warmup_ratio, training.max_length, training.weight_decay) == (0.1, 2048, 0)
    assert (meta_judge.temperature, meta_judge.top_p) == (0.8, 0.95)
    rows = dict(re.findall(r"^\| `(\w+)` \| the .* \| (.+) \|$", PAGE.read_text("utf-8"), re.M))
    by_rule: dict[str, list[str]] = {}
    for name in list_shipped_recipes():
        by_rule.setdefault(load_recipe(name).training.checkpoint_selection, []).append(name)
    chosen = by_rule.pop("highest_validation_accuracy")
    assert re.findall(r"`([\w-]+)`", rows["highest_validation_accuracy"]) == chosen
    assert set(by_rule) == {"last"}
    for name in chosen:
        assert load_recipe(name).training.validation_share == 0.05
