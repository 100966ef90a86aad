"""Create a requested experiment, and start it on the workers.

The process can die at any point. Therefore the job's outcome is `opening` once the job has reserved
the name; a process that retries the job then continues with the existing files, instead of refusing
them as another user's files.
"""

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction

from meta_reward_core.errors import ExperimentBusyError, InputError
from meta_reward_core.experiment import Experiment, open_experiment
from meta_reward_core.planning import fork
from meta_reward_core.planning.experiment_request import ExperimentRequest, check_name
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.planning.fork import ForkPoint
from meta_reward_core.planning.launch_request import LaunchRequest
from meta_reward_core.planning.shard_size import EngineCapacity
from meta_reward_core.recipes.changed_values import change_recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles, make_missing_files_error
from meta_reward_core.storage.shards import IterationFiles
from webapp.accounts.permissions import get_visible_experiments
from webapp.experiment_form.fork import ForkRequest
from webapp.experiment_form.launch_request import (
    build_requested_recipe,
    get_origin_uuid,
    get_prompts_name,
    read_payload,
)
from webapp.experiment_form.uploads import get_stored_path, store_prompts
from webapp.experiments import models
from webapp.experiments.files import open_experiment_files, read_settings_history
from webapp.experiments.models import Job, JobKind, RunStatus
from webapp.experiments.throughput import count_worker_engines, find_throughput
from webapp.paths import get_storage_roots
from workers.pipeline.control import submit_to_workers
from workers.pipeline.sync_rows import check_rows_have_files, record_experiment

OPENING = "opening"

_log = logging.getLogger(__name__)


def launch_experiment(job: Job) -> dict[str, Any]:
    """Create the experiment of a job and its rows, and start it on the workers.

    Returns:
        The experiment's name, and the messages of its start.

    Raises:
        InputError: the name is taken, or the request is not valid.
        StorageFullError: there is not enough disk space.
    """
    launch_request = read_payload(job.payload)
    stored = launch_request.prompts.stored_name if launch_request.prompts else "\0"
    check_name(launch_request.experiment)
    uuid = _claim_name(job, launch_request.experiment)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text.replace(stored, get_prompts_name(job.payload)))
        _log.info("%s: %s", launch_request.experiment, text)
        _save_outcome(job, {OPENING: True, "said": said})

    roots = get_storage_roots()
    try:
        experiment = open_or_create(
            _build_request(job, launch_request, uuid),
            roots,
            say=say,
            iterations=launch_request.iterations,
            capacity=EngineCapacity(
                count_worker_engines, partial(find_throughput, launch_request.experiment)
            ),
        )
    except ExperimentBusyError as error:
        raise InputError(
            f"an experiment {launch_request.experiment!r} is being created: choose another name"
        ) from error
    row = _record_experiment(job, experiment, is_private=launch_request.is_private)
    if not row.iterations.exclude(status=RunStatus.WAITING).exists():
        submit_to_workers(experiment, row, target_iteration=launch_request.iterations)
    return {"experiment": launch_request.experiment, "said": said}


def fork_experiment(job: Job) -> dict[str, Any]:
    """Create the fork of a job and its rows, and start it on the workers.

    Raises:
        InputError: the name is taken, or the origin is gone or lacks the files to keep.
        StorageFullError: there is not enough disk space.
    """
    request = ForkRequest.read(job.payload)
    check_name(request.experiment)
    uuid = _claim_name(job, request.experiment)
    files = _get_files(request.experiment)
    if files.read_uuid() != uuid:
        origin = _find_origin(job, request.origin)
        point = ForkPoint.parse(request.point)
        base = read_settings_history(origin).get_recipe(point.iteration)
        recipe = change_recipe(base, request.values)
        fork.fork_experiment(open_experiment_files(origin), files, point, recipe, uuid=uuid)
    experiment = open_experiment(files.store, request.experiment)
    if experiment is None:
        raise make_missing_files_error(files)
    row = _record_experiment(job, experiment, is_private=request.is_private)
    if not row.iterations.exclude(status=RunStatus.WAITING).exists():
        submit_to_workers(experiment, row, target_iteration=request.iterations)
    return {"experiment": request.experiment}


