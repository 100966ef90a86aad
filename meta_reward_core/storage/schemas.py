"""The columns of every table: a public contract, documented in `docs/artifacts.md`.

Every change of the columns increments `SCHEMA_VERSION`. A change in the meaning of a column also
increments `MEANING_VERSION`; adding columns does not.
"""

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from meta_reward_core.errors import DamagedArtifactError
from meta_reward_core.storage.records import (
    Battle,
    Dropped,
    Judgment,
    Rating,
    Response,
    ResponseScore,
)

SCHEMA_VERSION: Final = 2
"""Schema version of written tables."""

MEANING_VERSION: Final = 1
"""Version of the meaning of the columns. A change invalidates the shards of earlier versions."""

Record = TypeVar("Record")

_text = pa.string()
_count = pa.int64()
_float = pa.float64()
_messages = pa.list_(pa.struct([("role", _text), ("content", _text)]))
_token_ids = pa.list_(pa.int32())
_probabilities = pa.list_(pa.struct([("value", _text), ("probability", _float)]))
_pair_columns = [
    ("prompt", _messages),
    ("chosen", _messages),
    ("rejected", _messages),
    ("kind", _text),
    ("iteration", _count),
    ("prompt_id", _text),
    ("score_chosen", _float),
    ("score_rejected", _float),
]

_refusal_columns = [
    ("prompt_id", _text),
    ("response_id", _text),
    ("replies", _count),
    ("reason", _text),
]

SCHEMAS: dict[str, pa.Schema] = {
    name: pa.schema(columns)
    for name, columns in {
        "prompts": [("prompt_id", _text), ("text", _text), ("extra", _text)],
        "responses": [
            ("prompt_id", _text),
            ("response_id", _text),
            ("sample", _count),
            ("text", _text),
            ("tokens", _count),
            ("finish_reason", _text),
            ("token_ids", _token_ids),
        ],
        "judgments": [
            ("prompt_id", _text),
            ("response_id", _text),
            ("judgment_id", _text),
            ("sample", _count),
            ("text", _text),
            ("score", _float),
            ("unscored_reason", _text),
            ("tokens", _count),
            ("finish_reason", _text),
            ("readout", _text),
            ("probabilities", _probabilities),
            ("token_ids", _token_ids),
            ("injected_at", _token_ids),
        ],
        "scores": [
            ("prompt_id", _text),
            ("response_id", _text),
            ("sample", _count),
            ("valid", _count),
            ("mean", _float),
            ("variance", _float),
            ("length_chars", _count),
            ("length_tokens", _count),
            ("finish_reason", _text),
        ],
        "battles": [
            ("prompt_id", _text),
            ("response_id", _text),
            ("first_judgment_id", _text),
            ("second_judgment_id", _text),
            ("text", _text),
            ("verdict", _text),
            ("unparsed_reason", _text),
            ("tokens", _count),
            ("finish_reason", _text),
            ("readout", _text),
            ("probabilities", _probabilities),
        ],
        "refused_by_actor": _refusal_columns,
        "refused_by_judge": _refusal_columns,
        "refused_by_meta_judge": _refusal_columns,
        "ratings": [
            ("prompt_id", _text),
            ("response_id", _text),
            ("judgment_id", _text),
            ("elo", _float),
        ],
        "actor_pairs": [
            *_pair_columns,
            ("chosen_response_id", _text),
            ("rejected_response_id", _text),
        ],
        "judge_pairs": [
            *_pair_columns,
            ("response_id", _text),
            ("chosen_judgment_id", _text),
            ("rejected_judgment_id", _text),
        ],
        "human_pairs": [
            *_pair_columns,
            ("response_id", _text),
            ("chosen_judgment_id", _text),
            ("rejected_judgment_id", _text),
        ],
        "withheld": [("kind", _text), ("reason", _text)],
        "dropped": [("prompt_id", _text), ("kind", _text), ("reason", _text)],
        "refused": [("prompt_id", _text), ("kind", _text), ("reason", _text)],
        "training_log": [("step", _count), ("epoch", _float), ("metric", _text),
                         ("value", _float)],
        "evaluation": [
            ("model", _text),
            ("subject", _text),
            ("metric", _text),
            ("value", _float),
            ("count", _count),
            ("basis", _text),
        ],
        "task_scorecards": [
            ("task", _text),
            ("model", _text),
            ("version", _count),
            ("not_evaluated_reason", _text),
            ("scorecard", _text),
        ],
        "task_items": [
            ("task", _text),
            ("model", _text),
            ("item_id", _text),
            ("prompt_id", _text),
            ("metric", _text),
            ("part", _count),
            ("value", _float),
        ],
    }.items()
}  # fmt: skip

ADDED_COLUMNS: Final[Mapping[int, Mapping[str, tuple[str, ...]]]] = {
    2: {
        "responses": ("token_ids",),
        "judgments": ("finish_reason", "readout", "probabilities", "token_ids", "injected_at"),
        "battles": ("finish_reason", "readout", "probabilities"),
    }
}
"""Columns that each version appended; they are null in files of earlier versions."""

READABLE_VERSIONS: Final = frozenset({1, *ADDED_COLUMNS})

TOKEN_COLUMNS: Final = ("token_ids", "injected_at")
"""Columns with one entry per token; only training reads them."""

_KEPT_APART: Final = ("refusal",)
"""Fields of records that are stored in another table."""

