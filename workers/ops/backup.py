"""Back up all rows to one file and restore them, with SQLite or PostgreSQL.

A backup contains rows, and the hashes of the files that they refer to. Back up the files themselves
with any tool, before or after: they are written once and never changed, so the order does not
matter. A restore writes all rows or none, and then lists the files that differ.

The file is gzipped JSON Lines: a header, one line per row, the files of each experiment, and a
footer with the number of lines and their hash. Sessions and workers are excluded, because they are
not valid on another machine.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.core import serializers
from django.core.management.color import no_style
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, models, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from meta_reward_core.errors import ArtifactError, InputError
from meta_reward_core.storage.artifact_store import ArtifactStore, hash_bytes
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.shards import IterationFiles
from meta_reward_core.system.command_hint import format_command
from meta_reward_core.system.untrusted_input import parse_json
from webapp.activity.recording import mute_activity
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Experiment

FORMAT: Final = "meta-reward backup 1"

_EXCLUDED_MODELS: Final = {
    *("contenttypes.contenttype", "auth.permission"),  # made by `migrate`
    *("sessions.session", "experiments.worker"),
}
Line = dict[str, Any]


class _ExactTimeEncoder(DjangoJSONEncoder):
    """Encodes times exactly; Django's encoder truncates them to milliseconds."""

    def default(self, value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime) else super().default(value)


@dataclass(frozen=True, slots=True)
class BackupReport:
    """Result of a backup or a restore."""

    rows: int
    experiments: int


