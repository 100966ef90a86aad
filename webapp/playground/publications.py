"""Publications of an experiment's models, read from jobs and the folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from webapp.experiments.jobs import PENDING
from webapp.experiments.models import Experiment, Job, JobKind

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Publication:
    """A job that publishes a model, and its result.

    Attributes:
        folder: path relative to the publications root; empty until it exists.
        files: names of the files in it.
        repository: address on the Hugging Face Hub; empty if it was not uploaded.
        commit: its commit on the Hub.
        doing: the job's current activity.
    """

    row: Job
    is_active: bool
    doing: str
    folder: str
    archive: str
    size_bytes: int | None
    files: Sequence[str]
    repository: str
    commit: str


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive to download."""

    path: Path
    size_bytes: int


def has_hub() -> bool:
    """Whether a Hugging Face token is configured."""
    return bool(settings.META_REWARD_HF_TOKEN)


def read_publications(experiment: Experiment, number: int) -> list[Publication]:
    """List the latest jobs that publish M_number."""
    jobs = Job.objects.filter(
        experiment=experiment, kind=JobKind.PUBLISH, payload__number=number
    ).select_related("created_by")
    return [_make_publication(job) for job in jobs[:_SHOWN]]


def find_archive(experiment: Experiment, number: int) -> Archive | None:
    """Find the archive of M_number, if it was published on this machine.

    Its location comes from the experiment's jobs, not from its name: a deleted experiment of the
    same name may have published before.
    """
    root = Path(settings.META_REWARD_PUBLISH_ROOT).resolve()
    jobs = Job.objects.filter(experiment=experiment, kind=JobKind.PUBLISH, payload__number=number)
    for outcome in jobs.values_list("outcome", flat=True):
        path = root / str(outcome.get("archive") or ".")
        if path.is_file() and path.resolve().is_relative_to(root):
            return Archive(path, path.stat().st_size)
    return None


def _make_publication(job: Job) -> Publication:
    outcome = job.outcome
    return Publication(
        row=job,
        is_active=job.status in PENDING,
        doing=outcome.get("doing", ""),
        folder=outcome.get("folder", ""),
        archive=outcome.get("archive", ""),
        size_bytes=outcome.get("bytes"),
        files=outcome.get("files", []),
        repository=outcome.get("repository", ""),
        commit=outcome.get("commit", ""),
    )
