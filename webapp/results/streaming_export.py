"""Files that are generated while they are sent, never whole in memory."""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from meta_reward_core.data.csv_safety import format_csv
from meta_reward_core.data.exports import EXPORTS, PairRow, to_trl
from meta_reward_core.storage.checkpoint_store import Checkpoint
from meta_reward_core.storage.records import PairKind
from meta_reward_core.storage.schemas import SCHEMAS
from meta_reward_core.storage.shards import IterationFiles

_ROWS: Final = 500

Kinds = Sequence[PairKind]


def stream_csv(files: IterationFiles, table: str) -> Iterator[bytes]:
    """Stream a table as CSV with a header."""
    names: list[str] = SCHEMAS[table].names
    yield format_csv([names]).encode()
    for rows in _iter_batches(files, table):
        yield format_csv([row[name] for name in names] for row in rows).encode()


def stream_jsonl(files: IterationFiles, kinds: Kinds, *, format_name: str) -> Iterator[bytes]:
    """Stream pairs in another tool's format, one JSON object per line."""
    export = EXPORTS[format_name]
    for kind in kinds:
        for rows in _iter_batches(files, f"{kind}_pairs"):
            lines = [json.dumps(row, ensure_ascii=False) for row in export(_to_pair_rows(rows))]
            yield "".join(f"{line}\n" for line in lines).encode()


def stream_parquet(files: IterationFiles, kinds: Kinds) -> Iterator[bytes]:
    """Stream pairs as one Parquet file with the columns of TRL's DPOTrainer."""
    sink = _StreamBuffer()
    schema = pa.schema([field for field in SCHEMAS["actor_pairs"] if field.name in _DPO_COLUMNS])
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        for kind in kinds:
            for rows in _iter_batches(files, f"{kind}_pairs"):
                made = list(to_trl(_to_pair_rows(rows)))
                writer.write_table(pa.Table.from_pylist(made, schema=schema))
                yield sink.take_written()
    yield sink.take_written()


_DPO_COLUMNS: Final = (
    "prompt", "chosen", "rejected", "kind", "iteration", "prompt_id",
    "score_chosen", "score_rejected",
)  # fmt: skip


def stream_zip(checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[bytes]:
    """Stream the files of a model as an uncompressed ZIP archive: weights hardly compress."""
    sink = _StreamBuffer()
    with zipfile.ZipFile(cast(Any, sink), "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(f"checkpoint/{name}")
            with archive.open(entry, "w", force_zip64=True) as target:
                for chunk in checkpoint.iter_chunks(name):
                    target.write(chunk)
                    yield sink.take_written()
    yield sink.take_written()


def _iter_batches(files: IterationFiles, table: str) -> Iterator[list[Mapping[str, Any]]]:
    for part in files.list_partition_numbers(table):
        for batch in files.read(table, part).to_batches(max_chunksize=_ROWS):
            yield batch.to_pylist()


def _to_pair_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[PairRow]:
    for row in rows:
        yield cast(PairRow, row)


class _StreamBuffer(io.RawIOBase):
    """A write-only buffer that a stream drains; it cannot seek."""

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

    def take_written(self) -> bytes:
        """Return the bytes written since the last call."""
        taken, self._waiting = b"".join(self._waiting), []
        return taken
