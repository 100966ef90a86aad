"""Change the settings of an experiment: its files first, then its rows."""

from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from meta_reward_core.errors import ExperimentBusyError
from meta_reward_core.planning.settings_change import SettingsPlan, apply_settings_change
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.system.command_hint import format_command
from webapp.experiments import models
from webapp.experiments.jobs import record_job
from webapp.experiments.models import (
    Iteration,
    Job,
    JobKind,
    JobStatus,
    RunStatus,
    Shard,
    ShardStatus,
)
from workers.pipeline import transitions


def make_changer(artifact_root: str, *, who: str) -> "partial[None]":
    """Build the callback that changes settings with database rows, and records the change.

    Args:
        artifact_root: root of the experiment's files; rows with another root are ignored.
        who: user who runs the command.
    """
    return partial(_change, artifact_root, who)


def _change(artifact_root: str, who: str, files: ExperimentFiles, plan: SettingsPlan) -> None:
    found = models.Experiment.objects.filter(name=plan.experiment, artifact_root=artifact_root)
    row = found.first()
    change_settings(row, files, plan)
    if row is not None:
        job = Job.objects.create(
            kind=JobKind.SETTINGS,
            experiment=row,
            experiment_uuid=row.uuid,
            experiment_name=row.name,
            payload=build_payload(plan) | {"command": f"a command of {who}"},
            outcome=build_outcome(plan),
            status=JobStatus.DONE,
            finished=timezone.now(),
        )
        record_job(job)


def build_payload(plan: SettingsPlan) -> dict[str, Any]:
    """Build the payload of a settings change."""
    return {"apply": plan.apply, "before": dict(plan.before), "after": dict(plan.after)}


def build_outcome(plan: SettingsPlan) -> dict[str, Any]:
    """Build the outcome of a settings change."""
    return {
        "from_iteration": plan.from_iteration,
        "made_again": {made.stage: made.shards for made in plan.made_again},
    }


def change_settings(
    row: models.Experiment | None, files: ExperimentFiles, plan: SettingsPlan
) -> None:
    """Apply a planned settings change to an experiment's files and rows.

    While the workers run an iteration, only stages that have not started may change.

    Args:
        row: None for an experiment without a row.

    Raises:
        ExperimentBusyError: another process runs it, or workers run an affected stage.
        InputError: see `apply_settings_change`.
    """
    with files.lock():
        if row is not None:
            _require_untouched(row, plan)
        apply_settings_change(files, plan)
        if row is not None:
            _follow(row, plan)


def _require_untouched(row: models.Experiment, plan: SettingsPlan) -> None:
    """Refuse a change that affects running work of workers; a command's lock excludes us."""
    running = row.iterations.filter(number=plan.from_iteration, status=RunStatus.RUNNING).first()
    if running is None:
        return
    at_work = Shard.objects.filter(
        stage__iteration=running, stage__name__in=plan.affected, status=ShardStatus.RUNNING
    )
    if plan.made_again or at_work.exists():
        pause = format_command("control_iteration", "pause", "--experiment", row.name)
        raise ExperimentBusyError(
            f"the workers are running stages that depend on {plan.list_names()}: pause the "
            f"iteration first "
            f"({pause}), change the settings, and resume it"
        )


def _follow(row: models.Experiment, plan: SettingsPlan) -> None:
    """Update the rows from the files; stages to rerun become pending."""
    with transaction.atomic():
        models.Experiment.objects.filter(pk=row.pk).update(recipe=canonicalize_recipe(plan.recipe))
        for iteration in row.iterations.filter(number=plan.from_iteration):
            _reopen(iteration, plan)


def _reopen(iteration: Iteration, plan: SettingsPlan) -> None:
    """Reopen stages of a stopped iteration; a running one has nothing to rerun."""
    transitions.reopen_stages(iteration, [made.stage for made in plan.made_again])
