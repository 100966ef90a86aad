"""Find data that can be deleted, its size, and the consequences of deleting it.

Only data that no running work can need is listed: scratch folders of finished experiments, uploaded
prompts that no pending job uses, old console output, local copies of models in a remote store,
incomplete downloads, checkpoints except the latest, and old account events. Tables of an experiment
are its results and are deleted only with the whole experiment, which the user must name.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import Q, Sum
from django.utils import timezone

from meta_reward_core.data.prompt_formats import FORMATS
from meta_reward_core.errors import ExperimentBusyError, InputError
from meta_reward_core.models.hf_download import list_partial_downloads
from meta_reward_core.planning.experiment_request import check_name
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.checkpoint_store import list_cached_copies
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.system.command_hint import format_command, make_missing_experiment_error
from webapp.activity.models import SECURITY_ACTIONS, Activity
from webapp.activity.recording import prune_account_activity
from webapp.experiments.attempt_logs import get_log_folder
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Attempt, AttemptStatus, Driver, Experiment, Job, RunStatus
from webapp.experiments.stage_progress import write_duration

KINDS: Final = ("scratch", "uploads", "logs", "events", "cache", "checkpoints")
BY_DEFAULT: Final = ("scratch", "uploads", "logs", "events", "cache")
"""Kinds that are deleted by default; checkpoints only on request."""

_UPLOAD: Final = re.compile(rf"[0-9a-f]{{64}}\.({'|'.join(FORMATS)})")
_AT_REST: Final = (RunStatus.FINISHED, RunStatus.CANCELLED, RunStatus.NO_PAIRS)


@dataclass(frozen=True, slots=True)
class Deletable:
    """Something that can be deleted.

    Attributes:
        size: in bytes, of the files; 0 for rows.
        cost: description of what is lost.
    """

    kind: str
    what: str
    size: int
    cost: str
    carry_out: Callable[[], object]


def find_deletables(kinds: tuple[str, ...], *, days: float) -> Iterator[Deletable]:
    """Find what can be deleted.

    Args:
        kinds: a subset of `KINDS`.
        days: newer data is kept; checkpoints and scratch are selected regardless of age.
    """
    finders: dict[str, Callable[[float], Iterator[Deletable]]] = {
        "scratch": _find_scratch,
        "uploads": _find_uploads,
        "logs": _find_logs,
        "events": _find_events,
        "cache": _find_cache,
        "checkpoints": _find_checkpoints,
    }
    for kind in kinds:
        yield from finders[kind](days)


def _find_scratch(days: float) -> Iterator[Deletable]:  # noqa: ARG001
    for experiment in Experiment.objects.filter(status__in=_AT_REST):
        layout = open_experiment_files(experiment).layout
        folder = layout.get_scratch(Path(settings.META_REWARD_SCRATCH_ROOT))
        if folder.is_dir() and not folder.is_symlink():
            cost = "nothing: its experiment is complete"
            yield _make_folder_deletable("scratch", folder, cost)


def _find_uploads(days: float) -> Iterator[Deletable]:
    root = Path(settings.META_REWARD_UPLOAD_ROOT)
    payloads = Job.objects.exclude(status__in=("done", "refused")).values_list("payload", flat=True)
    wanted = json.dumps(list(payloads))
    before = (timezone.now() - timedelta(days=days)).timestamp()
    for file in sorted(root.iterdir()) if root.is_dir() else []:
        is_ours = _UPLOAD.fullmatch(file.name) is not None and file.is_file()
        if is_ours and file.stat().st_mtime < before and file.stem not in wanted:
            cost = "the file must be uploaded again for another experiment"
            yield Deletable("uploads", str(file), file.stat().st_size, cost, file.unlink)


def _find_logs(days: float) -> Iterator[Deletable]:
    """Console output of attempts that ended long ago, by experiment."""
    before = (timezone.now() - timedelta(days=days)).timestamp()
    root = Path(settings.META_REWARD_LOG_ROOT) / "attempts"
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        files = [file for file in folder.rglob("*.log") if file.is_file()]
        if files and max(file.stat().st_mtime for file in files) < before:
            yield _make_folder_deletable("logs", folder, "the output can no longer be read")


def _find_events(days: float) -> Iterator[Deletable]:
    since = timezone.now() - timedelta(days=days)
    old = Activity.objects.filter(created__lt=since, action__in=SECURITY_ACTIONS)
    if old.exists():
        carry_out = partial(prune_account_activity, since)
        what = f"{old.count():,} account events older than {days:g} days"
        yield Deletable("events", what, 0, "they can no longer be looked up", carry_out)
    ended = Session.objects.filter(expire_date__lt=timezone.now())
    if ended.exists():
        what = f"{ended.count():,} expired sessions"
        yield Deletable("events", what, 0, "nothing", ended.delete)


def _find_checkpoints(days: float) -> Iterator[Deletable]:  # noqa: ARG001
    """Find the checkpoints of stopped experiments except M0 and the latest."""
    for experiment in Experiment.objects.filter(status__in=_AT_REST):
        files = open_experiment_files(experiment)
        finished = experiment.iterations.filter(status=RunStatus.FINISHED)
        numbers = sorted(finished.values_list("number", flat=True))
        for number in numbers[:-1]:
            made = files.get_checkpoint(number)
            sizes = made.list_files()
            if sizes:
                cost = _describe_checkpoint_cost(experiment, number)
                delete = partial(made.store.delete, made.name)
                yield Deletable("checkpoints", str(made), sum(sizes.values()), cost, delete)


def _find_cache(days: float) -> Iterator[Deletable]:
    """Find cached models that have not been used for a long time, and abandoned downloads."""
    before = time.time() - timedelta(days=days).total_seconds()
    for folder in list_cached_copies():
        if folder.stat().st_mtime < before:
            yield _make_folder_deletable(
                "cache", folder, "it is copied from the store again when needed"
            )
    for folder in list_partial_downloads(Path(settings.META_REWARD_MODEL_ROOT)):
        if folder.stat().st_mtime < before:
            yield _make_folder_deletable(
                "cache", folder, "its download starts again from the beginning"
            )


def plan_experiment_deletion(name: str, *, uuid: UUID | None = None) -> Deletable:
    """Find everything of one experiment: its rows, artifacts, scratch files and logs.

    Running it again removes leftovers of an interrupted deletion.

    Args:
        uuid: UUID of the experiment; None for the one that currently has the name.

    Raises:
        InputError: it does not exist, or another experiment starts from one of its models.
        ExperimentBusyError: it is running, or was submitted to the workers.
    """
    check_name(name)
    rows = (
        Experiment.objects.filter(name=name)
        if uuid is None
        else Experiment.objects.filter(uuid=uuid)
    )
    row = rows.first()
    files = _find_files(name, uuid) if row is None else open_experiment_files(row)
    scratch = _list_scratch(files)
    if row is not None and get_log_folder(row).is_dir():
        scratch.append(get_log_folder(row))
    size = sum(files.list_sizes().values()) + sum(map(_compute_size, scratch))
    if row is None and not size:
        raise make_missing_experiment_error(name)
    _require_no_dependents(name, str(files))
    if row is not None:
        _require_stopped(row)

    def carry_out() -> None:
        with files.lock():
            if row is not None:
                _delete_rows(row)
            for folder in scratch:
                shutil.rmtree(folder, ignore_errors=True)
        files.delete()

    return Deletable("experiment", name, size, _describe_experiment_cost(row), carry_out)


def _find_files(name: str, uuid: UUID | None) -> ExperimentFiles:
    """Find the files of an experiment without a row.

    Raises:
        InputError: the folder belongs to another experiment.
    """
    store = ArtifactStore(settings.META_REWARD_ARTIFACT_ROOT)
    found = ExperimentFiles(store, name).read_uuid()
    if uuid is not None and found != uuid:
        raise make_missing_experiment_error(name)
    return ExperimentFiles(store, name, uuid=found)


def _list_scratch(files: ExperimentFiles) -> list[Path]:
    """List the existing scratch folders of an experiment: of its runs and of its result pages."""
    root = Path(settings.META_REWARD_SCRATCH_ROOT)
    folders = (files.layout.get_scratch(root), files.layout.get_scratch(root / ".results"))
    return [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]


def _require_stopped(row: Experiment) -> None:
    """Require that no worker or command is running the experiment."""
    waits = Q(status=RunStatus.RUNNING, driver=Driver.WORKERS) | Q(status=RunStatus.PAUSED)
    if row.iterations.filter(waits).exists():
        cancel = format_command("control_iteration", "cancel", "--experiment", row.name)
        raise ExperimentBusyError(f"experiment {row.name!r} is still active: first run `{cancel}`")


def _require_no_dependents(name: str, path: str) -> None:
    """Require that no other experiment started from the model, which is read on resume."""
    heirs = Experiment.objects.exclude(name=name).filter(base_model_folder__startswith=f"{path}/")
    names = ", ".join(heirs.values_list("name", flat=True))
    if names:
        raise InputError(f"a model of {name!r} is the base model of {names}: delete these first")


def _delete_rows(row: Experiment) -> None:
    with transaction.atomic():
        _require_stopped(Experiment.objects.select_for_update().get(pk=row.pk))
        row.delete()


def _describe_experiment_cost(row: Experiment | None) -> str:
    if row is None:
        return "its remaining files: its rows are already deleted"
    made = row.iterations.filter(status=RunStatus.FINISHED).count()
    audits = row.audits.count()
    kept = f"; the answers of its {audits} audits are kept" if audits else ""
    return (
        f"everything: responses, judgments, pairs, charts, and its models ({made}){kept}. "
        f"Exported and published files are kept"
    )


def _describe_checkpoint_cost(experiment: Experiment, number: int) -> str:
    spent = Attempt.objects.filter(
        shard__stage__iteration__experiment=experiment,
        shard__stage__iteration__number=number,
        shard__stage__name="train",
        status=AttemptStatus.FINISHED,
    ).aggregate(seconds=Sum("seconds"))["seconds"]
    took = f"; training took {write_duration(spent)}" if spent else ""
    return (
        f"M{number} of {experiment} can no longer be used in the playground, published or "
        f"evaluated{took}. Its tables and its hash are kept"
    )


def _make_folder_deletable(kind: str, folder: Path, cost: str) -> Deletable:
    return Deletable(kind, str(folder), _compute_size(folder), cost, lambda: shutil.rmtree(folder))


def _compute_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
