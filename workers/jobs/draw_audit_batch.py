"""Create audit batches, or add hand-picked items, as requested on a page."""

from typing import Any

from django.db import transaction

from meta_reward_core.errors import InputError
from webapp.audit.batch_sampling import pick_items, sample_batch
from webapp.audit.services import add_picked_items, read_auditors, read_plan, save_batch
from webapp.experiments.models import Job, JobStatus


def create_audit_batch(job: Job) -> dict[str, Any]:
    """Run a job that creates an audit batch; a retry finds the batch of the first run.

    Raises:
        InputError: the experiment is gone, or no batch can be sampled.
        ArtifactError: files are gone or damaged.
    """
    if job.experiment is None:
        raise InputError(f"experiment {job.experiment_name!r} was deleted")
    payload, number = job.payload, int(job.payload["iteration"])

    def say(doing: str) -> None:
        _save_progress(job, doing)

    if "keys" in payload:
        kind, keys, part = payload["kind"], payload["keys"], payload.get("part")
        sampled = pick_items(job.experiment, number, kind, keys, part=part, say=say)
    else:
        sampled = sample_batch(job.experiment, number, read_plan(payload), say=say)
    with transaction.atomic():
        row = Job.objects.select_for_update().get(pk=job.pk)
        if "batch" not in row.outcome:
            if "keys" in payload:
                batch = add_picked_items(sampled, by=job.created_by)
            else:
                batch = save_batch(sampled, by=job.created_by, auditors=read_auditors(job))
            row.outcome = {"batch": batch.pk}
            row.save(update_fields=["outcome"])
    outcome: dict[str, Any] = row.outcome
    return outcome


def _save_progress(job: Job, doing: str) -> None:
    running = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING)
    running.exclude(outcome__has_key="batch").update(outcome={"doing": doing})
