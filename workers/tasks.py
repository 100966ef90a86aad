"""What a message can ask for. Each task is thin and takes one id; rows say the rest."""

from webapp.experiments.models import Iteration
from workers import scheduling, shard_runs
from workers.celery import app


@app.task(name="workers.run_shard")  # type: ignore[untyped-decorator]
def run_shard(shard_id: int) -> None:
    """Run a shard, if it still waits, and let its iteration go on."""
    shard_runs.run_shard(shard_id)


@app.task(name="workers.advance")  # type: ignore[untyped-decorator]
def advance(iteration_id: int) -> None:
    """Take every step of an iteration that can be taken now."""
    iteration = Iteration.objects.filter(pk=iteration_id).first()
    if iteration is not None:
        scheduling.advance(iteration)
