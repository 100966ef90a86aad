"""Change the settings of an experiment, as somebody asked on a page or through the API."""

from typing import Any

from meta_reward_core.errors import InputError
from webapp.experiment_form.change_settings import APPLY_CHOICES, plan_change
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Job
from workers.pipeline.change_settings import build_outcome, change_settings


def run_settings_change(job: Job) -> dict[str, Any]:
    """Run a job that changes settings; a retry finds them changed.

    Raises:
        InputError: the experiment is gone, or the change is refused by now.
        ExperimentBusyError: what would change is being made.
    """
    row = job.experiment
    if row is None:
        raise InputError(f"experiment {job.experiment_name!r} is gone")
    apply = APPLY_CHOICES.get(job.payload.get("apply") or "")
    plan = plan_change(row, job.payload["changes"], apply=apply)
    if plan is None:
        return {}
    change_settings(row, open_experiment_files(row), plan)
    return build_outcome(plan)
