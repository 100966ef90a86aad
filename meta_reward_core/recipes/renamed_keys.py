"""Renamed recipe keys: old names still work for one version, with a warning.

`RENAMED_KEYS` is the only place with old names. It is used for recipe files, `--set`, forms, the
API and values stored by earlier versions; `canonical` uses it in reverse.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final

from meta_reward_core.errors import DeprecatedNameWarning, RecipeError

Values = dict[str, Any]
Warn = Callable[[str], None]
"""Called with one message about a deprecated name."""

RENAMED_KEYS: Final[Mapping[str, str]] = {
    "shard_prompts": "prompts_per_shard",
    "pair_kinds": "train_on",
    "judge.top_points": "judge.max_score",
    "judge.hopeless_at": "judge.early_stop_z",
    "meta_judge.decided_at": "meta_judge.adaptive_z",
    "training.warmup_share": "training.warmup_ratio",
    "training.keep": "training.checkpoint_selection",
    "training.stop_at_loss_growth": "training.max_loss_ratio",
    "engine.batch_tokens": "engine.max_batch_tokens",
    "engine.max_model_tokens": "engine.max_model_len",
    "engine.max_sequences": "engine.max_num_seqs",
    "engine.memory_share": "engine.gpu_memory_utilization",
    "engine.tensor_parallel": "engine.tensor_parallel_size",
    "audit.least_agreement": "audit.min_agreement",
    "audit.answers": "audit.min_answers",
    "audit.otherwise": "audit.on_failure",
}
"""New key by old key, both with their section. A renamed key stays in its section."""

OLD_TASK_KEY: Final = "world"
OLD_GROUND_TRUTH_KEY: Final = "evaluation.oracle"
RENAMED_TASKS: Final[Mapping[str, str]] = {"miniature": "toy"}
"""`world: miniature` is `task: toy`. `evaluation.oracle: miniature` measured its ground truth, as
`task: toy` does unless `evaluation.ground_truth` is false."""
_GROUND_TRUTH_KEY: Final = "evaluation.ground_truth"


REMOVED_KEYS: Final[Mapping[str, str]] = dict.fromkeys(
    ("judge.early_stop_z", "judge.hopeless_at"), "all judgments are sampled (docs/fewer_calls.md)"
)
"""Keys that no longer have an effect, and what happens instead. Stored recipes keep them."""


def warn_renamed(message: str) -> None:
    """Print a deprecation warning to stderr."""
    warnings.warn(message, DeprecatedNameWarning, stacklevel=3)


def ignore_renamed(message: str) -> None:
    """Do not warn: users were already warned when these values were stored."""


def describe_renamed(old: str, new: str) -> str:
    """Build the deprecation message with the new name."""
    return f"{old} is deprecated: use {new}"


def is_renamed(key: str) -> bool:
    """Whether a key is an old name."""
    return key in RENAMED_KEYS or key in {OLD_TASK_KEY, OLD_GROUND_TRUTH_KEY}


def translate_renamed_keys(values: Values, *, base: Values, warn: Warn) -> Values:
    """Rename the values of one recipe file, or of one change, to the current keys.

    Args:
        values: nested values, which are not modified.
        base: nested values that they override, with current keys.
        warn: called once for each old key.

    Raises:
        RecipeError: an old key and its new name are both given.
    """
    found = copy.deepcopy(values)
    for old, new in RENAMED_KEYS.items():
        if has_value(found, old):
            _require_absent(found, new, old)
            warn(describe_renamed(old, new))
            _rename(found, old, new, get_value(found, old))
    _translate_task(found, base, warn)
    return found


def drop_removed_keys(values: Values, *, warn: Warn) -> Values:
    """Remove values that no longer have an effect.

    Args:
        values: nested values, which are not modified.
        warn: called for each value that is removed.
    """
    found = copy.deepcopy(values)
    for key, instead in REMOVED_KEYS.items():
        if has_value(found, key):
            section, _, name = key.rpartition(".")
            if _get_section(found, section).pop(name) is not None:
                warn(describe_removed(key, instead))
    return found


def describe_removed(key: str, instead: str) -> str:
    """Warn that a value has no effect, and state what happens instead."""
    return f"{key} is deprecated and ignored: {instead}"


def _require_absent(values: Mapping[str, Any], new: str, old: str) -> None:
    if new in values or has_value(values, new):
        raise RecipeError(f"{old} and {new} set the same value: keep {new} and remove {old}")


def _translate_task(values: Values, base: Values, warn: Warn) -> None:
    """Rename `world` and `evaluation.oracle` to `task` and `evaluation.ground_truth`.

    Formerly a task measured its ground truth only with `evaluation.oracle`; now it does so unless
    `evaluation.ground_truth` turns it off.
    """
    has_oracle, has_world = (has_value(values, key) for key in (OLD_GROUND_TRUTH_KEY, OLD_TASK_KEY))
    is_told = any(has_value(given, _GROUND_TRUTH_KEY) for given in (values, base))
    world: Any = None
    if has_world:
        _require_absent(values, "task", OLD_TASK_KEY)
        world = values[OLD_TASK_KEY]
        task = RENAMED_TASKS.get(world, world) if isinstance(world, str) else world
        _rename(values, OLD_TASK_KEY, "task", task)
        warn(describe_renamed(OLD_TASK_KEY, "task"))
    if has_oracle:
        _require_absent(values, _GROUND_TRUTH_KEY, OLD_GROUND_TRUTH_KEY)
        oracle = get_value(values, OLD_GROUND_TRUTH_KEY)
        _rename(values, OLD_GROUND_TRUTH_KEY, _GROUND_TRUTH_KEY, oracle is not None)
        if has_world and world is None:  # `world: null` must not turn the ground truth off
            del values["evaluation"]["ground_truth"]
        warn(describe_renamed(OLD_GROUND_TRUTH_KEY, f"task and {_GROUND_TRUTH_KEY}"))
    elif world is not None and base.get("task") is None and not is_told:
        set_value(values, _GROUND_TRUTH_KEY, value=False)


def _rename(values: Values, old: str, new: str, value: Any) -> None:
    """Rename a key in place, keeping its position."""
    section, _, last = old.rpartition(".")
    found = _get_section(values, section)
    before = dict(found)
    found.clear()
    for name, entry in before.items():
        found |= {new.rpartition(".")[2]: value} if name == last else {name: entry}


def translate_flat_keys(values: Mapping[str, Any], *, warn: Warn) -> Values:
    """Rename values by full key, such as `judge.samples`, to the current keys.

    Raises:
        RecipeError: an old key and its new name are both given.
    """
    found = dict(values)
    for key, instead in REMOVED_KEYS.items():
        if found.pop(key, None) is not None:
            warn(describe_removed(key, instead))
    renamed = {**RENAMED_KEYS, OLD_TASK_KEY: "task", OLD_GROUND_TRUTH_KEY: _GROUND_TRUTH_KEY}
    for old, new in renamed.items():
        if old not in found:
            continue
        _require_absent(found, new, old)
        warn(describe_renamed(old, new))
        value = found.pop(old)
        if old == OLD_TASK_KEY and isinstance(value, str):
            value = RENAMED_TASKS.get(value, value)
        elif old == OLD_GROUND_TRUTH_KEY:
            value = not (value is None or value in ("", "none"))
        found[new] = value
    return found


def has_value(values: Mapping[str, Any], key: str) -> bool:
    """Whether nested values contain a key such as `judge.samples`."""
    section, _, last = key.rpartition(".")
    found = _get_section(values, section)
    return isinstance(found, Mapping) and last in found


def get_value(values: Mapping[str, Any], key: str) -> Any:
    """Return a value from nested values that contain it."""
    section, _, last = key.rpartition(".")
    return _get_section(values, section)[last]


def set_value(values: Values, key: str, value: Any) -> None:
    """Set a value in nested values, creating its sections.

    Raises:
        RecipeError: a section above it is a plain value.
    """
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"{key}: {section!r} is a value, not a section")
    values[last] = value


def _get_section(values: Mapping[str, Any], section: str) -> Any:
    found: Any = values
    for name in section.split(".") if section else ():
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
