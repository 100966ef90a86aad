"""What may be deleted, what that frees, and what it costs.

Only what nothing that runs can need: scratch folders of finished experiments, uploaded prompts
that no waiting order names, copies of models that a store holds, half downloads of models,
checkpoints that a later one has followed, old events of accounts.
Tables of an experiment are never among them: they are what it was run for.
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

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db.models import Sum
from django.utils import timezone

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.checkpoints import Checkpoint, kept_copies
from meta_reward_core.hub_models import half_models
from webapp.experiments.models import Attempt, AttemptStatus, Experiment, Order, RunStatus
from webapp.experiments.stages import duration_text
from webapp.people.models import Event

KINDS: Final = ("scratch", "uploads", "events", "cache", "checkpoints")
BY_DEFAULT: Final = ("scratch", "uploads", "events", "cache")
"""Checkpoints are models: they are only deleted by who says so."""

_UPLOAD: Final = re.compile(r"[0-9a-f]{64}\.(txt|jsonl|csv|parquet)")
_AT_REST: Final = (RunStatus.FINISHED, RunStatus.CANCELLED, RunStatus.NO_PAIRS)


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that may be deleted.

    Attributes:
        size: in bytes, of the files; 0 for rows.
        cost: what is lost, in words.
    """

    kind: str
    what: str
    size: int
    cost: str
    carry_out: Callable[[], object]


def find_removals(kinds: tuple[str, ...], *, days: float) -> Iterator[Removal]:
    """Find what may be deleted.

    Args:
        kinds: of `KINDS`.
        days: what was touched since then stays; checkpoints and scratch know no age.
    """
    finders: dict[str, Callable[[float], Iterator[Removal]]] = {
        "scratch": _scratch,
        "uploads": _uploads,
        "events": _events,
        "cache": _cache,
        "checkpoints": _checkpoints,
    }
    for kind in kinds:
        yield from finders[kind](days)


def _scratch(days: float) -> Iterator[Removal]:  # noqa: ARG001
    for experiment in Experiment.objects.filter(status__in=_AT_REST):
        folder = Path(settings.META_REWARD_SCRATCH_ROOT) / experiment.name
        if folder.is_dir() and not folder.is_symlink():
            cost = "nothing: its experiment has ended"
            yield _folder("scratch", folder, cost)


def _uploads(days: float) -> Iterator[Removal]:
    root = Path(settings.META_REWARD_UPLOAD_ROOT)
    wishes = Order.objects.exclude(status__in=("done", "refused")).values_list("wish", flat=True)
    wanted = json.dumps(list(wishes))
    before = (timezone.now() - timedelta(days=days)).timestamp()
    for file in sorted(root.iterdir()) if root.is_dir() else []:
        is_ours = _UPLOAD.fullmatch(file.name) is not None and file.is_file()
        if is_ours and file.stat().st_mtime < before and file.name not in wanted:
            cost = "the file must be sent again to begin another experiment with it"
            yield Removal("uploads", str(file), file.stat().st_size, cost, file.unlink)


def _events(days: float) -> Iterator[Removal]:
    old = Event.objects.filter(created__lt=timezone.now() - timedelta(days=days))
    if old.exists():
        what = f"{old.count():,} events of accounts, older than {days:g} days"
        yield Removal("events", what, 0, "nobody can look them up any more", old.delete)
    ended = Session.objects.filter(expire_date__lt=timezone.now())
    if ended.exists():
        what = f"{ended.count():,} sessions that have ended"
        yield Removal("events", what, 0, "nothing", ended.delete)


def _checkpoints(days: float) -> Iterator[Removal]:  # noqa: ARG001
    """All but the last of each experiment at rest, and what the last began from."""
    for experiment in Experiment.objects.filter(status__in=_AT_REST):
        store = ArtifactStore(experiment.artifact_root)
        finished = experiment.iterations.filter(status=RunStatus.FINISHED)
        numbers = sorted(finished.values_list("number", flat=True))
        for number in numbers[:-1]:
            made = Checkpoint(store, f"{experiment.name}/iteration-{number}/checkpoint")
            sizes = made.files()
            if sizes:
                cost = _cost_of(experiment, number)
                delete = partial(store.delete, made.name)
                yield Removal("checkpoints", str(made), sum(sizes.values()), cost, delete)


def _cache(days: float) -> Iterator[Removal]:
    """Copies of models that nothing has loaded for long, and half ones that nobody fetches."""
    before = time.time() - timedelta(days=days).total_seconds()
    for folder in kept_copies():
        if folder.stat().st_mtime < before:
            yield _folder("cache", folder, "it is copied from the store again when it is needed")
    for folder in half_models(Path(settings.META_REWARD_MODEL_ROOT)):
        if folder.stat().st_mtime < before:
            yield _folder("cache", folder, "a download of it begins anew")


def _cost_of(experiment: Experiment, number: int) -> str:
    spent = Attempt.objects.filter(
        shard__stage__iteration__experiment=experiment,
        shard__stage__iteration__number=number,
        shard__stage__name="train",
        status=AttemptStatus.FINISHED,
    ).aggregate(seconds=Sum("seconds"))["seconds"]
    took = f"; training it took {duration_text(spent)}" if spent else ""
    return (
        f"M{number} of {experiment} can no longer be tried, published or evaluated{took}. Its "
        "tables and its hash stay"
    )


def _folder(kind: str, folder: Path, cost: str) -> Removal:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Removal(kind, str(folder), size, cost, lambda: shutil.rmtree(folder))
