"""Change the settings of an experiment that exists: what may change, from when, and what it costs.

A value may change until something is made from it, and later if what was made from it may be made
again. Three rules decide from which iteration a change holds:

- what is finished stays finished: an iteration whose manifest is written keeps its settings, and
  so does the training of the iteration in progress once M_t is made. A change of what M_t was made
  from holds from the next iteration on;
- otherwise a change holds for the iteration in progress. What was made there from the old value is
  made again, and only if that is asked for: the plan names each stage and how many of its shards;
- whoever does not want that lets the change hold from the next iteration on.

This module knows files alone; it opens no model and may be used by pages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from meta_reward_core.errors import InputError
from meta_reward_core.recipes.canonical import get_current_key
from meta_reward_core.recipes.changed_values import parse_changes
from meta_reward_core.recipes.dataflow import (
    STAGE_SPECS,
    StageSpec,
    flatten_values,
    list_affected_stages,
)
from meta_reward_core.recipes.renamed_keys import ignore_renamed
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import (
    SettingsChange,
    SettingsHistory,
    compare_recipes,
    read_settings,
    write_settings_change,
)
from meta_reward_core.storage.experiment_files import ExperimentFiles

ApplyChanges = Literal["now", "next"]
"""Make again what depends on a changed value, or let the change hold from the next iteration on."""

_BEGINNING: Final = "it was used when the experiment was created"
FIXED_FIELDS: Final[Mapping[str, str]] = {
    "name": "it names the recipe that the experiment was created from",
    "description": "it describes the recipe that the experiment was created from",
    "model": "M0 is the experiment's beginning",
    "task": _BEGINNING,
    "sample.held_out": _BEGINNING,
    "evaluation.tasks": "their items were chosen when the experiment was created, so that all "
    "models are measured on the same ones",
    "judge.template": "its text was stored when the experiment was created",
    "judge.rubric": "its text was stored when the experiment was created",
    "meta_judge.template": "its text was stored when the experiment was created",
    "audit.required": "change it on the experiment's page of audits",
    "audit.min_agreement": "change it on the experiment's page of audits",
    "audit.confidence": "change it on the experiment's page of audits",
    "audit.min_answers": "change it on the experiment's page of audits",
    "audit.on_failure": "change it on the experiment's page of audits",
}
"""Values that cannot change in an experiment, and why; to use others, create another experiment."""

_STAGES_OF_AN_ITERATION: Final = "train_on"
"""Decides which stages an iteration has, so it holds from the first that has not begun."""


class SettingsRequest(BaseModel):
    """A request to change settings of an experiment, the same from the form and the API.

    Attributes:
        values: new values by key.
        apply: what the change does to results made from the earlier values; None: refuse it there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: dict[str, Any]
    apply: ApplyChanges | None = None

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "SettingsRequest":
        """Read what a job keeps; earlier versions kept `key=value` texts."""
        values = (
            payload["values"]
            if "values" in payload
            else parse_changes(payload["changes"], warn=ignore_renamed)
        )
        return cls(values=values, apply=payload.get("apply") or None)


@dataclass(frozen=True, slots=True)
class MadeAgain:
    """A stage of the iteration in progress of which finished shards are made again."""

    stage: str
    title: str
    shards: int


@dataclass(frozen=True, slots=True)
class SettingsPlan:
    """What a change of settings does.

    Attributes:
        experiment: its name.
        number: of the change, counted from 1.
        from_iteration: the first iteration that it holds for.
        before, after: the values that change, by dotted name in the canonical form.
        made_again: of the iteration in progress, in the order of the paper; empty if none.
        affected: stages of iteration `from_iteration` that depend on the change.
        recipe: all values after the change.
        apply: what was asked for.
        why_later: why it does not hold for the iteration in progress; "" if it does.
    """

    experiment: str
    number: int
    from_iteration: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    made_again: tuple[MadeAgain, ...]
    affected: tuple[str, ...]
    recipe: Recipe
    apply: ApplyChanges | None
    why_later: str = ""

    def describe(self) -> list[str]:
        """Say in lines what changes, from when, and what is made again."""
        lines = [
            f"{get_current_key(key)}: {_format(self.before[key])} -> {_format(self.after[key])}"
            for key in self.after
        ]
        start = f"from iteration {self.from_iteration} on"
        lines.append(f"{start}: {self.why_later}" if self.why_later else start)
        if self.made_again:
            lines.append(f"made again in iteration {self.from_iteration}: {self.list_made_again()}")
        else:
            lines.append("nothing is made again")
        return lines

    def list_names(self) -> str:
        """Name the values that change."""
        return ", ".join(map(get_current_key, self.after))

    def list_made_again(self) -> str:
        """Name the stages that are made again, with the number of their finished shards."""
        return ", ".join(
            f"{one.stage} ({one.shards} shard{'' if one.shards == 1 else 's'})"
            for one in self.made_again
        )


