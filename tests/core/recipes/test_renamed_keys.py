"""Old keys of recipes: each way in reads them, and warns with the new name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.errors import DeprecatedNameWarning, RecipeError
from meta_reward_core.recipes.canonical import canonicalize_recipe, hash_recipe_values
from meta_reward_core.recipes.changed_values import change_recipe, parse_changes
from meta_reward_core.recipes.loader import (
    load_recipe,
    parse_recipe,
    parse_stored_recipe,
    read_recipe_text,
)
from meta_reward_core.recipes.renamed_keys import (
    REMOVED_KEYS,
    RENAMED_KEYS,
    ignore_renamed,
    translate_flat_keys,
)
from meta_reward_core.recipes.schema import Recipe

VALUES: dict[str, Any] = {
    "shard_prompts": 9,
    "pair_kinds": [["judge"]],
    "judge.top_points": 10.0,
    "meta_judge.decided_at": 3.0,
    "training.warmup_share": 0.25,
    "training.keep": "last",
    "training.stop_at_loss_growth": 4.0,
    "engine.batch_tokens": 4096,
    "engine.max_model_tokens": 512,
    "engine.max_sequences": 16,
    "engine.memory_share": 0.5,
    "engine.tensor_parallel": 2,
    "audit.least_agreement": 0.6,
    "audit.answers": 20,
    "audit.otherwise": "actor_pairs",
}


def value_at(recipe: Recipe, key: str) -> Any:
    found: Any = recipe
    for name in key.split("."):
        found = getattr(found, name)
    return found


def nested(key: str, value: Any) -> str:
    *sections, last = key.split(".")
    return "".join(f"{section}: " + "{" for section in sections) + (
        f"{last}: {value}" + "}" * len(sections)
    )


def test_every_renamed_key_is_tried_here() -> None:
    assert VALUES.keys() == RENAMED_KEYS.keys() - REMOVED_KEYS.keys()


@pytest.mark.parametrize("key", REMOVED_KEYS)
def test_a_removed_key_is_left_out_of_new_recipes_with_a_warning(tmp_path: Path, key: str) -> None:
    smoke, said = load_recipe("smoke"), list[str]()
    expected = f"{key} is deprecated and ignored: {REMOVED_KEYS[key]}"
    file = tmp_path / "old.yaml"
    text = f"extends: smoke\nname: smoke\ndescription: {json.dumps(smoke.description)}\n"
    file.write_text(text + nested(key, 2.0))
    assert load_recipe(str(file), warn=said.append) == smoke
    assert said == [f"{file}: {expected}"]
    assert read_recipe_text(text + nested(key, 2.0), warn=said.append) == smoke
    assert parse_changes([f"{key}=2.0", "actor.samples=5"], warn=said.append) == {
        "actor.samples": 5
    }
    assert translate_flat_keys({key: 2.0, "seed": 1}, warn=said.append) == {"seed": 1}
    assert said[1:] == [expected] * 3
    said.clear()
    assert read_recipe_text(text + nested(key, "null"), warn=said.append) == smoke
    assert said == []
    with pytest.warns(DeprecatedNameWarning, match=re.escape(expected)):
        load_recipe("smoke", changes=[f"{key}=2.0"])


def test_an_experiment_that_stored_a_removed_key_keeps_it_and_its_hash() -> None:
    recipe = change_recipe(load_recipe("smoke"), {"judge.early_stop_z": 2.0})
    stored = canonicalize_recipe(recipe)
    assert stored["judge"]["hopeless_at"] == 2.0
    read = parse_stored_recipe(stored, origin="smoke")
    assert (read, read.sha256) == (recipe, hash_recipe_values(stored))
    assert read.sha256 != load_recipe("smoke").sha256


@pytest.mark.parametrize("old", VALUES)
def test_a_change_by_an_old_key_sets_the_new_one_and_warns(old: str) -> None:
    new, value = RENAMED_KEYS[old], VALUES[old]
    text = str(value).replace("'", "")
    with pytest.warns(DeprecatedNameWarning, match=f"{old} is deprecated: use {new}$"):
        recipe = load_recipe("smoke", changes=[f"{old}={text}"])
    assert value_at(recipe, new) == value
    with pytest.warns(DeprecatedNameWarning, match=f"use {new}$"):
        assert change_recipe(load_recipe("smoke"), parse_changes([f"{old}={text}"])) == recipe


@pytest.mark.parametrize("old", VALUES)
def test_a_file_and_a_text_with_an_old_key_set_the_new_one(tmp_path: Path, old: str) -> None:
    new, value = RENAMED_KEYS[old], VALUES[old]
    text = f"extends: smoke\n{nested(old, str(value).replace(chr(39), ''))}\n"
    file = tmp_path / "old.yaml"
    file.write_text(text)
    said: list[str] = []
    assert value_at(load_recipe(str(file), warn=said.append), new) == value
    assert said == [f"{file}: {old} is deprecated: use {new}"]
    said.clear()
    assert value_at(read_recipe_text(text, warn=said.append), new) == value
    assert said == [f"{old} is deprecated: use {new}"]


def test_a_whole_section_may_hold_old_keys() -> None:
    said: list[str] = []
    changes = ["engine={kind: vllm, memory_share: 0.5}"]
    engine = load_recipe("smoke", changes=changes, warn=said.append).engine
    assert (engine.kind, engine.gpu_memory_utilization, engine.threads) == ("vllm", 0.5, None)
    assert said == ["engine.memory_share is deprecated: use engine.gpu_memory_utilization"]


def test_an_old_key_lies_over_the_new_one_of_what_is_extended(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\njudge: {max_score: 10}\n")
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nname: child\njudge: {top_points: 7}\n")
    assert load_recipe(str(child), warn=ignore_renamed).judge.max_score == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "judge: {top_points: 10, max_score: 10}",
            "judge.top_points and judge.max_score set the same value: keep judge.max_score",
        ),
        ("world: miniature\ntask: toy", "keep task and remove world"),
        (
            "evaluation: {oracle: miniature, ground_truth: true}",
            "keep evaluation.ground_truth and remove evaluation.oracle",
        ),
    ],
)
def test_both_names_of_a_value_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(f"name: x\n{text}\n")
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(str(file), warn=ignore_renamed)
    assert str(file) in str(error.value)
    with pytest.raises(RecipeError, match=message):
        read_recipe_text(f"name: x\n{text}\n", warn=ignore_renamed)


@pytest.mark.parametrize(
    ("text", "task", "measured"),
    [
        ("world: miniature\nevaluation: {oracle: miniature}", "toy", True),
        ("world: miniature", "toy", False),
        ("world: miniature\nevaluation: {oracle: null}", "toy", False),
        ("world: miniature\nevaluation: {prompts: 3}", "toy", False),
        ("world: null\nevaluation: {oracle: null}", None, False),
        ("task: toy", "toy", True),
        ("task: toy\nevaluation: {ground_truth: false}", "toy", False),
        ("extends: smoke\nevaluation: {oracle: null}", "toy", False),
        ("extends: smoke\nworld: miniature", "toy", True),
        ("extends: smoke\nworld: null\nevaluation: {oracle: null}", None, False),
        ("extends: paper-llama3-8b\nworld: miniature", "toy", False),
    ],
)
def test_the_world_and_its_oracle_are_one_task(
    text: str, task: str | None, *, measured: bool
) -> None:
    recipe = read_recipe_text(f"name: x\n{text}\n", warn=ignore_renamed)
    assert (recipe.task, recipe.has_ground_truth) == (task, measured)


def test_a_change_turns_the_ground_truth_on_and_off() -> None:
    off = load_recipe("smoke", changes=["evaluation.oracle=null"], warn=ignore_renamed)
    assert not off.has_ground_truth
    on = change_recipe(off, parse_changes(["evaluation.oracle=miniature"], warn=ignore_renamed))
    assert on.has_ground_truth


@pytest.mark.parametrize(
    "changes",
    [
        ["evaluation.oracle=miniature", "world=miniature"],
        ["world=miniature", "evaluation.oracle=miniature"],
    ],
)
def test_the_order_of_both_changes_does_not_matter(changes: list[str]) -> None:
    recipe = load_recipe("paper-llama3-8b", changes=changes, warn=ignore_renamed)
    assert (recipe.task, recipe.has_ground_truth) == ("toy", True)


def test_an_old_key_in_the_wrong_section_is_unknown() -> None:
    with pytest.raises(RecipeError, match="top_points: unknown key"):
        load_recipe("smoke", changes=["actor.top_points=3"])


def test_values_that_are_validated_as_they_are_take_no_old_key() -> None:
    with pytest.raises(RecipeError, match=r"judge\.top_points: unknown key"):
        parse_recipe({"name": "x", "judge": {"top_points": 3}}, origin="x")


def test_flat_values_are_renamed_with_their_meaning() -> None:
    said: list[str] = []
    given = {"judge.top_points": 3, "world": "miniature", "evaluation.oracle": None, "name": "x"}
    assert translate_flat_keys(given, warn=said.append) == {
        "judge.max_score": 3,
        "task": "toy",
        "evaluation.ground_truth": False,
        "name": "x",
    }
    assert said == [
        "judge.top_points is deprecated: use judge.max_score",
        "world is deprecated: use task",
        "evaluation.oracle is deprecated: use evaluation.ground_truth",
    ]
    with pytest.raises(RecipeError, match="remove judge"):
        translate_flat_keys({"judge.top_points": 3, "judge.max_score": 3}, warn=said.append)
