"""Enqueue the jobs that users request; `workers.jobs.runner` runs them."""

import logging
from functools import partial
from typing import Any, Final

from celery import current_app
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models.functions import Now
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from webapp.activity.models import Action, ObjectType
from webapp.activity.recording import record_activity
from webapp.experiments.models import Experiment, Job, JobKind, JobStatus

WORKER_QUEUES: Final = {JobKind.CHAT: "gpu", JobKind.CHECK_MODEL: "cpu"}
"""Kinds of jobs that a worker runs after the work already queued, and the queue of each."""

PENDING: Final = (JobStatus.WAITING, JobStatus.RUNNING)
"""Statuses of a job that has not ended."""

_log = logging.getLogger(__name__)


def enqueue_job(
    kind: JobKind,
    *,
    by: User | None,
    experiment: Experiment | None = None,
    experiment_name: str = "",
    payload: dict[str, Any] | None = None,
    follows: Job | None = None,
) -> Job:
    """Enqueue a job once the current transaction is committed.

    Args:
        experiment_name: name of the experiment that a launch will create.
        payload: plain values required by the kind of job.
        follows: the previous turn of the conversation.
    """
    job = Job.objects.create(
        kind=kind,
        created_by=by,
        experiment=experiment,
        experiment_uuid=None if experiment is None else experiment.uuid,
        experiment_name=experiment_name or str(experiment),
        payload=payload or {},
        follows=follows,
    )
    record_job(job)
    if kind in WORKER_QUEUES:
        transaction.on_commit(partial(send_job, job))
    return job


def record_job(
    job: Job, *, before: dict[str, Any] | None = None, after: dict[str, Any] | None = None
) -> None:
    """Record in the activity log who requested a job.

    Args:
        before, after: changed values; by default, those in the payload of a settings change.
    """
    if job.kind == JobKind.SETTINGS:
        before, after = job.payload.get("before", {}), job.payload.get("after", {})
    iteration = job.payload.get("iteration")
    record_activity(
        Action(job.kind),
        object_type=ObjectType.EXPERIMENT,
        object_id=job.experiment_id,
        experiment=job.experiment,
        experiment_name=job.experiment_name,
        iteration=iteration if isinstance(iteration, int) else None,
        job_id=job.pk,
        by=job.created_by,
        by_name=str(job.payload.get("command") or ""),
        before=before,
        after=after,
    )


def send_job(job: Job) -> None:
    """Send a job to the workers; if the broker refuses it, it is resent later."""
    queue = WORKER_QUEUES[JobKind(job.kind)]
    try:
        current_app.send_task("workers.carry_out", args=[job.pk], queue=queue)
    except (KombuError, RedisError, OSError) as error:
        _log.warning("the broker refused %s, which will be sent later: %s", job, error)


def cancel_job(job: Job, *, by: User) -> bool:
    """Cancel a job that is pending or running on a GPU worker; False if it had ended.

    One conditional UPDATE, so that exactly one wins: this call, or a worker that ends the job at
    the same time. A worker that loses finds that it no longer holds the job.
    """
    active = Job.objects.filter(pk=job.pk, kind__in=list(WORKER_QUEUES), status__in=PENDING)
    cancelled = active.update(
        status=JobStatus.REFUSED,
        token=None,
        lease_until=None,
        finished=Now(),
        message=f"cancelled by {by.get_username()}",
    )
    if cancelled == 1:
        record_activity(
            Action.JOB_CANCELLED,
            object_type=ObjectType.EXPERIMENT,
            experiment=job.experiment,
            experiment_name=job.experiment_name,
            by=by,
            details=job.get_kind_display(),
        )
    return cancelled == 1