def create_backup(path: Path) -> BackupReport:
    """Write a backup readable by its owner only: it contains password hashes and secrets.

    Raises:
        InputError: the file already exists.
    """
    if path.exists():
        raise InputError(f"{path} already exists: choose another file name")
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file, _hold_snapshot():
                told = _write_backup(file)
            raw.flush()
            os.fsync(raw.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return told


def _write_backup(file: gzip.GzipFile) -> BackupReport:
    digest, lines, rows = hashlib.sha256(), 0, 0
    experiments = list(Experiment.objects.order_by("pk"))
    for line in _iter_lines(experiments):
        data = json.dumps(line, cls=_ExactTimeEncoder, ensure_ascii=False).encode() + b"\n"
        digest.update(data)
        file.write(data)
        lines += 1
        rows += "row" in line
    end = {"end": {"lines": lines, "sha256": digest.hexdigest()}}
    file.write(json.dumps(end).encode() + b"\n")
    return BackupReport(rows, len(experiments))


def _iter_lines(experiments: Iterable[Experiment]) -> Iterator[Line]:
    yield {"format": FORMAT, "made": timezone.now(), "migrations": _list_migrations()}
    for model in _list_models():
        found = model._base_manager.order_by("pk").iterator(chunk_size=500)
        for row in serializers.serialize("python", found, use_natural_foreign_keys=True):
            yield {"row": row}
    for experiment in experiments:
        yield {"files": _describe_files(experiment)}


def _list_models() -> list[type[models.Model]]:
    """List the models to back up, each after those that it refers to."""
    kept = [(config, None) for config in apps.get_app_configs()]
    ordered = serializers.sort_dependencies(kept, allow_cycles=True)
    return [model for model in ordered if model._meta.label_lower not in _EXCLUDED_MODELS]


def _list_migrations() -> list[str]:
    return sorted(".".join(key) for key in MigrationRecorder(connection).applied_migrations())


@contextmanager
def _hold_snapshot() -> Iterator[None]:
    """Read a consistent snapshot while others continue to write."""
    if connection.in_atomic_block:
        yield
    elif connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield
    else:
        with connection.cursor() as cursor:  # `atomic` would block all writers
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("COMMIT")


def _describe_files(experiment: Experiment) -> Line:
    """Describe the files of an experiment from its manifests, without reading large files."""
    files = open_experiment_files(experiment)
    shards = [
        {"iteration": number, "stage": made.stage, "shard": made.shard, "key": made.key}
        for number in _list_iteration_numbers(experiment)
        for made in files.get_iteration(number).list_manifests()
    ]
    return {
        "experiment": experiment.name,
        "root": experiment.artifact_root,
        "description": _hash_description(files),
        "shards": shards,
    }


def _list_iteration_numbers(experiment: Experiment) -> list[int]:
    return [0, *experiment.iterations.order_by("number").values_list("number", flat=True)]


def _hash_description(files: ExperimentFiles) -> str | None:
    try:
        return hash_bytes(files.read_description_bytes())
    except ArtifactError:
        return None


def restore_backup(path: Path, *, replace: bool = False) -> BackupReport:
    """Replace all rows with those of a backup, or change nothing.

    Args:
        replace: whether existing accounts and experiments may be replaced.

    Raises:
        InputError: the file is damaged or of another version, or the database is not empty.
    """
    _check(path)
    if not replace and any(_iter_has_data()):
        raise InputError(
            "this database contains accounts or experiments: restore into an empty one, or "
            "pass --replace to overwrite them"
        )
    kept = _list_models()
    with mute_activity(), transaction.atomic(), connection.constraint_checks_disabled():
        for model in reversed([*kept, *_list_link_models(kept)]):
            model._base_manager.all()._raw_delete(connection.alias)
        rows = _load_rows(path)
        connection.check_constraints()
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(
            no_style(), [*kept, *_list_link_models(kept)]
        ):
            cursor.execute(statement)
    return BackupReport(rows, Experiment.objects.count())


def _iter_has_data() -> Iterator[bool]:
    for label in ("auth.User", "experiments.Experiment"):
        yield apps.get_model(label)._base_manager.exists()


def _list_link_models(kept: Iterable[type[models.Model]]) -> list[type[models.Model]]:
    """List the tables between two models."""
    between = (
        field.remote_field.through for model in kept for field in model._meta.local_many_to_many
    )
    return [link for link in between if link is not None and link._meta.auto_created]


def _load_rows(path: Path) -> int:
    count = 0
    later = []
    rows = (line["row"] for line in read_lines(path) if "row" in line)
    for found in serializers.deserialize("python", rows, handle_forward_references=True):
        found.save()
        count += 1
        if found.deferred_fields:
            later.append(found)
    for found in later:
        found.save_deferred_fields()
    return count


def read_lines(path: Path) -> Iterator[Line]:
    """Read the lines of a backup.

    Raises:
        InputError: it is not a backup, or damaged.
    """
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                yield parse_json(line, leave_scalars=True)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is not a backup, or is damaged: {error}") from error


def _check(path: Path) -> None:
    """Check the whole file before changing any row."""
    if not path.exists():
        raise InputError(f"file {path} not found")
    digest, count, end = hashlib.sha256(), 0, None
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                if line.startswith(b'{"end"'):
                    end = parse_json(line, leave_scalars=True)["end"]
                    break
                digest.update(line)
                count += 1
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is not a backup, or is damaged: {error}") from error
    if end != {"lines": count, "sha256": digest.hexdigest()}:
        raise InputError(f"{path} is damaged or incomplete: use another backup")
    heading = next(read_lines(path))
    if heading.get("format") != FORMAT:
        raise InputError(f"{path} is not a backup of this program")
    _check_version(path, set(heading["migrations"]))


def _check_version(path: Path, made_with: set[str]) -> None:
    here = set(_list_migrations())
    if made_with != here:
        differs = ", ".join(sorted(made_with ^ here))
        raise InputError(
            f"{path} was made by another version (differing migrations: {differs}): restore it "
            f"with the version that made it, then upgrade and run {format_command('migrate')}"
        )


def list_differing_files(path: Path, *, deep: bool) -> list[str]:
    """List the files that differ from those described in a backup.

    Args:
        deep: read and hash every file, instead of the manifests alone.

    Returns:
        A description of each difference.
    """
    found: list[str] = []
    for line in read_lines(path):
        if "files" in line:
            found.extend(_iter_differences(line["files"], deep=deep))
    return found


def _iter_differences(known: Line, *, deep: bool) -> Iterator[str]:
    name = known["experiment"]
    kept = ExperimentFiles(ArtifactStore(known["root"]), name)
    if _hash_description(kept) != known["description"]:
        place = f"{kept.layout.description} under {known['root']}"
        yield f"{name}: {place} is missing or belongs to another experiment"
        return
    opened: dict[int, IterationFiles] = {}
    for shard in known["shards"]:
        number = shard["iteration"]
        files = opened.setdefault(number, kept.get_iteration(number))
        if not _is_intact(files, shard, deep=deep):
            yield f"{name}: iteration {number} {shard['stage']} shard {shard['shard']}"


def _is_intact(files: IterationFiles, known: Line, *, deep: bool) -> bool:
    stage, shard, key = known["stage"], known["shard"], known["key"]
    if deep:
        return files.find_finished(stage, shard, key) is not None
    manifest = files.find_manifest(stage, shard)
    return manifest is not None and manifest.key == key
