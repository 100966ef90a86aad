"""Check the unpacked size of an uploaded Parquet file, in a process with memory and time limits.

python -m webapp.experiment_form.parquet_check FILE MAX_ROWS MAX_BYTES

A file of 400 bytes can contain one row with a list of a million long texts, and its metadata may
state a wrong size. Therefore the complete file is first unpacked here, under operating-system
limits and without loading any code of the site.
"""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from meta_reward_core.data.prompt_formats import MAX_COLUMNS

TOO_LARGE: Final = 3
UNREADABLE: Final = 4

_BATCH_ROWS: Final = 16
_CPU_SECONDS: Final = 20
_OWN_BYTES: Final = 2**30


def main(path: Path, *, max_rows: int, max_bytes: int) -> int:
    """Read the whole file; return an exit code, with a reason on standard error."""
    memory = _OWN_BYTES + 2 * max_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    try:
        meta = pq.read_metadata(path)
        declared = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        too_wide = meta.num_columns > MAX_COLUMNS
        if too_wide or meta.num_rows > max_rows or declared > max_bytes:
            return TOO_LARGE
        size = 0
        for part in _iter_unpacked_bytes(path):
            size += part
            if size > max_bytes:
                return TOO_LARGE
    except (MemoryError, pa.ArrowMemoryError):
        return TOO_LARGE
    except (pa.ArrowException, OSError) as error:
        sys.stderr.write(str(error))
        # A failed allocation inside a decoder is reported as a read error.
        return TOO_LARGE if "alloc" in str(error) else UNREADABLE
    return 0


def _iter_unpacked_bytes(path: Path) -> Iterator[int]:
    """Yield the bytes of each batch of each column; repeated texts are counted but not unpacked."""
    texts = [field.name for field in pq.read_schema(path) if _is_text(field.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            yield from (_count_bytes(column) for column in batch.columns)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _count_bytes(column: Any) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    return int(pc.sum(lengths).as_py() or 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), max_rows=int(sys.argv[2]), max_bytes=int(sys.argv[3])))