def _claim_name(job: Job, name: str) -> UUID:
    """Check that the name is free, and reserve it for this job.

    Returns:
        The UUID that the experiment gets, the same in every retry.

    Raises:
        InputError: it is taken.
    """
    job.refresh_from_db(fields=["outcome", "experiment_uuid"])
    if job.outcome.get(OPENING):
        return job.experiment_uuid or _adopt_files(job, name)
    files_exist = _has_files(name)
    taken = models.Experiment.objects.filter(name=name).exists()
    check_rows_have_files(
        name, artifact_root=settings.META_REWARD_ARTIFACT_ROOT, files_exist=files_exist
    )
    if taken or files_exist:
        raise InputError(f"experiment {name!r} already exists: choose another name")
    uuid = job.experiment_uuid = uuid4()
    Job.objects.filter(pk=job.pk).update(experiment_uuid=uuid)
    _save_outcome(job, {OPENING: True})
    return uuid


def _adopt_files(job: Job, name: str) -> UUID:
    """Continue a job of an earlier version, which wrote no UUID."""
    uuid = _get_files(name).read_uuid() or uuid4()
    Job.objects.filter(pk=job.pk).update(experiment_uuid=uuid)
    return uuid


def _save_outcome(job: Job, outcome: dict[str, Any]) -> None:
    job.outcome = outcome
    Job.objects.filter(pk=job.pk).update(outcome=outcome)


def _has_files(name: str) -> bool:
    return _get_files(name).exists()


def _get_files(name: str) -> ExperimentFiles:
    return ExperimentFiles(ArtifactStore(settings.META_REWARD_ARTIFACT_ROOT), name)


def _build_request(job: Job, launch_request: LaunchRequest, uuid: UUID) -> ExperimentRequest:
    """Continue with the files of this job's first attempt, if there are any, but with no others."""
    is_ours = _get_files(launch_request.experiment).read_uuid() == uuid
    return ExperimentRequest(
        launch_request.experiment,
        recipe=build_requested_recipe(launch_request),
        prompts=None if is_ours else _get_prompts_path(job, launch_request),
        seed=launch_request.seed,
        resume=is_ours,
        skip_bad_rows=launch_request.skip_bad_rows,
        uuid=uuid,
    )


def _get_prompts_path(job: Job, launch_request: LaunchRequest) -> Path | None:
    if launch_request.prompts:
        return get_stored_path(launch_request.prompts.stored_name)
    if not launch_request.same_prompts:
        return None
    return _export_prompts(_find_origin(job, launch_request.origin))


def _find_origin(job: Job, name: str) -> models.Experiment:
    """Find the duplicated experiment if its requester can still see it.

    A job of an earlier version has only its name; a later experiment of that name does not count.

    Raises:
        InputError: it no longer exists, or the requesting user may no longer see it.
    """
    rows = models.Experiment.objects.all()
    if job.created_by is not None:
        rows = get_visible_experiments(job.created_by)
    if uuid := get_origin_uuid(job.payload):
        origin = rows.filter(uuid=uuid).first()
    else:
        origin = rows.filter(name=name, created__lte=job.created).first()
    if origin is None:
        raise InputError(
            f"experiment {name!r}, whose prompts you requested, was deleted or is no longer "
            f"visible to you: upload the prompts instead"
        )
    return origin


def _export_prompts(origin: models.Experiment) -> Path:
    """Write the prompts of an experiment as a file like the original.

    Raises:
        InputError: the prompts no longer exist.
    """
    pool = open_experiment_files(origin).pool
    return get_stored_path(
        store_prompts(_iter_prompt_lines(pool), called=f"the prompts of {origin.name}").name
    )


def _iter_prompt_lines(pool: IterationFiles) -> Iterator[bytes]:
    for row in pool.read("prompts").to_pylist():
        extra = json.loads(row["extra"]) if row["extra"] else {}
        yield f"{json.dumps({**extra, 'prompt': row['text']})}\n".encode()


@transaction.atomic
def _record_experiment(job: Job, experiment: Experiment, *, is_private: bool) -> models.Experiment:
    """Create the row with its owner at once, so that a private one is never visible.

    Raises:
        InputError: another job created the experiment first.
    """
    row = record_experiment(experiment, artifact_root=settings.META_REWARD_ARTIFACT_ROOT)
    makers = row.jobs.filter(kind__in=[JobKind.LAUNCH, JobKind.FORK])
    if makers.exclude(pk=job.pk).exists():
        raise InputError(f"experiment {row.name!r} already exists: choose another name")
    row.owner, row.is_private = job.created_by, is_private
    row.save(update_fields=["owner", "is_private"])
    Job.objects.filter(pk=job.pk).update(experiment=row)
    return row
