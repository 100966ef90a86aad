"""Change the settings of an experiment, as requested on a page or through the API."""

import logging
from collections.abc import Callable
from typing import Any, Final

from meta_reward_core.errors import EngineError, InputError
from meta_reward_core.experiment import Experiment
from meta_reward_core.models.check.result import CheckReport
from meta_reward_core.planning.check_experiment import check_changed_settings, keep_changed_check
from meta_reward_core.planning.settings_change import SettingsPlan, SettingsRequest
from webapp.experiment_form.change_settings import plan_change
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Job
from workers.pipeline.change_settings import build_outcome, change_settings
from workers.pipeline.open_experiment import open_row

_CHECK_SECONDS: Final = 60.0
"""Maximum duration of the model check, which delays pauses and cancellations."""

_log = logging.getLogger(__name__)


def run_settings_change(job: Job) -> dict[str, Any]:
    """Run a job that changes settings; a retry succeeds if they are already changed.

    Raises:
        InputError: the experiment no longer exists, the change is no longer allowed, or the model
            cannot be used with it.
        ExperimentBusyError: an affected stage is running.
    """
    row = job.experiment
    if row is None:
        raise InputError(f"experiment {job.experiment_name!r} was deleted")
    plan = plan_change(row, SettingsRequest.from_payload(job.payload))
    if plan is None:
        return {}
    experiment, said = open_row(row), list[str]()
    report = _check_model(experiment, plan, say=said.append)
    change_settings(row, open_experiment_files(row), plan)
    keep_changed_check(experiment, plan.recipe, report)
    return build_outcome(plan) | ({"said": said} if said else {})


def _check_model(
    experiment: Experiment, plan: SettingsPlan, *, say: Callable[[str], None]
) -> CheckReport | None:
    """Check the model again; if this takes too long, leave the check to the next stage.

    Raises:
        ModelFolderError: the model cannot be used under these settings.
    """
    try:
        return check_changed_settings(
            experiment, plan.recipe, engine_here=False, say=say, timeout=_CHECK_SECONDS
        )
    except EngineError as error:
        _log.warning("%s", error)
        return None
