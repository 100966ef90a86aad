"""Run iterations in this command, with rows but without a broker or other machines."""

from django.conf import settings
from rich.console import Console

from meta_reward_core.cli.callbacks import CallbackList
from meta_reward_core.cli.terminal import ConsoleCallback
from meta_reward_core.context import IterationContext, StageResources
from meta_reward_core.errors import (
    AuditWaitsError,
    ExperimentBusyError,
    NeedsAttentionError,
    NoPairsError,
)
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.planning.shard_size import choose_engines_ahead_for
from meta_reward_core.reporting.summary import Summary, summarize_iteration
from meta_reward_core.runner import run_iteration
from webapp.experiments import models
from webapp.experiments.models import AttemptStatus, RunStatus
from webapp.experiments.throughput import find_throughput
from workers.pipeline import transitions
from workers.pipeline.audit_gate import require_audit_passed
from workers.pipeline.db_callback import DatabaseCallback
from workers.pipeline.parallel_run import ParallelRun
from workers.pipeline.sync_rows import compute_stage_timings, record_iteration

LOST = "the process that ran it ended unexpectedly"
STOPPED = "stopped by a user"


def close_stale_attempts(row: models.Experiment) -> int:
    """Close attempts that a killed process left as running; call it under the lock.

    Returns:
        The number of attempts that were lost.
    """
    return transitions.release_claims(row, status=AttemptStatus.LOST, error=LOST)


def run_and_record(
    experiment: Experiment,
    row: models.Experiment,
    number: int,
    *,
    goal: int,
    resources: StageResources,
    console: Console,
    engine_processes: int = 1,
) -> tuple[Summary, bool]:
    """Run the rest of an iteration and update its rows; call it under the experiment's lock.

    Args:
        goal: the last iteration that this command runs, which completes the experiment.
        engine_processes: number of engine processes; if 1, the engine runs in this process.

    Returns:
        The iteration's summary, and whether anything was left to run.

    Raises:
        AuditWaitsError: it may not train yet, which is recorded; a later call resumes it.
        NeedsAttentionError: the judge probe stopped it, which is recorded.
        NoPairsError: it ended without any pairs, which is recorded.
        MetaRewardError: a shard failed, which is recorded.
        ExperimentBusyError: another process runs it.
    """
    context = experiment.build_context(number)
    iteration = record_iteration(row, number, model_in=context.model.sha256)
    if not transitions.start_iteration(iteration, model_in=context.model.sha256):
        raise ExperimentBusyError(
            f"{iteration} is being run by another process: wait until it has finished"
        )
    watcher = ConsoleCallback(console, context)
    callback = CallbackList(DatabaseCallback(iteration), watcher)
    try:
        with watcher.show():
            _run_stages(experiment, context, iteration, resources, callback, engine_processes)
    except (AuditWaitsError, NeedsAttentionError) as error:
        transitions.stop_iteration(iteration, status=RunStatus.NEEDS_ATTENTION, message=str(error))
        raise
    except NoPairsError as error:
        transitions.stop_iteration(iteration, status=RunStatus.NO_PAIRS, message=str(error))
        raise
    except Exception as error:
        transitions.stop_iteration(iteration, status=RunStatus.FAILED, message=str(error))
        raise
    except BaseException:
        transitions.drop_interrupted_transaction()
        transitions.release_claims(row, status=AttemptStatus.INTERRUPTED, error=STOPPED)
        raise
    finally:
        resources.release_engine()
    summary = summarize(experiment, iteration)
    transitions.finish_iteration(
        iteration,
        model_out=summary["model_out"],
        metrics=summary,
        goal=goal,
    )
    return summary, watcher.shards_run > 0


def _run_stages(
    experiment: Experiment,
    context: IterationContext,
    iteration: models.Iteration,
    resources: StageResources,
    callback: CallbackList,
    engine_processes: int,
) -> None:
    def before_training(context: IterationContext) -> None:
        require_audit_passed(iteration, context)

    if engine_processes == 1:
        run_iteration(context, resources, callback, before_training=before_training)
        return
    ahead = choose_engines_ahead_for(
        context.recipe,
        context.number,
        engines=engine_processes,
        measured=find_throughput(experiment.name, context.recipe),
    )
    run = ParallelRun(
        experiment,
        context,
        callback,
        processes=engine_processes,
        scratch=str(resources.scratch),
        max_attempts=settings.META_REWARD_MAX_ATTEMPTS,
        engines_ahead=ahead,
    )
    run.run(before_training=before_training)


def summarize(experiment: Experiment, iteration: models.Iteration) -> Summary:
    """Summarize an iteration from its files, with durations from its rows."""
    number = iteration.number
    return summarize_iteration(
        experiment.get_files(number),
        number=number,
        recipe=experiment.get_recipe(number),
        stages=[stage.name for stage in STAGES],
        before=experiment.get_files(number - 1) if number > 1 else None,
        timings=compute_stage_timings(iteration),
    )
