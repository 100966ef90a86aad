"""Measure training rows before TRL reads them, so that none is silently truncated or dropped."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import pyarrow
from pyarrow.parquet import ParquetWriter, read_metadata

from meta_reward_core.errors import TrainingError
from meta_reward_core.training.resume import sync_folder
from meta_reward_core.training.row_encoding import TOO_LONG, EncodedRow, RowEncoder
from meta_reward_core.training.row_types import RowIterable, TokenSources, TrainingRow

TRAIN_FILE: Final = "train.parquet"
VALIDATION_FILE: Final = "held_out.parquet"
_COUNTS_FILE: Final = "sorted.json"
_BATCH_ROWS: Final = 256


class RefusedRow(NamedTuple):
    """A row that is not trained on, with the reason."""

    prompt_id: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class TrainerColumns:
    """Input of TRL's trainer: columns, and the values of a row."""

    schema: pyarrow.Schema
    columns: Callable[[EncodedRow], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RowSplit:
    """Number of rows of each kind. Rows in = trained + held out + refused."""

    trained: int
    held_out: int
    refused: list[RefusedRow]
    tokens: TokenSources = field(default_factory=TokenSources)


def split_rows(
    rows: RowIterable[TrainingRow],
    encoder: RowEncoder,
    *,
    folder: Path,
    form: TrainerColumns,
    max_length: int,
    max_refused_share: float,
    validation_share: float,
) -> RowSplit:
    """Refuse unusable rows, and hold out prompts for validation.

    The remaining rows are written to the files `TRAIN_FILE` and `VALIDATION_FILE` of a folder, in
    batches. Rows that this job has already split, in another process or before a kill, are not
    split again.

    Args:
        folder: a folder of this job only; another job's files were removed from it.

    Raises:
        TrainingError: more than `max_refused_share` of the rows are refused, or no row is left.
    """
    before = _read_existing_split(folder)
    if before is not None:
        return before
    refused: list[RefusedRow] = []
    longest = 0
    kinds, sources = Counter[str](), Counter[str]()
    with (
        _RowWriter(folder / TRAIN_FILE, form) as trained,
        _RowWriter(folder / VALIDATION_FILE, form) as held_out,
    ):
        for encoded in encoder.encode(rows):
            row = encoded.row
            kinds[row["kind"]] += 1
            reason = encoded.find_refusal(max_length=max_length)
            if reason is not None:
                refused.append(RefusedRow(row["prompt_id"], row["kind"], reason))
                longest = max(longest, encoded.length) if reason == TOO_LONG else longest
                continue
            sources.update(_list_sources(encoded))
            if is_held_out(row["prompt_id"], share=validation_share):
                held_out.write(encoded)
            else:
                trained.write(encoded)
    if kinds.total() != len(rows):
        raise TrainingError(f"Only {kinds.total()} of {len(rows)} rows could be read.")
    _check_enough(kinds, trained.count, refused, max_refused_share, longest=longest)
    found = RowSplit(trained.count, held_out.count, refused, TokenSources(**sources))
    sync_folder(folder)  # the note below must be reliable after a power failure
    (folder / _COUNTS_FILE).write_text(json.dumps(asdict(found)), encoding="utf-8")
    return found


def load_split(folder: Path) -> RowSplit:
    """Load what `split_rows` wrote into a folder.

    Raises:
        TrainingError: a file is missing or damaged.
    """
    found = _read_existing_split(folder)
    if found is None:
        raise TrainingError(f"The training rows in {folder} are incomplete. Restart the training.")
    return found


def _read_existing_split(folder: Path) -> RowSplit | None:
    """Return the result of an earlier call if it is complete."""
    try:
        values = json.loads((folder / _COUNTS_FILE).read_text(encoding="utf-8"))
        counts = [read_metadata(folder / name).num_rows for name in (TRAIN_FILE, VALIDATION_FILE)]
    except (OSError, ValueError):
        return None
    refused = [RefusedRow(*row) for row in values["refused"]]
    tokens = values["tokens"]
    if "drawn" in tokens:  # written by version 0.2.0 or earlier
        tokens = {**tokens, "sampled": tokens.pop("drawn")}
    sources = TokenSources(**tokens)
    found = RowSplit(values["trained"], values["held_out"], refused, sources)
    return found if counts == [found.trained, found.held_out] else None


class _RowWriter:
    """Writes rows for TRL to a Parquet file, a few of them in memory at a time."""

    def __init__(self, path: Path, form: TrainerColumns) -> None:
        self.count = 0
        self._form = form
        self._file = ParquetWriter(path, form.schema)
        self._waiting: list[dict[str, Any]] = []

    def write(self, row: EncodedRow) -> None:
        self.count += 1
        self._waiting.append(self._form.columns(row))
        if len(self._waiting) == _BATCH_ROWS:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._waiting:
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        self._file.write_table(pyarrow.Table.from_pylist(self._waiting, self._form.schema))
        self._waiting = []


def _list_sources(encoded: EncodedRow) -> list[str]:
    """Return the fields of `TokenSources` in which a row is counted."""
    facts = {
        "sampled": encoded.is_sampled,
        "not_canonical": not encoded.is_canonical,
        "rewritten": encoded.is_rewritten,
    }
    return [name for name, holds in facts.items() if holds]


def is_held_out(prompt_id: str, *, share: float) -> bool:
    """Whether a prompt belongs to the validation set: the same in every run and iteration."""
    digest = hashlib.sha256(prompt_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def hash_rows(rows: RowIterable[TrainingRow]) -> str:
    """Hash the ordered rows; training on equal rows has the same hash."""
    total = hashlib.sha256()
    for row in rows:
        total.update(repr(sorted(row.items())).encode() + b"\n")
    return total.hexdigest()


def _check_enough(
    kinds: Counter[str],
    trained: int,
    refused: Sequence[RefusedRow],
    max_refused_share: float,
    *,
    longest: int,
) -> None:
    """Stop before a model is loaded if too few rows remain, with advice.

    Args:
        longest: number of tokens of the longest row that exceeds `max_length`; 0 if there is none.
    """
    remedy = (
        f" Set training.max_length to {longest:,} to train on all of them; generated tables are "
        "kept."
        if longest
        else ""
    )
    if len(refused) > max_refused_share * kinds.total():
        raise TrainingError(
            f"{len(refused)} of {kinds.total()} rows cannot be trained on, more than the allowed "
            f"share of {max_refused_share:g} (training.max_refused_share): "
            f"{_describe_refusals(refused, kinds)}.{remedy}"
        )
    if not trained:
        raise TrainingError(f"None of the {kinds.total()} rows can be used for training.{remedy}")


def _describe_refusals(refused: Sequence[RefusedRow], kinds: Counter[str]) -> str:
    """Describe refused rows by kind and reason, with the total of each kind."""
    reasons = Counter((row.kind, row.reason) for row in refused)
    parts = (
        f"{count} of {kinds[kind]} {kind} rows {reason}"
        for (kind, reason), count in sorted(reasons.items())
    )
    return ", ".join(parts)
