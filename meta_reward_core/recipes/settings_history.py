"""The settings of an experiment over time, and the iteration from which each change applies.

The description stores the initial settings of the experiment. Each later change is a separate file,
such as `settings/00001.json`, which is written once and never modified. It contains the old and new
values, and the first iteration to which the change applies. An iteration's settings are the initial
ones with every change that applies to it, in order; so a change that applies from iteration 3 does
not affect iteration 2, even if a later change does.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meta_reward_core.errors import ArtifactError, InputError
from meta_reward_core.recipes.canonical import (
    canonicalize_recipe,
    get_frozen_key,
    hash_recipe_values,
)
from meta_reward_core.recipes.loader import parse_stored_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import encode_canonical_json
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.layout import parse_settings_change_name
from meta_reward_core.system.untrusted_input import parse_json

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """A change of an experiment's settings.

    Attributes:
        number: counted from 1.
        from_iteration: the first iteration to which it applies.
        before, after: old and new value of each changed setting, by dotted name in the canonical
            form.
    """

    number: int
    from_iteration: int
    before: Values
    after: Values

    def to_json(self) -> bytes:
        """Encode the change; the same change gives the same bytes."""
        return encode_canonical_json(
            {
                "number": self.number,
                "from_iteration": self.from_iteration,
                "before": self.before,
                "after": self.after,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> "SettingsChange":
        """Parse a change.

        Raises:
            ValueError, KeyError, TypeError: the bytes are not a settings change.
        """
        found = parse_json(data)
        return cls(
            int(found["number"]),
            int(found["from_iteration"]),
            dict(found["before"]),
            dict(found["after"]),
        )


@dataclass(frozen=True, slots=True)
class SettingsHistory:
    """The settings of an experiment over its iterations.

    Attributes:
        origin: location of the stored settings, for messages.
        began: canonical values of the recipe, as stored at the experiment's creation.
        changes: changes since then, in order.
    """

    origin: str
    began: Values
    changes: tuple[SettingsChange, ...] = ()

    def get_values(self, number: int | None = None) -> Values:
        """Return the stored values that apply to an iteration; None: after all changes."""
        values: Values = copy.deepcopy(self.began)
        for change in self.changes:
            if number is None or change.from_iteration <= number:
                for key, value in change.after.items():
                    _set_value(values, get_frozen_key(key), value)
        return values

    def get_recipe(self, number: int | None = None) -> Recipe:
        """Return the recipe that applies to an iteration; None: after all changes.

        Raises:
            RecipeError: the stored values are not a valid recipe.
        """
        return parse_stored_recipe(self.get_values(number), origin=self.origin)

    def get_recipe_sha256(self, number: int | None = None) -> str:
        """Return the hash of the recipe: stored for the original, computed after a change."""
        held = [
            change for change in self.changes if number is None or change.from_iteration <= number
        ]
        return self.get_recipe(number).sha256 if held else hash_recipe_values(self.began)


def read_settings(files: ExperimentFiles, description: Mapping[str, Any]) -> SettingsHistory:
    """Read the settings of an experiment.

    Args:
        description: description of the experiment, as `ExperimentFiles.read_description` returns
            it.

    Raises:
        ArtifactError: a settings change cannot be read, or is missing.
    """
    numbers = list_settings_changes(files)
    if numbers != list(range(1, len(numbers) + 1)):
        raise ArtifactError(
            f"{files.store.get_path(files.layout.settings)} contains the changes {numbers}: "
            f"one is missing. Restore it from a backup"
        )
    return SettingsHistory(
        files.layout.description,
        description["recipe"],
        tuple(_read_change(files, number) for number in numbers),
    )


def list_settings_changes(files: ExperimentFiles) -> list[int]:
    """List the numbers of an experiment's settings changes, ascending."""
    names = files.store.list_names(files.layout.settings)
    return sorted(filter(None, map(parse_settings_change_name, names)))


def write_settings_change(files: ExperimentFiles, change: SettingsChange) -> None:
    """Write a settings change; the caller holds the experiment's lock.

    Raises:
        InputError: the settings were changed by another user in the meantime.
        StorageFullError: the disk or the store is full.
    """
    if not files.store.put_if_absent(
        files.layout.get_settings_change(change.number), change.to_json()
    ):
        raise InputError(
            f"the settings of experiment {files.name!r} have changed in the meantime: review "
            f"them and try again"
        )


def compare_recipes(old: Recipe, new: Recipe) -> tuple[Values, Values]:
    """Return the values that differ between two recipes, by dotted name in the canonical form.

    Values that equal the default of a later version are included, so that a change back to a
    default is recorded too.
    """
    return find_differences(
        canonicalize_recipe(old, is_complete=True), canonicalize_recipe(new, is_complete=True)
    )


def find_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Values, Values]:
    """Return the values that differ between two nested mappings, by dotted name: before and after.

    If a section replaces a value or vice versa, the whole section is the value. A value that is
    missing on one side is null there.
    """
    before: Values = {}
    after: Values = {}
    _collect_differences(old, new, "", before, after)
    return before, after


def _collect_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str, before: Values, after: Values
) -> None:
    for key in sorted({*old, *new}):
        was, is_now = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            _collect_differences(was, is_now, f"{prefix}{key}.", before, after)
        elif was != is_now:
            before[prefix + key], after[prefix + key] = was, is_now


def _set_value(values: Values, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = values.get(section)
        if not isinstance(inner, dict):
            inner = values[section] = {}
        values = inner
    values[last] = value


def _read_change(files: ExperimentFiles, number: int) -> SettingsChange:
    name = files.layout.get_settings_change(number)
    try:
        return SettingsChange.from_json(files.store.read(name))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{files.store.get_path(name)} is not a valid settings change: {error}"
        ) from error
