"""Run iterations in this very process, with rows that follow: no broker, no other machine."""

from rich.console import Console

from meta_reward_core.console import ConsoleLedger
from meta_reward_core.context import IterationContext, Tools
from meta_reward_core.errors import AuditWaitsError, ExperimentBusyError, NoPairsError
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.ledgers import Ledgers
from meta_reward_core.running import run_iteration
from meta_reward_core.summary import Summary, summarize_iteration
from webapp.experiments import models
from webapp.experiments.models import AttemptStatus, RunStatus
from workers import lifecycle
from workers.audited import require_ruling
from workers.ledger import RowLedger
from workers.rows import record_iteration, stage_timings

LOST = "the process that ran it went away without a word"
STOPPED = "stopped by a person"


def forget_lost_attempts(row: models.Experiment) -> int:
    """Mark what a process that was killed has left as running; call it under the lock.

    Returns:
        How many attempts were lost.
    """
    return lifecycle.give_up_claims(row, status=AttemptStatus.LOST, error=LOST)


def run_recorded(
    experiment: Experiment, row: models.Experiment, number: int, *, tools: Tools, console: Console
) -> tuple[Summary, bool]:
    """Run what is left of an iteration and keep its rows; call it under the experiment's lock.

    Returns:
        The iteration's summary, and whether anything was left to run.

    Raises:
        AuditWaitsError: it may not train yet; the rows say so, and a later call goes on.
        NoPairsError: it ended without a pair; the rows say so.
        MetaRewardError: a shard failed; the rows say so.
        ExperimentBusyError: the rows say that another process runs it.
    """
    context = experiment.context(number)
    iteration = record_iteration(row, number, model_in=context.model.sha256)
    if not lifecycle.start_iteration(iteration, model_in=context.model.sha256):
        raise ExperimentBusyError(f"{iteration} is being run by another process: wait for it")
    try:
        anything = _run(context, iteration, tools, console)
    except AuditWaitsError as error:
        lifecycle.stop_iteration(iteration, status=RunStatus.PAUSED, finding=str(error))
        raise
    except NoPairsError as error:
        lifecycle.stop_iteration(iteration, status=RunStatus.NO_PAIRS, finding=str(error))
        raise
    except Exception as error:
        lifecycle.stop_iteration(iteration, status=RunStatus.FAILED, finding=str(error))
        raise
    except BaseException:
        lifecycle.give_up_claims(row, status=AttemptStatus.INTERRUPTED, error=STOPPED)
        raise
    finally:
        tools.release_engine()
    summary = summarize(experiment, iteration)
    lifecycle.finish_iteration(
        iteration,
        model_out=summary["model_out"],
        metrics=summary,
        is_last=number >= experiment.recipe.iterations,
    )
    return summary, anything


def _run(
    context: IterationContext, iteration: models.Iteration, tools: Tools, console: Console
) -> bool:
    watcher = ConsoleLedger(console, context)
    ledger = Ledgers(RowLedger(iteration), watcher)
    tools.progress, tools.on_log = ledger.report, ledger.log
    with watcher.shown():
        run_iteration(
            context,
            tools,
            ledger,
            before_training=lambda context: require_ruling(iteration, context),
        )
    return watcher.shards_run > 0


def summarize(experiment: Experiment, iteration: models.Iteration) -> Summary:
    """Sum up an iteration from its files, with the seconds that its rows know."""
    number = iteration.number
    return summarize_iteration(
        experiment.files(number),
        number=number,
        recipe=experiment.recipe,
        stages=[stage.name for stage in STAGES],
        before=experiment.files(number - 1) if number > 1 else None,
        timings=stage_timings(iteration),
    )
