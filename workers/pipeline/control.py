"""Submit iterations to workers, and request pause, cancel, resume and retry, through rows."""

import contextlib
from collections.abc import Iterator

from django.db.models import F
from django.db.models.functions import Greatest

from meta_reward_core.errors import ExperimentBusyError, InputError
from meta_reward_core.evaluation.circuit_breaker import accept_findings
from meta_reward_core.experiment import Experiment
from meta_reward_core.system.command_hint import format_command
from webapp.experiments import models
from webapp.experiments.models import Driver, Iteration, RunStatus
from webapp.experiments.statuses import HELD_AT_GATE
from workers.pipeline import scheduling, transitions
from workers.pipeline.local_run import close_stale_attempts
from workers.pipeline.open_experiment import open_row
from workers.pipeline.sync_rows import record_iteration


def submit_to_workers(
    experiment: Experiment, row: models.Experiment, *, target_iteration: int | None
) -> Iteration:
    """Let workers run an experiment up to `target_iteration`; by default, the next iteration.

    If they already run the experiment, the later target applies. With `target_iteration`, finished
    iterations are checked and damaged files are rebuilt.

    Returns:
        The iteration that the workers start with or are running.

    Raises:
        ExperimentBusyError: another process runs it.
    """
    with experiment.lock():
        close_stale_attempts(row)
        running = _find_with_workers(row)
        number = experiment.count_finished_iterations() + 1 if target_iteration is None else 1
        goal = target_iteration or (running.number if running else number)
        models.Experiment.objects.filter(pk=row.pk).update(
            target_iteration=Greatest(F("target_iteration"), goal) if running else goal
        )
        iteration = running or _start_iteration(experiment, row, number)
    scheduling.advance_iteration(iteration)
    return iteration


def _find_running(row: models.Experiment) -> Iteration | None:
    return row.iterations.filter(status=RunStatus.RUNNING, driver=Driver.WORKERS).first()


def _find_with_workers(row: models.Experiment) -> Iteration | None:
    """Find the iteration that workers run, or that the audit gate holds."""
    held = transitions.get_held_iterations().filter(experiment=row).first()
    return _find_running(row) or held


def _start_iteration(experiment: Experiment, row: models.Experiment, number: int) -> Iteration:
    model_in = experiment.build_context(number).model.sha256
    iteration = record_iteration(row, number, model_in=model_in)
    transitions.reset_running_stages(iteration)
    if not transitions.start_iteration(iteration, model_in=model_in, driver=Driver.WORKERS):
        raise ExperimentBusyError(
            f"{iteration} is being run by another process: wait until it has finished"
        )
    return iteration


@contextlib.contextmanager
def run_exclusively(experiment: Experiment, row: models.Experiment) -> Iterator[None]:
    """Run an experiment in this process, excluding other commands and workers.

    Raises:
        ExperimentBusyError: another command or the workers are running it.
    """
    with experiment.lock():
        running = _find_with_workers(row)
        if running is not None:
            raise ExperimentBusyError(
                f"{running} is being run by the workers: follow it with --queue, or stop it with "
                f"{format_command('control_iteration', 'cancel', '--experiment', row.name)}"
            )
        yield


def request_cancel(row: models.Experiment) -> Iteration:
    """Request to cancel the iteration, and start no further iterations.

    Raises:
        InputError: workers are not running it, and it is neither paused nor needs attention.
    """
    models.Experiment.objects.filter(pk=row.pk).update(target_iteration=0)
    stopped = row.iterations.filter(status__in=transitions.CANCELLABLE).first()
    if stopped is not None and transitions.cancel_stopped(stopped):
        return stopped
    return _request_change(row, cancel_requested=True)


def request_pause(row: models.Experiment) -> Iteration:
    """Request to pause.

    Raises:
        InputError: workers are not running it.
    """
    return _request_change(row, pause_requested=True)


def _request_change(row: models.Experiment, **flags: bool) -> Iteration:
    iteration = _find_running(row)
    if iteration is None:
        raise InputError(f"no worker is running experiment {row.name!r}: there is nothing to stop")
    Iteration.objects.filter(pk=iteration.pk, status=RunStatus.RUNNING).update(**flags)
    scheduling.advance_iteration(iteration)
    return iteration


def continue_despite_probe(row: models.Experiment, *, by: str) -> Iteration:
    """Accept the findings of the judge probe or a finished shard, and continue.

    Raises:
        InputError: no iteration was stopped by such findings.
        ExperimentBusyError: another process runs it.
    """
    stopped = row.iterations.filter(status=RunStatus.NEEDS_ATTENTION)
    iteration = stopped.exclude(message__startswith=HELD_AT_GATE).first()
    if iteration is None:
        raise InputError(
            f"no iteration of experiment {row.name!r} was stopped by the judge probe "
            "or by a finished shard"
        )
    accept_findings(open_row(row).build_context(iteration.number), by=by)
    return resume_iteration(row)


def resume_iteration(row: models.Experiment) -> Iteration:
    """Resume a stopped iteration; failed shards are retried.

    Raises:
        InputError: no iteration was stopped or has failed.
        ExperimentBusyError: another process runs it.
    """
    running = _find_running(row)
    if running is not None:
        Iteration.objects.filter(pk=running.pk).update(pause_requested=False)
        return running
    at_rest = [
        RunStatus.PAUSED,
        RunStatus.CANCELLED,
        RunStatus.INTERRUPTED,
        RunStatus.FAILED,
        RunStatus.NEEDS_ATTENTION,
    ]
    iteration = row.iterations.filter(status__in=at_rest).first()
    if iteration is None:
        raise InputError(f"no iteration of experiment {row.name!r} was stopped or has failed")
    experiment = open_row(row)
    with experiment.lock():
        _start_iteration(experiment, row, iteration.number)
    scheduling.advance_iteration(iteration)
    return iteration
