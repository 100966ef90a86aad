"""Run the jobs that users requested on pages and through the API.

A kind of job is quick, slow, or needs a worker. Two threads of the reconciler poll for quick and
slow jobs (`run_jobs_forever`), so that these wait neither for a busy worker nor for each other, and
need no broker. Workers run jobs that need an engine or model libraries (`run_job`). A reconciler
with these libraries also checks models. Each job is claimed by one conditional UPDATE, and claimed
again if its process stops renewing the lease.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError, close_old_connections
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from meta_reward_core.errors import InputError, MetaRewardError
from meta_reward_core.planning.model_check.run import can_check_here
from webapp.accounts.permissions import explain_lost_authority
from webapp.db_clock import from_now
from webapp.experiments.models import Experiment, Iteration, Job, JobKind, JobStatus
from workers.jobs import (
    change_settings,
    check_model,
    create_experiment,
    draw_audit_batch,
    playground,
    publish_model,
)
from workers.ops import prune
from workers.pipeline import control
from workers.pipeline.open_experiment import open_row

Outcome = dict[str, Any]
JobHandler = Callable[[Job], Outcome]

EVERY_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


def _get_experiment(job: Job) -> Experiment:
    if job.experiment is None:
        raise InputError(f"experiment {job.experiment_name!r} was deleted")
    return job.experiment


def _make_control_handler(control: Callable[[Experiment], Iteration]) -> JobHandler:
    def handle(job: Job) -> Outcome:
        return {"iteration": control(_get_experiment(job)).number}

    return handle


def _run_next(job: Job) -> Outcome:
    row = _get_experiment(job)
    return {
        "iteration": control.submit_to_workers(open_row(row), row, target_iteration=None).number
    }


def _continue_despite_probe(job: Job) -> Outcome:
    by = str(job.created_by or "a deleted account")
    return {"iteration": control.continue_despite_probe(_get_experiment(job), by=by).number}


def _delete_experiment(job: Job) -> Outcome:
    uuid = job.experiment_uuid or _get_experiment(job).uuid
    plan = prune.plan_experiment_deletion(job.experiment_name, uuid=uuid)
    plan.carry_out()
    return {"freed_bytes": plan.size}


QUICK_HANDLERS: Final[Mapping[str, JobHandler]] = {
    JobKind.PAUSE: _make_control_handler(control.request_pause),
    JobKind.CANCEL: _make_control_handler(control.request_cancel),
    JobKind.RESUME: _make_control_handler(control.resume_iteration),
    JobKind.NEXT: _run_next,
    JobKind.ACCEPT_PROBE: _continue_despite_probe,
    JobKind.SETTINGS: change_settings.run_settings_change,
}
SLOW_HANDLERS: Final[Mapping[str, JobHandler]] = {
    JobKind.LAUNCH: create_experiment.launch_experiment,
    JobKind.FORK: create_experiment.fork_experiment,
    JobKind.PUBLISH: publish_model.publish_model,
    JobKind.AUDIT: draw_audit_batch.create_audit_batch,
    JobKind.DELETE: _delete_experiment,
    **({JobKind.CHECK_MODEL: check_model.check_model} if can_check_here() else {}),
}
WORKER_HANDLERS: Final[Mapping[str, JobHandler]] = {
    JobKind.CHAT: playground.run_chat,
    JobKind.CHECK_MODEL: check_model.check_model,
}


def run_job(job: Job, handlers: Mapping[str, JobHandler]) -> bool:
    """Run a job if it is still pending; False if another process holds it.

    A job that cannot be done is refused, with the reason in its message. A kind without a handler
    stays pending: a message to a worker may name any job.
    """
    if job.kind not in handlers:
        return False
    token = uuid4()
    lease = from_now(settings.META_REWARD_LEASE_SECONDS)
    claimed = _select_waiting().filter(pk=job.pk)
    if claimed.update(status=JobStatus.RUNNING, token=token, lease_until=lease) != 1:
        return False
    held = Job.objects.filter(pk=job.pk, token=token)
    try:
        if refusal := explain_lost_authority(job):
            raise InputError(refusal)
        with _keep_lease(job.pk, token):
            outcome = handlers[job.kind](job)
    except MetaRewardError as error:
        _finish_job(held, JobStatus.REFUSED, message=str(error))
    except Exception as error:  # noqa: BLE001 the requester must see it
        _log.exception("%s failed", job)
        _finish_job(held, JobStatus.REFUSED, message=f"{type(error).__name__}: {error}")
    else:
        _finish_job(held, JobStatus.DONE, outcome=outcome)
    return True


def _finish_job(held: QuerySet[Job], status: JobStatus, **values: Any) -> None:
    held.update(status=status, token=None, lease_until=None, finished=Now(), **values)


def _select_waiting() -> QuerySet[Job]:
    silent = Q(status=JobStatus.RUNNING, lease_until__lt=Now())
    return Job.objects.filter(Q(status=JobStatus.WAITING) | silent)


@contextmanager
def _keep_lease(pk: int, token: UUID) -> Iterator[None]:
    """Extend a job's lease from a thread until its handler returns."""
    done = threading.Event()
    seconds = settings.META_REWARD_LEASE_SECONDS

    def extend() -> None:
        while not done.wait(seconds / 4):
            try:
                Job.objects.filter(pk=pk, token=token).update(lease_until=from_now(seconds))
            except DatabaseError as error:
                _log.warning("could not extend the lease of a job: %s", error)
            finally:
                close_old_connections()

    thread = threading.Thread(target=extend, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run_waiting_jobs(handlers: Mapping[str, JobHandler]) -> int:
    """Run all pending jobs of some kinds, oldest first; return their number."""
    jobs = (
        _select_waiting().filter(kind__in=list(handlers)).select_related("experiment", "created_by")
    )
    return sum(run_job(job, handlers) for job in jobs.order_by("pk"))


def run_jobs_forever(handlers: Mapping[str, JobHandler]) -> None:
    """Run jobs of some kinds as they arrive, until the process ends."""
    while True:
        close_old_connections()
        try:
            run_waiting_jobs(handlers)
        except DatabaseError as error:
            _log.warning("the database does not respond: %s", error)
        time.sleep(EVERY_SECONDS)


def start_job_threads() -> None:
    """Start two threads that run quick and slow jobs until this process ends."""
    for handlers in (QUICK_HANDLERS, SLOW_HANDLERS):
        threading.Thread(target=run_jobs_forever, args=[handlers], daemon=True).start()


def get_jobs_for_workers() -> QuerySet[Job]:
    """Select the jobs to send to the workers again."""
    return _select_waiting().filter(kind__in=list(WORKER_HANDLERS))
