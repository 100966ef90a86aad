"""Files that are written while they are sent: piece by piece, never whole in memory."""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from meta_reward_core.checkpoints import Checkpoint
from meta_reward_core.csv_safety import csv_text
from meta_reward_core.exports import EXPORTS, PairRow, to_trl
from meta_reward_core.records import PairKind
from meta_reward_core.shards import IterationFiles
from meta_reward_core.tables import SCHEMAS

_ROWS: Final = 500

Kinds = Sequence[PairKind]


def csv_of(files: IterationFiles, table: str) -> Iterator[bytes]:
    """A table as CSV, its first line the names of the columns."""
    names: list[str] = SCHEMAS[table].names
    yield csv_text([names]).encode()
    for rows in _batches(files, table):
        yield csv_text([row[name] for name in names] for row in rows).encode()


def jsonl_of(files: IterationFiles, kinds: Kinds, *, format_name: str) -> Iterator[bytes]:
    """Pairs in the format of another tool, a JSON object a line."""
    export = EXPORTS[format_name]
    for kind in kinds:
        for rows in _batches(files, f"{kind}_pairs"):
            lines = [json.dumps(row, ensure_ascii=False) for row in export(_pairs(rows))]
            yield "".join(f"{line}\n" for line in lines).encode()


def parquet_of(files: IterationFiles, kinds: Kinds) -> Iterator[bytes]:
    """Pairs as one Parquet file with the columns that TRL's DPOTrainer reads."""
    sink = _Outlet()
    schema = pa.schema([field for field in SCHEMAS["actor_pairs"] if field.name in _DPO_COLUMNS])
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        for kind in kinds:
            for rows in _batches(files, f"{kind}_pairs"):
                made = list(to_trl(_pairs(rows)))
                writer.write_table(pa.Table.from_pylist(made, schema=schema))
                yield sink.take()
    yield sink.take()


_DPO_COLUMNS: Final = (
    "prompt", "chosen", "rejected", "kind", "iteration", "prompt_id",
    "score_chosen", "score_rejected",
)  # fmt: skip


def zip_of(checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[bytes]:
    """Files of a model as a ZIP archive, stored as they are: weights hardly compress."""
    sink = _Outlet()
    with zipfile.ZipFile(cast(Any, sink), "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(f"checkpoint/{name}")
            with archive.open(entry, "w", force_zip64=True) as target:
                for chunk in checkpoint.chunks(name):
                    target.write(chunk)
                    yield sink.take()
    yield sink.take()


def _batches(files: IterationFiles, table: str) -> Iterator[list[Mapping[str, Any]]]:
    for part in files.part_numbers(table):
        for batch in files.read(table, part).to_batches(max_chunksize=_ROWS):
            yield batch.to_pylist()


def _pairs(rows: Iterable[Mapping[str, Any]]) -> Iterator[PairRow]:
    for row in rows:
        yield cast(PairRow, row)


class _Outlet(io.RawIOBase):
    """What writers write into, and a stream takes from; it cannot go back."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        taken = bytes(data)
        self._waiting.append(taken)
        self._written += len(taken)
        return len(taken)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken, self._waiting = b"".join(self._waiting), []
        return taken
