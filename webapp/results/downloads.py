"""Downloadable files of an experiment: stored ones, and some generated on request.

Allowed paths are listed here by name; every other path is rejected. Therefore requests cannot reach
files outside the experiment's folder, its lock, or partially written files.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meta_reward_core.data.exports import EXPORTS
from meta_reward_core.storage.checkpoint_store import Checkpoint
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.layout import (
    FINAL_MANIFEST,
    ITERATION_PATTERN,
    ExperimentLayout,
    compile_stored_pattern,
    get_shard_manifest_path,
    is_plain_name,
)
from meta_reward_core.storage.schemas import SCHEMAS
from meta_reward_core.storage.shards import IterationFiles
from webapp.results.iteration_reader import OpenIteration

_SHOWN: Final = 8
_TABLES: Final = "|".join(SCHEMAS)
_FORMATS: Final = "|".join(map(re.escape, EXPORTS))

INSIDE: Final = ExperimentLayout("")
"""File names relative to the experiment's folder, as used in URLs."""

_STORED: Final = compile_stored_pattern(SCHEMAS)
_WRITTEN: Final = re.compile(
    rf"{ITERATION_PATTERN}/(?:"
    rf"(?P<table>{_TABLES})\.csv"
    rf"|(?P<kind>actor|judge|all)_pairs\.(?P<format>{_FORMATS})\.jsonl"
    r"|(?P<pairs>pairs)\.parquet"
    r"|(?P<checkpoint>checkpoint)\.zip"
    r")",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class GeneratedFile:
    """A file that is generated while it is sent; one of the fields is set.

    Attributes:
        table: name of a table, as CSV.
        kind: kind of pairs (`all` for both), in the format of another tool.
    """

    number: int
    table: str | None
    kind: str | None
    format: str | None
    is_checkpoint: bool


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file in the list. `rows` is set for tables only; `size` is None for a generated file."""

    path: str
    what: str
    rows: int | None
    size: int | None


@dataclass(frozen=True, slots=True)
class TableRow:
    """A table of an iteration: its listed partitions, and the complete table as CSV."""

    name: str
    rows: int
    size: int
    csv: str
    part_count: int
    parts: Sequence[FileRow]


@dataclass(frozen=True, slots=True)
class IterationRow:
    """Files of an iteration; `zip` is the checkpoint as an archive."""

    number: int
    zip: str
    tables: Sequence[TableRow]
    exports: Sequence[FileRow]
    checkpoint: Sequence[FileRow]
    manifests: Sequence[FileRow]
    manifest_count: int


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """The stored scorecards of a model, as written by `manage.py evaluate`."""

    number: int
    cards: Sequence[FileRow]


def list_evaluations(files: ExperimentFiles, *, models: int) -> list[EvaluationRow]:
    """List the stored scorecards of M0, M1, ...; models without scorecards are skipped.

    Args:
        models: number of models.
    """
    found = [EvaluationRow(number, _list_scorecards(files, number)) for number in range(models)]
    return [row for row in found if row.cards]


def _list_scorecards(files: ExperimentFiles, number: int) -> list[FileRow]:
    folder = INSIDE.get_scorecards(number)
    paths = [
        (name, f"{folder}/{name}") for name in files.store.list_names(files.layout.get_path(folder))
    ]
    return [FileRow(path, name, None, None) for name, path in paths if is_stored(path)]


def is_stored(path: str) -> bool:
    """Whether a path can be a stored file of an experiment."""
    return _STORED.fullmatch(path) is not None


def parse_generated_path(path: str) -> GeneratedFile | None:
    """Parse the path of a generated file; None for any other path."""
    found = _WRITTEN.fullmatch(path)
    if found is None:
        return None
    return GeneratedFile(
        number=int(found["number"]),
        table=found["table"],
        kind="all" if found["pairs"] else found["kind"],
        format=found["format"],
        is_checkpoint=found["checkpoint"] is not None,
    )


def find_safe_local_path(files: ExperimentFiles, path: str) -> Path | None:
    """Find a stored file on this machine; None if it is missing or a link leads elsewhere."""
    root = files.store.get_local_path(files.layout.folder).resolve()
    found = (root / path).resolve()
    return found if found.is_relative_to(root) and found.is_file() else None


def list_iterations(opened: Sequence[OpenIteration], *, whole: str) -> list[IterationRow]:
    """List the files of iterations by their manifests; number 0 is the pool.

    Args:
        whole: name of the list to show completely, such as `1-judgments` or `1-manifests`.
    """
    return [_make_iteration_row(one.files, one.number, whole) for one in opened]


def _make_iteration_row(files: IterationFiles, number: int, whole: str) -> IterationRow:
    tables = [_make_table_row(files, number, name, whole) for name in SCHEMAS]
    made = [table for table in tables if table is not None]
    has_pairs = any(table.name.endswith("_pairs") and table.rows for table in made)
    checkpoint = list(_iter_checkpoint_files(files, number))
    return IterationRow(
        number=number,
        zip=f"{INSIDE.get_checkpoint(number)}.zip",
        tables=made,
        exports=list(_iter_exports(number)) if has_pairs else [],
        checkpoint=checkpoint,
        manifests=_limit_files(
            list(_iter_manifest_files(files, number)), f"{number}-manifests", whole
        ),
        manifest_count=len(files.list_manifests()),
    )


def _make_table_row(files: IterationFiles, number: int, name: str, whole: str) -> TableRow | None:
    parts = files.list_partitions(name)
    if not parts:
        return None
    return TableRow(
        name=name,
        rows=sum(part.rows for part in parts),
        size=sum(part.bytes for part in parts),
        csv=f"{INSIDE.get_iteration(number)}/{name}.csv",
        part_count=len(parts),
        parts=_limit_files(
            [
                FileRow(
                    f"{INSIDE.get_iteration(number)}/{part.path}", part.path, part.rows, part.bytes
                )
                for part in parts
            ],
            f"{number}-{name}",
            whole,
        ),
    )


def _limit_files(found: list[FileRow], name: str, whole: str) -> list[FileRow]:
    """Return the part of a list that is shown by default."""
    return found if name == whole else found[:_SHOWN]


def _iter_exports(number: int) -> Iterator[FileRow]:
    folder = INSIDE.get_iteration(number)
    yield FileRow(f"{folder}/pairs.parquet", "all pairs, for DPO, Parquet", None, None)
    for name in EXPORTS:
        what = f"all pairs as {name}, JSON Lines"
        yield FileRow(f"{folder}/all_pairs.{name}.jsonl", what, None, None)


def _iter_checkpoint_files(files: IterationFiles, number: int) -> Iterator[FileRow]:
    for name, size in list_checkpoint_files(files.checkpoint).items():
        yield FileRow(f"{INSIDE.get_checkpoint(number)}/{name}", name, None, size)


def list_checkpoint_files(checkpoint: Checkpoint) -> dict[str, int]:
    """List the names and sizes of a checkpoint's files, sorted by name, without links."""
    return {name: size for name, size in checkpoint.list_files().items() if is_plain_name(name)}


def _iter_manifest_files(files: IterationFiles, number: int) -> Iterator[FileRow]:
    for made in files.list_manifests():
        path = get_shard_manifest_path(made.stage, made.shard)
        name = path.rpartition("/")[2]
        yield FileRow(f"{INSIDE.get_iteration(number)}/{path}", name, None, None)
    if files.is_finished():
        path = f"{INSIDE.get_iteration(number)}/{FINAL_MANIFEST}"
        yield FileRow(path, FINAL_MANIFEST, None, None)
