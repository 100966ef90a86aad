"""Change the settings of an existing experiment.

A value may change until results depend on it, and later if those results may be discarded and
their shards rerun. Three rules determine the iteration from which a change applies:

- completed work is final: an iteration whose manifest is written keeps its settings, and so does
  the training of the iteration in progress once M_t exists. A change of a value that M_t depends
  on applies from the next iteration on;
- otherwise a change applies to the iteration in progress. Its shards that depend on the old value
are rerun, but only on request: the plan names each stage and its number of such shards;
- to avoid the rerun, apply the change from the next iteration on.

This module uses only files and never opens a model, so web pages can use it.
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
"""Rerun the shards that depend on a changed value, or apply it from the next iteration on."""

_BEGINNING: Final = "the value was used when the experiment was created"
FIXED_FIELDS: Final[Mapping[str, str]] = {
    "name": "the value is the name of the recipe that the experiment was created from",
    "description": "the value describes the recipe that the experiment was created from",
    "model": "M0 is the base model of the experiment",
    "task": _BEGINNING,
    "sample.held_out": _BEGINNING,
    "evaluation.tasks": "the items of these tasks were chosen when the experiment was created, "
    "so that all models are measured on the same ones",
    "judge.reward_model": "the files of the model were hashed when the experiment was created",
    "development.tasks": "the items of these tasks were chosen when the experiment was created",
    "judge.template": "the text of the file was stored when the experiment was created",
    "judge.rubric": "the text of the file was stored when the experiment was created",
    "meta_judge.template": "the text of the file was stored when the experiment was created",
    "audit.required": "change the value on the audits page of the experiment",
    "audit.min_agreement": "change the value on the audits page of the experiment",
    "audit.confidence": "change the value on the audits page of the experiment",
    "audit.min_answers": "change the value on the audits page of the experiment",
    "audit.on_failure": "change the value on the audits page of the experiment",
}
"""Values that cannot change in an experiment, with the reason or the alternative."""

_STAGES_OF_AN_ITERATION: Final = "train_on"
"""Value that determines the stages of an iteration; changes apply from the first unstarted one."""


class SettingsRequest(BaseModel):
    """A request to change settings of an experiment, the same from the form and the API.

    Attributes:
        values: new values by key.
        apply: treatment of results made with the earlier values; None refuses a change that affects
            such results.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: dict[str, Any]
    apply: ApplyChanges | None = None

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "SettingsRequest":
        """Parse a stored job; earlier versions stored `key=value` texts."""
        values = (
            payload["values"]
            if "values" in payload
            else parse_changes(payload["changes"], warn=ignore_renamed)
        )
        return cls(values=values, apply=payload.get("apply") or None)


@dataclass(frozen=True, slots=True)
class MadeAgain:
    """A stage of the iteration in progress whose finished shards are rerun."""

    stage: str
    title: str
    shards: int


@dataclass(frozen=True, slots=True)
class SettingsPlan:
    """The effects of a settings change.

    Attributes:
        experiment: name of the experiment.
        number: number of the change, from 1.
        from_iteration: the first iteration that it applies to.
        before, after: old and new value of each changed setting, by dotted name in the canonical
            form.
        made_again: stages of the iteration in progress that are rerun, in the order of the paper.
        affected: stages of iteration `from_iteration` that depend on the change.
        recipe: all values after the change.
        apply: the requested treatment of existing results.
        why_later: why the change does not apply to the iteration in progress; "" if it does.
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
        """Describe what changes, from when, and which stages are rerun, one fact per line."""
        lines = [
            f"{get_current_key(key)}: {_format(self.before[key])} -> {_format(self.after[key])}"
            for key in self.after
        ]
        start = f"from iteration {self.from_iteration}"
        lines.append(f"{start}: {self.why_later}" if self.why_later else start)
        if self.made_again:
            lines.append(f"rerun in iteration {self.from_iteration}: {self.list_made_again()}")
        else:
            lines.append("nothing is rerun")
        return lines

    def list_names(self) -> str:
        """List the values that change."""
        return ", ".join(map(get_current_key, self.after))

    def list_made_again(self) -> str:
        """List the stages that are rerun, with the number of their finished shards."""
        return ", ".join(
            f"{one.stage} ({one.shards} shard{'' if one.shards == 1 else 's'})"
            for one in self.made_again
        )


def plan_settings_change(
    files: ExperimentFiles, recipe: Recipe, *, apply: ApplyChanges | None = None
) -> SettingsPlan | None:
    """Plan a change of an experiment's values to those of another recipe; None if none differ.

    Args:
        recipe: all values after the change.
        apply: None to refuse a change that requires a rerun.

    Raises:
        InputError: a value cannot change, or shards would be rerun and `apply` is None.
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
            f"results of experiment {files.name!r} in iteration {plan.from_iteration} depend "
            f"on {plan.list_names()}: {plan.list_made_again()}. To rerun these shards, apply the "
            "change now (--apply-changes now); to keep them, apply the change from the next "
            "iteration on (--apply-changes next)"
        )
    return plan


def refuse_fixed_fields(name: str, after: Mapping[str, Any]) -> None:
    """Refuse values that cannot change in an experiment.

    Raises:
        InputError: a value cannot change; the message lists each of them with the reason.
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
        why_later = f"results of iteration {current} are kept"
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
    """List the stages that depend on the values in the recipe before or after the change."""
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
        return f"M{current} exists and is kept"
    if _STAGES_OF_AN_ITERATION in fields and finished:
        return f"iteration {current} has started and keeps its stages"
    return ""


def apply_settings_change(files: ExperimentFiles, plan: SettingsPlan) -> None:
    """Change an experiment's settings as planned; the caller must hold the experiment's lock.

    Outputs of the shards to rerun are discarded first. If the number of shards decreases, the
    outputs of the surplus shards must not be read.

    Raises:
        InputError: the experiment has progressed, or its settings have changed, since the plan was
            made.
        StorageFullError: the disk is full.
    """
    if plan_settings_change(files, plan.recipe, apply=plan.apply) != plan:
        raise InputError(
            f"experiment {files.name!r} has progressed or its settings have changed in the "
            f"meantime: review the effect of the change and try again"
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
    """Change an experiment's settings as planned, under its lock.

    Raises:
        ExperimentBusyError: another process runs the experiment.
        InputError, StorageFullError: see `apply_settings_change`.
    """
    with files.lock():
        apply_settings_change(files, plan)


def _format(value: Any) -> str:
    return "none" if value is None else str(value)
