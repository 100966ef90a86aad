"""The canonical form of a recipe, which is hashed and stored, and whose structure never changes.

Keys of every shard contain the hash of the experiment's recipe, so a hash must not change when a
key is renamed or a later version adds keys. The canonical form therefore has

- the names and descriptions at the time when the form was frozen (`renamed_keys` and
  `renamed_descriptions` map the current ones to them);
- every key of `FROZEN_KEYS`, with any value;
- keys that were added later (not in `FROZEN_KEYS`) only if they differ from the default. So the
default of an added key can never change and must select the behavior before the key existed.
`experiment.json`, the database and run records use this form; users see the current names.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from meta_reward_core.recipes.renamed_descriptions import RENAMED_DESCRIPTIONS
from meta_reward_core.recipes.renamed_keys import (
    OLD_GROUND_TRUTH_KEY,
    OLD_TASK_KEY,
    RENAMED_KEYS,
    RENAMED_TASKS,
    Values,
    ignore_renamed,
    set_value,
    translate_renamed_keys,
)
from meta_reward_core.storage.artifact_store import hash_compact_json

_FROZEN: Final[Mapping[str, str]] = {
    "": "name description world model iterations pair_kinds shard_prompts",
    "sample.": "prompts allow_reuse held_out",
    "actor.": "temperature top_p max_new_tokens samples system_prompt",
    "judge.": "temperature top_p max_new_tokens samples template rubric top_points "
    "min_valid_judgments hopeless_at endpoint",
    "pairing.": "rho max_chosen_chars length_unit",
    "meta_judge.": "temperature top_p max_new_tokens template max_judgments "
    "max_chosen_judgment_chars elo_prior hide_score_line max_score_gap decided_at max_pair_share",
    "training.": "learning_rate batch_size device_batch_size epochs scheduler warmup_share "
    "max_length weight_decay adam_beta2 max_grad_norm dtype gradient_checkpointing processes "
    "sharding lora stop_at_loss_growth stop_at_grad_norm max_refused_share validation_share keep "
    "save_every_epochs log_every_steps beta sft_weight",
    "training.lora.": "r alpha dropout target_modules keep_adapter",
    "audit.": "required least_agreement confidence answers otherwise human_pairs_share",
    "engine.": "kind endpoint device dtype threads batch_tokens max_model_tokens tensor_parallel "
    "memory_share max_sequences",
    "evaluation.": "oracle prompts judge_items judgments comparisons",
}
FROZEN_KEYS: Final = frozenset(
    f"{section}{name}" for section, names in _FROZEN.items() for name in names.split()
)
"""The frozen keys. Never add or remove a key: the hashes of every experiment depend on them."""

_FROZEN_NAMES: Final = {new: old for old, new in RENAMED_KEYS.items()}
_FROZEN_TASKS: Final = {new: old for old, new in RENAMED_TASKS.items()}
_FROZEN_DESCRIPTIONS: Final = {new: old for old, new in RENAMED_DESCRIPTIONS}
_CURRENT_DESCRIPTIONS: Final = dict(RENAMED_DESCRIPTIONS)

_SHARD_SIZE_KEY: Final = "shard_prompts"
OPEN_SHARD_SIZE: Final = 64
"""Prompts per shard in a recipe that leaves the number open; also the maximum number chosen."""


def get_frozen_key(key: str) -> str:
    """Return the name of a key, with its section, in the canonical form."""
    return _FROZEN_NAMES.get(key, key)


def get_current_key(key: str) -> str:
    """Return the current name of a canonical key, with its section."""
    current = {OLD_TASK_KEY: "task", OLD_GROUND_TRUTH_KEY: "evaluation.ground_truth"}
    return current.get(key) or RENAMED_KEYS.get(key, key)


def rename_to_frozen(values: Mapping[str, Any], prefix: str) -> Values:
    """Rename the plain values of one section to the names of the canonical form."""
    return {get_frozen_key(prefix + name).removeprefix(prefix): values[name] for name in values}


def canonicalize_section(section: BaseModel, prefix: str, *, is_complete: bool = False) -> Values:
    """Convert one section to its canonical form.

    Args:
        prefix: its position in a recipe, such as `engine.`; empty for the recipe itself.
        is_complete: whether to include keys that were added later even if they have their default.
    """
    values = section.model_dump(mode="json")
    found: Values = {}
    for name, field in type(section).model_fields.items():
        key, value = get_frozen_key(prefix + name), getattr(section, name)
        is_written = is_complete or key in FROZEN_KEYS or f"{key}." in _FROZEN
        if not is_written and value == field.get_default(call_default_factory=True):
            continue
        found[key.rpartition(".")[2]] = (
            canonicalize_section(value, f"{prefix}{name}.", is_complete=is_complete)
            if isinstance(value, BaseModel)
            else values[name]
        )
    return found


def canonicalize_recipe(recipe: BaseModel, *, is_complete: bool = False) -> Values:
    """Convert a recipe to its canonical form; newer values appear only if they are not the default.

    `task` is stored under its former names: `world`, and `evaluation.oracle` if its ground truth is
    measured.
    """
    found = canonicalize_section(recipe, "", is_complete=is_complete)
    found["description"] = _FROZEN_DESCRIPTIONS.get(found["description"], found["description"])
    if found.get(_SHARD_SIZE_KEY, 0) is None:
        found[_SHARD_SIZE_KEY] = OPEN_SHARD_SIZE
    task = found.pop("task", None)
    is_measured = found["evaluation"].pop("ground_truth", True)
    world = canonicalize_task(task)
    set_value(found, OLD_TASK_KEY, world)
    set_value(found, OLD_GROUND_TRUTH_KEY, world if is_measured else None)
    return found


def canonicalize_task(task: str | None) -> str | None:
    """Return the name of a task in the canonical form."""
    return None if task is None else _FROZEN_TASKS.get(task, task)


def restore_names(values: Mapping[str, Any]) -> Values:
    """Rename stored values to the current keys; absent values stay absent."""
    found = translate_renamed_keys(dict(values), base={}, warn=ignore_renamed)
    description = found.get("description")
    if isinstance(description, str):
        found["description"] = _CURRENT_DESCRIPTIONS.get(description, description)
    return found


def hash_recipe_values(values: Mapping[str, Any]) -> str:
    """Hash the canonical values of a recipe, in hexadecimal.

    An experiment hashes its stored values, which may lack keys that were frozen later, so that an
    upgrade does not invalidate its results.
    """
    return hash_compact_json(values)
