"""Begin an experiment that somebody asked for, and hand it to the workers.

Whoever carries this out may die anywhere. So the order's outcome says `opening` from the moment
that this order alone may make the files of its name; whoever takes it up again then goes on with
files that are there, instead of refusing them as somebody else's.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from meta_reward_core.errors import ExperimentBusyError, InputError
from meta_reward_core.experiment import Experiment
from meta_reward_core.planning.experiment_request import ExperimentRequest, check_name
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.shards import IterationFiles
from webapp.experiment_form.launch_request import LaunchRequest
from webapp.experiment_form.uploads import get_stored_path, store_prompts
from webapp.experiments import models
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import JobKind, Order, RunStatus
from webapp.paths import get_storage_roots
from workers.pipeline.control import submit_to_workers
from workers.pipeline.sync_rows import check_rows_have_files, record_experiment

OPENING = "opening"

_log = logging.getLogger(__name__)


def launch_experiment(order: Order) -> dict[str, Any]:
    """Begin the experiment of an order, make its rows, and let the workers run it.

    Returns:
        The experiment's name, and what was said while it began.

    Raises:
        InputError: the name is taken, or something that was asked for is wrong.
        StorageFullError: there is visibly too little room.
    """
    wish = LaunchRequest.read(order.wish)
    check_name(wish.name)
    _claim_name(order, wish.name)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text.replace(wish.prompts or "\0", wish.prompts_called))
        _log.info("%s: %s", wish.name, text)
        _save_outcome(order, {OPENING: True, "said": said})

    places = get_storage_roots()
    try:
        experiment = open_or_create(
            _build_request(wish, is_ours=_has_files(wish.name)), places, say=say
        )
    except ExperimentBusyError as error:
        raise InputError(
            f"an experiment {wish.name!r} is being begun already: choose another name"
        ) from error
    row = _record_experiment(order, wish, experiment)
    if not row.iterations.exclude(status=RunStatus.WAITING).exists():
        submit_to_workers(experiment, row, until=wish.until)
    return {"experiment": wish.name, "said": said}


def _claim_name(order: Order, name: str) -> None:
    """See that nobody else has this name, and note that it is this order's from now on.

    Raises:
        InputError: it is taken.
    """
    order.refresh_from_db(fields=["outcome"])
    if order.outcome.get(OPENING):
        return
    files_exist = _has_files(name)
    taken = models.Experiment.objects.filter(name=name).exists()
    check_rows_have_files(
        name, artifact_root=settings.META_REWARD_ARTIFACT_ROOT, files_exist=files_exist
    )
    if taken or files_exist:
        raise InputError(f"an experiment {name!r} exists already: choose another name")
    _save_outcome(order, {OPENING: True})


def _save_outcome(order: Order, outcome: dict[str, Any]) -> None:
    order.outcome = outcome
    Order.objects.filter(pk=order.pk).update(outcome=outcome)


def _has_files(name: str) -> bool:
    return ExperimentFiles(ArtifactStore(settings.META_REWARD_ARTIFACT_ROOT), name).exist()


def _build_request(wish: LaunchRequest, *, is_ours: bool) -> ExperimentRequest:
    return ExperimentRequest(
        wish.name,
        recipe=wish.build_recipe(),
        prompts=None if is_ours else _get_prompts_path(wish),
        seed=wish.seed,
        resume=is_ours,
    )


def _get_prompts_path(wish: LaunchRequest) -> Path | None:
    if wish.prompts:
        return get_stored_path(wish.prompts)
    return _export_prompts(wish.origin) if wish.same_prompts else None


def _export_prompts(name: str) -> Path:
    """Write the instructions of an experiment as a file like the one that they came from.

    Raises:
        InputError: they are gone.
    """
    origin = models.Experiment.objects.filter(name=name).first()
    if origin is None:
        raise InputError(f"experiment {name!r}, whose prompts were asked for, is gone")
    pool = open_experiment_files(origin).pool
    return get_stored_path(
        store_prompts(_iter_prompt_lines(pool), called=f"the prompts of {name}").name
    )


def _iter_prompt_lines(pool: IterationFiles) -> Iterator[bytes]:
    for row in pool.read("prompts").to_pylist():
        extra = json.loads(row["extra"]) if row["extra"] else {}
        yield f"{json.dumps({**extra, 'prompt': row['text']})}\n".encode()


@transaction.atomic
def _record_experiment(
    order: Order, wish: LaunchRequest, experiment: Experiment
) -> models.Experiment:
    """Make the row with its owner at once: nobody may see a private one in between.

    Raises:
        InputError: another order was quicker.
    """
    row = record_experiment(experiment, artifact_root=settings.META_REWARD_ARTIFACT_ROOT)
    if row.orders.filter(kind=JobKind.LAUNCH).exclude(pk=order.pk).exists():
        raise InputError(f"an experiment {wish.name!r} exists already: choose another name")
    row.owner, row.is_private = order.by, wish.is_private
    row.save(update_fields=["owner", "is_private"])
    Order.objects.filter(pk=order.pk).update(experiment=row)
    return row
