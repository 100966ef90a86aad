"""Requests for audit batches, as payloads of jobs."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth.models import User

from webapp.audit.annotation_queue import get_possible_auditors
from webapp.audit.batch_creation import BatchPlan
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, Job, JobKind, JobStatus

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """An audit that was asked for and is not there: it is being drawn, or it was refused."""

    job: Job
    iteration: int
    is_active: bool
    doing: str


def request_batch(
    experiment: Experiment,
    number: int,
    plan: BatchPlan,
    *,
    by: User,
    auditors: Iterable[User],
) -> Job:
    """Ask the workers for a batch: to draw it may take longer than a page should."""
    names = [person.username for person in auditors]
    payload = {"iteration": number, "plan": asdict(plan), "auditors": names}
    return enqueue_job(JobKind.AUDIT, by=by, experiment=experiment, payload=payload)


def read_plan(payload: Mapping[str, Any]) -> BatchPlan:
    """The plan of a batch that was asked for."""
    return BatchPlan(**payload["plan"])


def read_auditors(payload: Mapping[str, Any]) -> list[User]:
    """Who shall answer it, as far as they still may."""
    return list(get_possible_auditors().filter(username__in=payload["auditors"]))


def list_pending_batches(experiment: Experiment) -> list[PendingBatch]:
    """What was asked for lately and is not there, newest first."""
    jobs = experiment.jobs.filter(kind=JobKind.AUDIT).select_related("created_by")[:_SHOWN]
    active = (JobStatus.WAITING, JobStatus.RUNNING)
    return [
        PendingBatch(
            job,
            job.payload["iteration"],
            job.status in active,
            job.outcome.get("doing", ""),
        )
        for job in jobs
        if job.status != JobStatus.DONE
    ]


def is_any_pending(found: Iterable[PendingBatch]) -> bool:
    """Whether anything is still being drawn."""
    return any(one.is_active for one in found)
