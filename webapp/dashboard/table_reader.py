"""Columns of an iteration's tables for charts, read partition by partition.

A partition never changes under its hash, so its columns are cached in the process: only new shards
are read, and a page with 35,000 cached responses reads nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.errors import ArtifactError, DamagedArtifactError
from meta_reward_core.evaluation.judge_metrics import BIN_WIDTH, HISTOGRAM_BINS
from meta_reward_core.reporting.summary import LogRow, drop_rounding_rows
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.schemas import read_parquet
from meta_reward_core.storage.shards import IterationFiles

Numbers = npt.NDArray[np.float64]
_PARTS_KEPT: Final = 4096
_VARIANCE_WIDTH: Final = 0.25


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """Scores by bin of `HISTOGRAM_BINS`, their sum, and whether all are whole numbers."""

    bins: Sequence[int]
    are_whole: bool
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        """Mean of the scores; None without any."""
        count = sum(self.bins)
        return self.total / count if count else None


class TableReader:
    """The tables of one iteration, from its finished shards."""

    def __init__(self, files: IterationFiles) -> None:
        self._root, self._folder = files.store.root, files.folder
        self._files = files

    def read_score_counts(self) -> ScoreCounts:
        """Count the judge's scores in each bin of `HISTOGRAM_BINS`."""
        found = [_count_scores(*known) for known in self._list_parts("judgments")]
        return ScoreCounts(
            _add_counts([one.bins for one in found], len(HISTOGRAM_BINS)),
            all(one.are_whole for one in found),
            sum(one.total for one in found),
        )

    def read_variances(self) -> Numbers:
        """Return the score variance of each scored response."""
        return _concatenate([_read_variances(*known) for known in self._list_parts("scores")])

    def read_lengths(self, kind: str, side: str) -> Numbers:
        """Return the characters of the chosen or rejected text of each pair of a kind."""
        return _concatenate(
            [_read_lengths(*known, side) for known in self._list_parts(f"{kind}_pairs")]
        )

    def read_elo_spreads(self) -> Numbers:
        """Return highest minus lowest rating of each response whose judgments battled, in nats."""
        return _concatenate([_read_elo_spreads(*known) for known in self._list_parts("ratings")])

    def read_training_log(self) -> list[LogRow]:
        """Return the metrics of the training: step, metric, value."""
        return [
            row for known in self._list_parts("training_log") for row in _read_training_log(*known)
        ]

    def _list_parts(self, table: str) -> list[tuple[str, str, str]]:
        return [
            (self._root, f"{self._folder}/{part.path}", part.sha256)
            for part in self._files.list_partitions(table)
        ]


@lru_cache(maxsize=256)
def find_kept_epoch(root: str, folder: str, model: str, step: int) -> float | None:  # noqa: ARG001
    """Find the epoch of the step whose weights were kept.

    Args:
        model: hash of the trained model, which identifies the training.
    """
    try:
        log = IterationFiles(ArtifactStore(root), folder).read("training_log")
    except ArtifactError:
        return None
    epochs = log.filter(pc.equal(log["step"], step))["epoch"].to_pylist()
    return epochs[-1] if epochs else None


@lru_cache(maxsize=_PARTS_KEPT)
def _count_scores(root: str, path: str, sha256: str) -> ScoreCounts:
    scores = _read_column(root, path, sha256, "score")
    bins = np.floor(scores / BIN_WIDTH).astype(np.int64)
    counts = tuple(np.bincount(bins, minlength=len(HISTOGRAM_BINS)).tolist())
    are_whole = bool(np.all(scores == np.round(scores)))
    return ScoreCounts(counts, are_whole, float(scores.sum()))


@lru_cache(maxsize=_PARTS_KEPT)
def _read_variances(root: str, path: str, sha256: str) -> Numbers:
    return _read_column(root, path, sha256, "variance")


@lru_cache(maxsize=_PARTS_KEPT)
def _read_lengths(root: str, path: str, sha256: str, side: str) -> Numbers:
    messages = _read_columns(root, path, sha256, [side])[side]
    texts = pc.struct_field(pc.list_element(messages, 0), "content")
    return _to_numbers(pc.utf8_length(texts))


@lru_cache(maxsize=_PARTS_KEPT)
def _read_elo_spreads(root: str, path: str, sha256: str) -> Numbers:
    rows = _read_columns(root, path, sha256, ["prompt_id", "response_id", "elo"])
    ends = rows.group_by(["prompt_id", "response_id"]).aggregate([("elo", "max"), ("elo", "min")])
    return _to_numbers(pc.subtract(ends["elo_max"], ends["elo_min"]))


@lru_cache(maxsize=256)
def _read_training_log(root: str, path: str, sha256: str) -> tuple[LogRow, ...]:
    rows = _read_columns(root, path, sha256, ["step", "metric", "value"]).to_pydict()
    return tuple(drop_rounding_rows(zip(rows["step"], rows["metric"], rows["value"], strict=True)))


def _read_column(root: str, path: str, sha256: str, name: str) -> Numbers:
    return _to_numbers(_read_columns(root, path, sha256, [name])[name])


def _read_columns(root: str, path: str, sha256: str, columns: list[str]) -> pa.Table:
    """Read some columns of a partition.

    Raises:
        DamagedArtifactError: it is missing, being recomputed, or not Parquet with these columns.
    """
    store = ArtifactStore(root)
    try:
        source = store.get_local_path(path) if store.is_local else store.read(path)
        return read_parquet(source, columns)
    except (pa.ArrowException, OSError, KeyError, ArtifactError) as error:
        raise DamagedArtifactError(f"{path} ({sha256[:12]}) cannot be read: {error}") from error


def _to_numbers(values: pa.ChunkedArray) -> Numbers:
    """Return the known values."""
    known: Numbers = pc.drop_null(values).to_numpy().astype(np.float64)
    return known


def _concatenate(parts: Sequence[Numbers]) -> Numbers:
    return np.concatenate(parts) if parts else np.zeros(0)


def _add_counts(counts: Sequence[Sequence[int]], length: int) -> list[int]:
    return [sum(one[place] for one in counts) for place in range(length)]
