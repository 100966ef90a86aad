"""Celery tasks: thin wrappers that receive only an id; all other data is in the database."""

import logging
import os
import signal

from django.db import DatabaseError

from webapp.experiments.models import Iteration, Job
from webapp.health import find_later_version
from workers.celery import app
from workers.jobs import runner
from workers.pipeline import run_shard as shard_runs
from workers.pipeline import scheduling

_log = logging.getLogger(__name__)


@app.task(name="workers.run_shard")  # type: ignore[untyped-decorator]
def run_shard(shard_id: int) -> None:
    """Run a shard if it is still pending, then advance its iteration."""
    if _stop_if_outdated():
        return
    shard_runs.run_shard(shard_id)


@app.task(name="workers.advance")  # type: ignore[untyped-decorator]
def advance(iteration_id: int) -> None:
    """Take every step of an iteration that can be taken now."""
    if _stop_if_outdated():
        return
    iteration = Iteration.objects.filter(pk=iteration_id).first()
    if iteration is not None:
        scheduling.advance_iteration(iteration)


@app.task(name="workers.carry_out")  # type: ignore[untyped-decorator]
def carry_out(job_id: int) -> None:
    """Run a job that needs a worker, if it is still pending."""
    if _stop_if_outdated():
        return
    job = Job.objects.select_related("experiment", "created_by").filter(pk=job_id).first()
    if job is not None:
        runner.run_job(job, runner.WORKER_HANDLERS)


def _stop_if_outdated() -> bool:
    """Stop this worker if the database was migrated by a later version.

    The pending work stays pending, and its message is resent, to a worker of the later version.
    """
    try:
        later = find_later_version()
    except DatabaseError:  # the task itself waits for the database, or fails
        return False
    if later:
        _log.error("this worker stops: %s", later)
        os.kill(os.getppid(), signal.SIGTERM)  # the main process, which accepts no more tasks
    return bool(later)