def plan_settings_change(
    files: ExperimentFiles, recipe: Recipe, *, apply: ApplyChanges | None = None
) -> SettingsPlan | None:
    """Say what it means to give an experiment the values of another recipe; None if none differ.

    Args:
        recipe: all values as they shall be.
        apply: None to refuse a change that makes something again.

    Raises:
        InputError: a value cannot change, or something would be made again and `apply` is None.
        ArtifactError: the experiment's files cannot be read.
    """
    history = read_settings(files, files.require_description())
    latest = history.get_recipe()
    before, after = compare_recipes(latest, recipe)
    if not after:
        return None
    refuse_fixed_fields(files.name, after)
    plan = _plan(files, history, recipe, before, after, apply)
    if plan.made_again and apply is None:
        raise InputError(
            f"what experiment {files.name!r} has made in iteration {plan.from_iteration} depends "
            f"on {plan.list_names()}: {plan.list_made_again()}. To make that again, apply the "
            "change now (--apply-changes now); to keep it, apply the change from the next "
            "iteration on (--apply-changes next)"
        )
    return plan


def refuse_fixed_fields(name: str, after: Mapping[str, Any]) -> None:
    """Refuse values that cannot change in an experiment.

    Raises:
        InputError: naming each of them, and why.
    """
    fixed = {key: why for key, why in FIXED_FIELDS.items() if _is_changed(key, after)}
    if fixed:
        lines = [f"  {key}: {why}" for key, why in fixed.items()]
        raise InputError(
            f"these settings of experiment {name!r} cannot change; create another experiment to "
            "use other ones:\n" + "\n".join(lines)
        )


def _is_changed(field: str, after: Mapping[str, Any]) -> bool:
    names = map(get_current_key, after)
    return any(key == field or key.startswith(f"{field}.") for key in names)


def _plan(
    files: ExperimentFiles,
    history: SettingsHistory,
    recipe: Recipe,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    apply: ApplyChanges | None,
) -> SettingsPlan:
    current = files.count_finished_iterations() + 1
    fields = {get_current_key(key) for key in (*flatten_values(before), *flatten_values(after))}
    affected = _find_affected(fields, history.get_recipe(current), recipe, current)
    finished = files.get_iteration(current).count_finished_shards()
    made_again = tuple(
        MadeAgain(spec.name, spec.title, finished[spec.name])
        for spec in affected
        if finished.get(spec.name)
    )
    why_later = _find_why_later(fields, affected, finished, current)
    if not why_later and made_again and apply == "next":
        why_later = f"what iteration {current} has made is kept"
    number = current + 1 if why_later else current
    if why_later:
        made_again = ()
        affected = _find_affected(fields, history.get_recipe(number), recipe, number)
    return SettingsPlan(
        experiment=files.name,
        number=len(history.changes) + 1,
        from_iteration=number,
        before=before,
        after=after,
        made_again=made_again,
        affected=tuple(spec.name for spec in affected),
        recipe=recipe,
        apply=apply,
        why_later=why_later,
    )


def _find_affected(
    fields: set[str], before: Recipe, after: Recipe, number: int
) -> Sequence[StageSpec]:
    """Stages that depend on the values by the recipe before the change, or by that after it."""
    names = {
        spec.name
        for recipe in (before, after)
        for spec in list_affected_stages(fields, recipe, number)
    }
    return [spec for spec in STAGE_SPECS if spec.name in names]


def _find_why_later(
    fields: set[str],
    affected: Sequence[StageSpec],
    finished: Mapping[str, int],
    current: int,
) -> str:
    trains = any(spec.resource == "trainer" for spec in affected)
    if trains and any(finished.get(spec.name) for spec in affected if spec.resource == "trainer"):
        return f"M{current} is made, and stays as it is"
    if _STAGES_OF_AN_ITERATION in fields and finished:
        return f"iteration {current} has begun, and keeps the stages that it has"
    return ""


def apply_settings_change(files: ExperimentFiles, plan: SettingsPlan) -> None:
    """Change an experiment's settings as planned; call it under the experiment's lock.

    What is made again is discarded first: a part that is not made again, because there are fewer
    of them now, must not be read.

    Raises:
        InputError: the experiment has gone on since, or somebody else has changed its settings.
        StorageFullError: there is no room.
    """
    if plan_settings_change(files, plan.recipe, apply=plan.apply) != plan:
        raise InputError(
            f"experiment {files.name!r} has gone on, or its settings were changed, meanwhile: look "
            "at what the change does now, and try again"
        )
    iteration = files.get_iteration(plan.from_iteration)
    specs = {spec.name: spec for spec in STAGE_SPECS}
    for name, shard in iteration.list_finished_shards():
        if name in {made.stage for made in plan.made_again}:
            iteration.discard(name, shard, specs[name].list_outputs(shard))
    write_settings_change(
        files,
        SettingsChange(plan.number, plan.from_iteration, dict(plan.before), dict(plan.after)),
    )


def change_settings(files: ExperimentFiles, plan: SettingsPlan) -> None:
    """Change an experiment's settings as planned, while nobody else works on it.

    Raises:
        ExperimentBusyError: another process runs the experiment.
        InputError, StorageFullError: see `apply_settings_change`.
    """
    with files.lock():
        apply_settings_change(files, plan)


def _format(value: Any) -> str:
    return "none" if value is None else str(value)
