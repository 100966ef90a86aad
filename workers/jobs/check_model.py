"""Check a model for a job, in a separate process."""

from typing import Any

from meta_reward_core.errors import InputError
from meta_reward_core.planning.check_experiment import build_named_check
from meta_reward_core.planning.model_check.run import can_check_here, run_check
from webapp.experiment_form.model_check import CheckRequest
from webapp.experiment_form.uploads import get_stored_path
from webapp.experiments.models import Job
from webapp.paths import get_storage_roots


def check_model(job: Job) -> dict[str, Any]:
    """Check the model of a job.

    Returns:
        The report, as `CheckReport.to_json` writes it.

    Raises:
        InputError: there is no such model, or this machine has no model libraries.
        EngineError: the check itself failed.
    """
    if not can_check_here():
        raise InputError(
            "this machine has no model libraries: start a worker on a machine that has them, "
            "and try again"
        )
    request = CheckRequest.read(job.payload)
    check = build_named_check(
        request.model,
        request.build_recipe(),
        get_storage_roots(),
        prompts=get_stored_path(request.prompts) if request.prompts else None,
        say=lambda _: None,
    )
    return run_check(check, in_process=False).to_json()
