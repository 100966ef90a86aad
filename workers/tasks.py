"""Celery tasks. Each is thin and takes one id; the rows hold the rest."""

from webapp.experiments.models import Iteration, Job
from workers.celery import app
from workers.jobs import runner
from workers.pipeline import run_shard as shard_runs
from workers.pipeline import scheduling


@app.task(name="workers.run_shard")  # type: ignore[untyped-decorator]
def run_shard(shard_id: int) -> None:
    """Run a shard if it is still pending, then advance its iteration."""
    shard_runs.run_shard(shard_id)


@app.task(name="workers.advance")  # type: ignore[untyped-decorator]
def advance(iteration_id: int) -> None:
    """Take every step of an iteration that can be taken now."""
    iteration = Iteration.objects.filter(pk=iteration_id).first()
    if iteration is not None:
        scheduling.advance_iteration(iteration)


@app.task(name="workers.carry_out")  # type: ignore[untyped-decorator]
def carry_out(job_id: int) -> None:
    """Run a job that needs a worker, if it is still pending."""
    job = Job.objects.select_related("experiment", "created_by").filter(pk=job_id).first()
    if job is not None:
        runner.run_job(job, runner.WORKER_HANDLERS)
