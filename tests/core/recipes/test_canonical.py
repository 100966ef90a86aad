"""The canonical form of recipes: its hashes never move, whatever keys are called today."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from meta_reward_core.recipes.canonical import (
    FROZEN_KEYS,
    canonicalize_recipe,
    canonicalize_section,
    hash_recipe_values,
    restore_names,
)
from meta_reward_core.recipes.changed_values import change_recipe
from meta_reward_core.recipes.field import Section, declare_field
from meta_reward_core.recipes.loader import (
    list_shipped_recipes,
    load_recipe,
    parse_stored_recipe,
)
from meta_reward_core.recipes.renamed_descriptions import RENAMED_DESCRIPTIONS
from meta_reward_core.recipes.renamed_keys import REMOVED_KEYS, RENAMED_KEYS, ignore_renamed
from meta_reward_core.recipes.schema import EvaluationRecipe, Recipe
from meta_reward_core.recipes.training_settings import DpoSettings, LoraSettings

SHIPPED = {
    "miniature": "8c2b8307261f23149c03073577c45516a04457161b1ce9cb1f1631209a3884ee",
    "miniature-judge-pairs-always": (
        "768d7e69b221442ed3d48e8ab2089939f5b1075ffae0b51d37ff0c443a75a826"
    ),
    "miniature-no-length-control": (
        "96ddb55b5c04020b38d4cef9febfec1315b2397bdccf865562c84d8423d9cd7e"
    ),
    "miniature-noisy-meta-judge": (
        "108147bd89e755978dc280ed1b9a64bf3cad27e103aa911a69f212fb2c426d4c"
    ),
    "miniature-self-rewarding": "12f4b35bd076ccee4330f820115f81b7407f235bd2ec8a134a5f1ce8b8b3097c",
    "miniature-self-rewarding-equal-steps": (
        "be4164673263de9560afa2a879900d2eb0dc8d13d0351120874f7daa2341a2ed"
    ),
    "paper-llama3-8b": "2d7525bddce711b798956c2684858ddcc6e9175c9824fcf3308c12ede5a39ed6",
    "paper-llama3-8b-neutral": "09aac156a5fde10d0f68554905617ce6d4d03bb8f4cf6787e46cc035f7ed5706",
    "reward-model-llama3-8b": "f8c6cef473539549c3252cb79a488b483c98eb38b46f6cfa494ea10182bee6c5",
    "self-rewarding-llama3-8b": "f53fdbe6aff80853daeff70eb3fff602a699845f3f08d058ff206f305b487abc",
    "smoke": "5c110f0037234f59d7aecf2d93b58ba32a353ec23118616626239ad45a0ff448",
    "gemma3-1b": "79498ac7dab5d5a55fd8a072efe3d52a9327385fc2d5f217763a2515fb4b5be3",
    "gemma3-4b": "0c9511e600d4267c6246a5758fb758b03f0bdf1e0d77f1a5aa03c028fa9e1465",
    "llama3-1-8b": "6bf9407a445ac77726394d6d1f1e5f7d406b37e84aa3158408c159a53a759823",
    "qwen3-4b": "e999cce8bab5760c737f344ac93d20fb5f4735a05debc8ac121cf8c916be5b13",
    "qwen3-8b": "5674f8bc9a8885fff5142d77a6b82654865f47623878764b1407f745caae14d1",
    "smollm2-135m": "ca709b2acf86a0383ac82bc98dace47e9fa9f32002b1c5efc5e8ef5632d2b07c",
    "smollm2-135m-self-rewarding": (
        "ba6b2fd48dc4f89b48ba31bcdeea37ac9edd7fcbdc56a28b11bdbce9596a9c8e"
    ),
    "smollm2-1-7b": "fd2ecf72ea3ffd7f5a9bc76a87c61bdc170fbd264d85c2fd176ef5e601798dba",
    "gemma3-1b-24gb": "b083bfada8964f3b924ef5d7c58350d92de5a40a5b2591342f7d514acff40305",
    "qwen3-4b-24gb": "f6a6499162d7f033fb03b27f0291fafa58caf6cf79f98fd47b29b3bb41524cad",
    "llama3-1-8b-24gb": "6aeb65f88999c1071df36f4eeb686a1c204e24110a77eacaf43960e4e21975d4",
    "llama3-1-8b-8gpu": "66f9f08a880ab56c3219669809d98564a83739b3603b6429fb3c60fbc3137157",
}
"""Those of the paper and the toy task were recorded before keys were renamed."""

CHANGED = [
    (
        "smoke",
        [
            "judge.early_stop_z=2.5", "meta_judge.adaptive_z=3.0", "judge.max_score=10",
            "engine.gpu_memory_utilization=0.8", "engine.max_num_seqs=64",
            "engine.max_model_len=2048", "engine.tensor_parallel_size=2",
            "engine.max_batch_tokens=4096", "training.warmup_ratio=0.2",
            "training.validation_share=0.1",
            "training.checkpoint_selection=lowest_validation_loss", "training.max_loss_ratio=5.0",
            "audit.min_agreement=0.6", "audit.min_answers=20", "audit.on_failure=actor_pairs",
            "prompts_per_shard=7", "train_on=[[actor]]",
        ],
        "3f79b08effcbc39e6bfafe4cae1357febae88b2dc7818d7f1fad46a73b231aae",
    ),
    ("smoke", ["evaluation.ground_truth=false"],
     "5bd0af6f6d9db25e42bf52b2286f2f8e24240ddbe8e22347123a43e43e6ce224"),
    ("smoke", ["task=null", "model=org/name"],
     "cd56f69eca66d90badb4ba5a17f2dd29493003cdea9c72f8e5850e7203d3db03"),
    ("paper-llama3-8b",
     ["training.lora={r: 8, keep_adapter: true}", "training.max_loss_ratio=null"],
     "881f48d235270de62707bc5d2f8f504db8ffd314230a5d68b3a7698cb3cd5ce4"),
    ("paper-llama3-8b", ["training.lora={target_modules: [q_proj, v_proj]}"],
     "2efc22b500ea2cfa4e1ab88afb73d12417a02d99fb5a603e8092e7a0e6a80e8a"),
]  # fmt: skip
"""Recorded before keys were renamed, with the same values under the old names."""


def build_recipe(name: str, changes: list[str]) -> Recipe:
    """A changed recipe; values that have no effect any more stand in it as in stored ones."""
    removed = {text.partition("=")[0]: float(text.partition("=")[2])
               for text in changes if text.partition("=")[0] in REMOVED_KEYS}  # fmt: skip
    kept = [text for text in changes if text.partition("=")[0] not in removed]
    return change_recipe(load_recipe(name, changes=kept), removed)


def test_every_shipped_recipe_has_the_hash_that_it_always_had() -> None:
    assert {name: load_recipe(name).sha256 for name in list_shipped_recipes()} == SHIPPED


@pytest.mark.parametrize(("name", "changes", "expected"), CHANGED)
def test_changed_values_have_the_hash_that_they_had_under_the_old_names(
    name: str, changes: list[str], expected: str
) -> None:
    assert build_recipe(name, changes).sha256 == expected


def test_defaults_have_the_hash_that_they_always_had() -> None:
    expected = "135b649b1725de4c2eb4b0a532a1e1e5cff076545c27ef65a38e0d57cdcee509"
    assert Recipe(name="evaluation").sha256 == expected


@pytest.mark.parametrize("name", SHIPPED)
def test_a_stored_recipe_is_read_as_the_one_that_was_stored(name: str) -> None:
    recipe = load_recipe(name)
    stored = json.loads(json.dumps(canonicalize_recipe(recipe)))
    assert hash_recipe_values(stored) == recipe.sha256
    assert parse_stored_recipe(stored, origin=name).model_dump() == recipe.model_dump()


@pytest.mark.parametrize(("name", "changes"), [one[:2] for one in CHANGED])
def test_a_stored_recipe_with_changes_has_the_same_canonical_form(
    name: str, changes: list[str]
) -> None:
    stored = canonicalize_recipe(build_recipe(name, changes))
    assert canonicalize_recipe(parse_stored_recipe(stored, origin=name)) == stored


def test_each_frozen_key_belongs_to_one_field_of_today() -> None:
    adapters = DpoSettings(lora=LoraSettings())
    recipe = Recipe(name="all", training=adapters)
    assert set(_flatten(canonicalize_recipe(recipe))) == FROZEN_KEYS - {"training.lora"}


def test_a_renamed_key_stays_in_its_section_and_is_frozen_under_its_old_name() -> None:
    for old, new in RENAMED_KEYS.items():
        assert old.rpartition(".")[0] == new.rpartition(".")[0]
        assert old in FROZEN_KEYS
        assert new not in FROZEN_KEYS


class _LaterTrial(Section):
    items: int = declare_field(20, "Items.", source="test")


class _LaterEvaluation(EvaluationRecipe):
    styles: bool = declare_field(default=False, text="Styles.", source="test")


class _LaterRecipe(Recipe):
    trial: _LaterTrial = _LaterTrial()
    extra: _LaterTrial | None = None
    evaluation: _LaterEvaluation = _LaterEvaluation()
    tags: list[str] = Field(default_factory=list)


LATER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"trial": {"items": 5}}, {"trial": {"items": 5}}),
    ({"extra": {}}, {"extra": {}}),
    ({"tags": ["a"]}, {"tags": ["a"]}),
]


def test_a_field_that_was_added_later_leaves_the_hash_alone_at_its_default() -> None:
    assert _LaterRecipe(name="evaluation").sha256 == Recipe(name="evaluation").sha256


def test_a_field_that_was_added_to_a_section_counts_once_it_is_set() -> None:
    values = {"name": "x", "evaluation": {"styles": True}}
    stored = canonicalize_recipe(_LaterRecipe.model_validate(values))
    assert stored["evaluation"]["styles"] is True
    del stored["evaluation"]["styles"]
    assert stored == canonicalize_recipe(Recipe(name="x"))


@pytest.mark.parametrize(("given", "added"), LATER)
def test_a_later_field_of_any_kind_counts_once_it_is_set(
    given: dict[str, Any], added: dict[str, Any]
) -> None:
    stored = canonicalize_recipe(_LaterRecipe.model_validate({"name": "x", **given}))
    assert stored == canonicalize_recipe(Recipe(name="x")) | added


def test_a_section_alone_has_its_frozen_names() -> None:
    settings = DpoSettings(checkpoint_selection="last", warmup_ratio=0.5)
    found = canonicalize_section(settings, "training.")
    assert (found["keep"], found["warmup_share"]) == ("last", 0.5)
    assert found == canonicalize_recipe(Recipe(name="x", training=settings))["training"]


def test_names_are_restored_in_what_a_row_holds_of_a_recipe() -> None:
    row = {"name": "x", "world": "miniature", "judge": {"top_points": 10}}
    assert restore_names(row) == {
        "name": "x",
        "task": "toy",
        "judge": {"max_score": 10},
        "evaluation": {"ground_truth": False},
    }
    assert row == {"name": "x", "world": "miniature", "judge": {"top_points": 10}}


def test_a_recipe_of_the_version_before_is_the_same_recipe(tmp_path: Path) -> None:
    text = """\