WRITERS: dict[str, tuple[str, ...]] = {
    "prompts": ("sample", "pool"),
    "responses": ("generate",),
    "judgments": ("judge",),
    "scores": ("judge",),
    "battles": ("meta_judge",),
    "refused_by_actor": ("generate",),
    "refused_by_judge": ("judge",),
    "refused_by_meta_judge": ("meta_judge",),
    "ratings": ("pair_judge",),
    "actor_pairs": ("pair_actor",),
    "judge_pairs": ("pair_judge",),
    "human_pairs": ("audit",),
    "withheld": ("audit",),
    "dropped": ("pair_actor", "pair_judge"),
    "refused": ("train",),
    "training_log": ("train",),
    "evaluation": ("evaluate",),
    "task_scorecards": ("evaluate",),
    "task_items": ("evaluate",),
}
"""Stages that write each table; only their manifests list its partitions.

`pool` writes the prompts of an experiment and `audit` human decisions; all others are stages of an
iteration, with the same tables in `Stage.writes`. If stages of one iteration share a table, each
writes one partition, numbered by its position here.
"""

RECORDS: dict[str, type] = {
    "responses": Response,
    "judgments": Judgment,
    "scores": ResponseScore,
    "battles": Battle,
    "ratings": Rating,
    "dropped": Dropped,
}


def list_written_tables(stage: str) -> tuple[str, ...]:
    """List the tables that a stage writes."""
    return tuple(table for table, stages in WRITERS.items() if stage in stages)


def is_shared_table(table: str) -> bool:
    """Whether several stages of an iteration write a table, each its own partition."""
    return len(_list_writers_of_iteration(table)) > 1


def get_own_part(table: str, stage: str) -> int:
    """Partition that a single-shard stage writes; 0 if no other stage writes the table."""
    return _list_writers_of_iteration(table).index(stage)


def _list_writers_of_iteration(table: str) -> list[str]:
    return [writer for writer in WRITERS[table] if writer != "pool"]


_TABLE_OF: Final = {record: name for name, record in RECORDS.items()}


def build_table(name: str, rows: Iterable[Any]) -> pa.Table:
    """Build the table `name` from records or plain dictionaries."""
    plain = [row if isinstance(row, dict) else _to_fields(row) for row in rows]
    return pa.Table.from_pylist(plain, schema=SCHEMAS[name])


def _to_fields(record: Any) -> dict[str, Any]:
    """Return the fields without copying: `dataclasses.asdict` copies every list of token ids."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def get_table_name(record: type) -> str:
    """Return the name of the table of these records."""
    return _TABLE_OF[record]


def list_columns(record: type) -> list[str]:
    """List the columns that are read to build a record: all except `TOKEN_COLUMNS`."""
    names = (field.name for field in dataclasses.fields(record))
    return [name for name in names if name not in (*TOKEN_COLUMNS, *_KEPT_APART)]


def to_records(table: pa.Table, record: type[Record]) -> list[Record]:
    """Convert the rows of a table to records, without token ids."""
    return [record(**row) for row in table.select(list_columns(record)).to_pylist()]


def to_parquet(table: pa.Table) -> bytes:
    """Encode a table as Parquet; the same table gives the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_parquet(source: Path | bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all columns of a Parquet file, or some of them in this order.

    Uses no threads, and not `pyarrow.parquet.read_table`: its threads may still release Python
    objects after it returns, and a process that exits at that moment is aborted.

    Raises:
        ArrowException, OSError: the file is not a Parquet file, or cannot be read.
        KeyError: the file has no such column.
    """
    readable = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(readable) as file:
        table = file.read(columns, use_threads=False)
    return table if columns is None else table.select(columns)


def from_parquet(
    data: bytes, *, name: str, origin: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a table or some of its columns, and check it against its current or an earlier schema.

    Columns that are not requested are not decoded. Columns that were added after the file was
    written are null.

    Raises:
        DamagedArtifactError: the bytes are not a Parquet file, or its columns differ.
        KeyError: the table has no such column.
    """
    schema = get_schema(name, columns)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            found, rows = file.schema_arrow, file.metadata.num_rows
            present = [column for column in schema.names if column in found.names]
            table = file.read(present, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedArtifactError(f"{origin} is not readable Parquet: {error}") from error
    if not any(found.equals(known) for known in _list_known_schemas(name)):
        raise DamagedArtifactError(f"{origin} does not have the columns of the table {name!r}")
    arrays = [
        table[field.name] if field.name in found.names else pa.nulls(rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def get_schema(name: str, columns: Sequence[str] | None = None) -> pa.Schema:
    """Return the schema of a table, or of some of its columns in this order.

    Raises:
        KeyError: the table has no such column.
    """
    schema = SCHEMAS[name]
    return schema if columns is None else pa.schema([schema.field(column) for column in columns])


def _list_known_schemas(name: str) -> list[pa.Schema]:
    """List the valid schemas of a table: the current one, then those of earlier versions."""
    known = [SCHEMAS[name]]
    for version in sorted(ADDED_COLUMNS, reverse=True):
        added = ADDED_COLUMNS[version].get(name, ())
        if added:
            known.append(pa.schema([field for field in known[-1] if field.name not in added]))
    return known


def concatenate_tables(
    name: str, tables: Sequence[pa.Table], columns: Sequence[str] | None = None
) -> pa.Table:
    """Concatenate partitions of a table; without partitions, the table is empty."""
    return pa.concat_tables(tables) if tables else get_schema(name, columns).empty_table()
