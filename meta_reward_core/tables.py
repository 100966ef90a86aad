"""The columns of every table: a public contract, explained in `docs/artifacts.md`.

A change of a column's name or meaning raises `SCHEMA_VERSION`.
"""

import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from meta_reward_core.errors import DamagedArtifactError
from meta_reward_core.records import Battle, Dropped, Judgment, Rating, Response, ResponseScore

SCHEMA_VERSION = 1
Record = TypeVar("Record")

_text = pa.string()
_count = pa.int64()
_figure = pa.float64()
_messages = pa.list_(pa.struct([("role", _text), ("content", _text)]))
_pair_columns = [
    ("prompt", _messages),
    ("chosen", _messages),
    ("rejected", _messages),
    ("kind", _text),
    ("iteration", _count),
    ("prompt_id", _text),
    ("score_chosen", _figure),
    ("score_rejected", _figure),
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
        ],
        "judgments": [
            ("prompt_id", _text),
            ("response_id", _text),
            ("judgment_id", _text),
            ("sample", _count),
            ("text", _text),
            ("score", _figure),
            ("unscored_reason", _text),
            ("tokens", _count),
        ],
        "scores": [
            ("prompt_id", _text),
            ("response_id", _text),
            ("sample", _count),
            ("valid", _count),
            ("mean", _figure),
            ("variance", _figure),
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
        ],
        "ratings": [
            ("prompt_id", _text),
            ("response_id", _text),
            ("judgment_id", _text),
            ("elo", _figure),
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
        "training_log": [("step", _count), ("epoch", _figure), ("metric", _text),
                         ("value", _figure)],
        "evaluation": [
            ("model", _text),
            ("subject", _text),
            ("metric", _text),
            ("value", _figure),
            ("count", _count),
            ("basis", _text),
        ],
    }.items()
}  # fmt: skip

WRITERS: dict[str, tuple[str, ...]] = {
    "prompts": ("sample", "pool"),
    "responses": ("generate",),
    "judgments": ("judge",),
    "scores": ("judge",),
    "battles": ("meta_judge",),
    "ratings": ("pair_judge",),
    "actor_pairs": ("pair_actor",),
    "judge_pairs": ("pair_judge",),
    "human_pairs": ("audit",),
    "withheld": ("audit",),
    "dropped": ("pair_actor", "pair_judge"),
    "refused": ("train",),
    "training_log": ("train",),
    "evaluation": ("evaluate",),
}
"""Stages that write a table: its parts are promised by their manifests and no others."""

RECORDS: dict[str, type] = {
    "responses": Response,
    "judgments": Judgment,
    "scores": ResponseScore,
    "battles": Battle,
    "ratings": Rating,
    "dropped": Dropped,
}


def table_of(name: str, rows: Iterable[Any]) -> pa.Table:
    """Build the table `name` from records or plain dictionaries."""
    plain = [row if isinstance(row, dict) else dataclasses.asdict(row) for row in rows]
    return pa.Table.from_pylist(plain, schema=SCHEMAS[name])


def records_of(table: pa.Table, record: type[Record]) -> list[Record]:
    """Read the rows of a table as records."""
    return [record(**row) for row in table.to_pylist()]


def to_parquet(table: pa.Table) -> bytes:
    """Write a table; the same table gives the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_parquet(source: Path | bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file of any columns, or some of them in this order.

    Not by `pyarrow.parquet.read_table`: threads of its own are still letting go of Python's bytes
    when it returns, and a process that ends in that moment is aborted.

    Raises:
        ArrowException, OSError: it is no Parquet, or cannot be read.
        KeyError: it has no such column.
    """
    readable = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(readable) as file:
        table = file.read(columns)
    return table if columns is None else table.select(columns)


def from_parquet(data: bytes, *, name: str, origin: str) -> pa.Table:
    """Read a table and hold it to its schema.

    Raises:
        DamagedArtifactError: the bytes are no Parquet, or the columns are others.
    """
    try:
        table = read_parquet(data)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedArtifactError(f"{origin} is not readable Parquet: {error}") from error
    if not table.schema.equals(SCHEMAS[name]):
        raise DamagedArtifactError(f"{origin} has other columns than the table {name!r}")
    return table


def concatenate(name: str, tables: Sequence[pa.Table]) -> pa.Table:
    """Put parts of one table together; no part gives the empty table."""
    return pa.concat_tables(tables) if tables else SCHEMAS[name].empty_table()