extends: miniature
name: mine
world: miniature
shard_prompts: 12
judge: {top_points: 10, hopeless_at: 2.0}  # deprecated, without effect
evaluation: {oracle: null}
"""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    changes = ["name=mine", "prompts_per_shard=12", "judge.max_score=10",
               "evaluation.ground_truth=false"]  # fmt: skip
    assert (
        load_recipe(str(file), warn=ignore_renamed).sha256
        == load_recipe("miniature", changes=changes).sha256
    )


def _flatten(values: dict[str, Any], prefix: str = "") -> list[str]:
    flat: list[str] = []
    for name, value in values.items():
        inner = isinstance(value, dict)
        flat += _flatten(value, f"{prefix}{name}.") if inner else [prefix + name]
    return flat


def test_a_plain_model_is_no_part_of_the_form() -> None:
    class Plain(BaseModel):
        number: int = 1

    assert canonicalize_section(Plain(), "elsewhere.") == {}


def test_a_reworded_description_is_hashed_as_its_first_wording() -> None:
    shipped = {load_recipe(name).description for name in list_shipped_recipes()}
    for first, current in RENAMED_DESCRIPTIONS:
        assert current in shipped
        stored = canonicalize_recipe(Recipe(name="any", description=current))
        assert stored["description"] == first
        assert restore_names(stored)["description"] == current
