"""The index of an iteration: every prompt with its metrics as columns, in memory.

It is assembled from index parts, one for each partition of the iteration. Missing parts are built
within a time budget, so that a page loads quickly and shows the progress.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from django.conf import settings

from meta_reward_core.method.pairing import (
    DropReason,
    FloatArray,
    IntArray,
    LengthUnit,
    Mask,
    ScoreGrid,
)
from meta_reward_core.method.what_if import REASONS, JudgedGrid
from meta_reward_core.storage.records import PairKind
from webapp.experiments.files import open_experiment_files
from webapp.results.index_parts import (
    INDEX_PART_SCHEMA,
    IndexPartInputs,
    build_index_part,
    compute_index_part_key,
    read_index_part,
    save_index_part,
)
from webapp.results.iteration_reader import OpenIteration

_MAX_HELD: Final = 8
_BUDGET_SECONDS: Final = 1.5

_PAIR_COLUMNS: Final[dict[PairKind, tuple[str, ...]]] = {
    "actor": ("chosen_response_id", "rejected_response_id"),
    "judge": ("response_id", "chosen_judgment_id", "rejected_judgment_id"),
}
KINDS: Final[tuple[PairKind, ...]] = ("actor", "judge")


@dataclass(frozen=True, slots=True)
class StoredPairs:
    """The stored pairs of one kind of an iteration.

    Attributes:
        scheduled: whether the iteration trains on this kind of pairs.
        made: whether the pairs have been selected.
        paired: [prompts] whether there is a pair.
        reason: [prompts] index into `REASONS`, for prompts without a pair.
        pairs: by prompt id, the chosen and the rejected id, and their scores.
    """

    scheduled: bool
    made: bool
    paired: Mask
    reason: npt.NDArray[np.intp]
    pairs: Mapping[str, Mapping[str, Any]]

    def get_reason(self, row: int) -> DropReason | None:
        """Return why a prompt has no pair; None if it has one, or pairs are not selected yet."""
        return None if not self.made or self.paired[row] else REASONS[self.reason[row]]


@dataclass(frozen=True)
class IterationIndex:
    """The prompts of an iteration with all columns for lists and what-if.

    Attributes:
        rows: the index parts, one row for each prompt.
        kinds: the stored pairs, by kind.
        min_valid_judgments: minimum number of scored judgments per response, from the recipe.
    """

    rows: pa.Table
    kinds: Mapping[PairKind, StoredPairs]
    min_valid_judgments: int
    length_unit: LengthUnit

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @cached_property
    def prompt_ids(self) -> list[str]:
        """Prompt ids in row order."""
        ids: list[str] = self.rows["prompt_id"].to_pylist()
        return ids

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each prompt id."""
        return {prompt_id: row for row, prompt_id in enumerate(self.prompt_ids)}

    @cached_property
    def judged(self) -> JudgedGrid:
        """The inputs of the pairing rules."""
        return _build_judged_grid(self)

    @cached_property
    def actor_positions(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Positions of each prompt's chosen and rejected response; 0 without a pair."""
        return _find_positions(self, "chosen_response_id"), _find_positions(
            self, "rejected_response_id"
        )

    @cached_property
    def scored(self) -> Mask:
        """Mask of scored responses by the recipe, shape [prompts, positions]."""
        enough: Mask = self.judged.grid.scored & (self.judged.valid >= self.min_valid_judgments)
        return enough

    def get_counts(self, column: str) -> IntArray:
        """Return a column of counts; missing values are 0."""
        return self._counts[column]

    @cached_property
    def _counts(self) -> dict[str, IntArray]:
        names = [field.name for field in INDEX_PART_SCHEMA if field.type == pa.int64()]
        return {name: _to_numpy(self.rows[name], np.int64) for name in names}

    @cached_property
    def folded(self) -> pa.Array:
        """Case-folded texts for searching."""
        return pa.array([text.casefold() for text in self.rows["text"].to_pylist()], pa.string())

    @cached_property
    def mean(self) -> FloatArray:
        """Mean score of each prompt's responses; NaN if none is scored."""
        return _compute_masked_mean(self.judged.grid.mean, self.scored)

    @cached_property
    def length(self) -> FloatArray:
        """Mean length of each prompt's responses, in characters; NaN without a response."""
        return _compute_masked_mean(self.judged.grid.chars.astype(np.float64), self.is_response)

    @cached_property
    def gap(self) -> FloatArray:
        """Highest minus lowest score of each prompt; NaN if none is scored."""
        mean, scored = self.judged.grid.mean, self.scored
        top = mean.max(axis=1, where=scored, initial=-np.inf)
        bottom = mean.min(axis=1, where=scored, initial=np.inf)
        known = scored.any(axis=1)
        return np.where(known, np.where(known, top, 0.0) - np.where(known, bottom, 0.0), np.nan)

    @cached_property
    def variance(self) -> FloatArray:
        """Largest score variance among each prompt's responses; NaN if none is scored."""
        largest = self.judged.variance.max(axis=1, where=self.scored, initial=0.0)
        return np.where(self.scored.any(axis=1), largest, np.nan)

    @cached_property
    def true_quality(self) -> FloatArray | None:
        """Grades by the ground truth, shape [prompts, positions]; NaN where there is none.

        None if no response is graded.
        """
        grades = _flatten(self.rows["true_quality"])
        if grades.null_count == len(grades):
            return None
        grid = np.full(self.is_response.shape, np.nan)
        grid[self.is_response] = grades.to_numpy(zero_copy_only=False)
        return grid

    @cached_property
    def is_response(self) -> Mask:
        """Mask of positions that contain a response, shape [prompts, positions]."""
        counted = np.diff(_get_offsets(self.rows["response_id"]))
        return np.arange(_compute_width(counted))[None, :] < counted[:, None]


def _find_positions(index: IterationIndex, column: str) -> npt.NDArray[np.intp]:
    pairs = index.kinds["actor"].pairs
    ids = [pairs.get(prompt_id, {}).get(column) for prompt_id in index.prompt_ids]
    listed = index.rows["response_id"].to_pylist()
    return np.array(
        [0 if one is None else among.index(one) for one, among in zip(ids, listed, strict=True)],
        dtype=np.intp,
    )


def _compute_masked_mean(values: FloatArray, mask: Mask) -> FloatArray:
    count = mask.sum(axis=1)
    total = values.sum(axis=1, where=mask)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True, slots=True)
class ReadProgress:
    """How much of an iteration has been read.

    Attributes:
        parts: number of parts of the iteration so far.
        read: number of parts that have been read.
    """

    read: int
    parts: int

    @property
    def is_whole(self) -> bool:
        """Whether all available files have been read."""
        return self.read == self.parts


_lock = threading.Lock()
_whole: OrderedDict[tuple[str, UUID, int], tuple[str, IterationIndex]] = OrderedDict()


def find_index(
    opened: OpenIteration, *, budget_seconds: float = _BUDGET_SECONDS
) -> tuple[IterationIndex, ReadProgress]:
    """Assemble an iteration's index within the time limit.

    Raises:
        ArtifactError: a file is gone or differs from its manifest.
    """
    experiment = opened.experiment
    place = (experiment.artifact_root, experiment.uuid, opened.number)
    parts = opened.files.list_partition_numbers("prompts")
    with _lock:
        known = _whole.get(place)
        if known is not None and known[0] == opened.state:
            _whole.move_to_end(place)
            return known[1], ReadProgress(len(parts), len(parts))
    pieces = _find_index_parts(opened, parts, deadline=time.monotonic() + budget_seconds)
    index = _assemble_index(opened, pieces)
    if len(pieces) == len(parts):
        with _lock:
            _whole[place] = (opened.state, index)
            while len(_whole) > _MAX_HELD:
                _whole.popitem(last=False)
    return index, ReadProgress(len(pieces), len(parts))


def build_index_parts(opened: OpenIteration) -> int:
    """Build the missing index parts in advance; return their number.

    Raises:
        ArtifactError: a file is gone or differs from its manifest.
    """
    facts = _make_part_inputs(opened)
    made = 0
    for part in opened.files.list_partition_numbers("prompts"):
        path = _get_index_part_path(opened, part, compute_index_part_key(opened.files, part, facts))
        if not path.exists():
            save_index_part(path, build_index_part(opened.files, part, facts))
            made += 1
    return made


def _find_index_parts(
    opened: OpenIteration, parts: Sequence[int], *, deadline: float
) -> list[pa.Table]:
    """Yield index parts in order until the time limit; at least one part is built."""
    facts = _make_part_inputs(opened)
    pieces: list[pa.Table] = []
    has_made = False
    for part in parts:
        path = _get_index_part_path(opened, part, compute_index_part_key(opened.files, part, facts))
        piece = read_index_part(path)
        if piece is None:
            if has_made and time.monotonic() > deadline:
                break
            has_made = True
            piece = build_index_part(opened.files, part, facts)
            save_index_part(path, piece)
        pieces.append(piece)
    return pieces


def _get_index_part_path(opened: OpenIteration, part: int, key: str) -> Path:
    """Return the scratch path of an index part; no experiment can have its folder's name."""
    root = Path(settings.META_REWARD_SCRATCH_ROOT) / ".results"
    layout = open_experiment_files(opened.experiment).layout
    return layout.get_scratch(root, opened.number) / f"part-{part:05d}.{key[:32]}.arrow"


def _make_part_inputs(opened: OpenIteration) -> IndexPartInputs:
    manifest = opened.files.find_manifest("pair_judge")
    return IndexPartInputs(
        recipe=opened.recipe,
        seed=opened.experiment.seed,
        weights=opened.weights,
        ratings=opened.files.read("ratings"),
        ratings_key=manifest.key if manifest else None,
    )


def _assemble_index(opened: OpenIteration, pieces: Sequence[pa.Table]) -> IterationIndex:
    rows = pa.concat_tables(pieces).combine_chunks() if pieces else INDEX_PART_SCHEMA.empty_table()
    ids: list[str] = rows["prompt_id"].to_pylist()
    recipe = opened.recipe
    return IterationIndex(
        rows=rows,
        kinds={kind: _read_stored_pairs(opened, kind, ids) for kind in KINDS},
        min_valid_judgments=recipe.judge.min_valid_judgments,
        length_unit=recipe.pairing.length_unit,
    )


def _read_stored_pairs(opened: OpenIteration, kind: PairKind, ids: Sequence[str]) -> StoredPairs:
    columns = ("prompt_id", "score_chosen", "score_rejected", *_PAIR_COLUMNS[kind])
    found = opened.files.read(f"{kind}_pairs", columns=columns).to_pylist()
    pairs = {row["prompt_id"]: row for row in found}
    dropped = {
        row["prompt_id"]: REASONS.index(DropReason(row["reason"]))
        for row in opened.files.read("dropped").to_pylist()
        if row["kind"] == kind
    }
    return StoredPairs(
        scheduled=opened.recipe.trains_on(kind, opened.number),
        made=opened.is_made(f"pair_{kind}"),
        paired=np.array([prompt_id in pairs for prompt_id in ids], dtype=bool),
        reason=np.array([dropped.get(prompt_id, 0) for prompt_id in ids], dtype=np.intp),
        pairs=pairs,
    )


def _build_judged_grid(index: IterationIndex) -> JudgedGrid:
    rows = index.rows
    counted = np.diff(_get_offsets(rows["response_id"]))
    is_response = np.arange(_compute_width(counted))[None, :] < counted[:, None]

    def make_grid(column: str, dtype: Any) -> Any:
        grid = np.zeros(is_response.shape, dtype=dtype)
        grid[is_response] = _to_numpy(_flatten(rows[column]), dtype)
        return grid

    ids = _build_text_grid(rows["response_id"], is_response)
    scored = np.zeros(is_response.shape, dtype=bool)
    scored[is_response] = _flatten(rows["mean"]).is_valid().to_numpy(zero_copy_only=False)
    battled_ids = rows["battled_response_id"].to_numpy(zero_copy_only=False)
    return JudgedGrid(
        prompt_ids=index.prompt_ids,
        grid=ScoreGrid.from_columns(
            scored=scored,
            mean=make_grid("mean", np.float64),
            chars=make_grid("length_chars", np.int64),
            tokens=make_grid("length_tokens", np.int64),
            sample=make_grid("sample", np.int64),
            finish_reason=_build_text_grid(rows["finish_reason"], is_response),
            length_unit=index.length_unit,
        ),
        variance=make_grid("variance", np.float64),
        valid=make_grid("valid", np.int64),
        fields=make_grid("fielded", np.int64) >= 2,
        calls=make_grid("calls", np.int64),
        battled=is_response & (ids == battled_ids[:, None]),
        judge_paired=rows["chosen_judgment_chars"].is_valid().to_numpy(),
        judge_reason=np.array(
            [
                REASONS.index(DropReason(reason)) if reason is not None else 0
                for reason in rows["judge_reason"].to_pylist()
            ],
            dtype=np.intp,
        ),
        chosen_judgment_chars=index.get_counts("chosen_judgment_chars"),
        rejected_judgment_chars=index.get_counts("rejected_judgment_chars"),
    )


def _compute_width(counted: npt.NDArray[Any]) -> int:
    return int(counted.max(initial=0))


def _get_offsets(column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """Return the offsets of each row's list in the flat column, with the final end."""
    lists = _combine_chunks(column)
    offsets: npt.NDArray[np.int32] = lists.offsets.to_numpy()
    return offsets


def _flatten(column: pa.ChunkedArray) -> pa.Array:
    return _combine_chunks(column).flatten()


def _combine_chunks(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _to_numpy(column: Any, dtype: Any) -> npt.NDArray[Any]:
    filled: npt.NDArray[Any] = column.fill_null(0).to_numpy().astype(dtype)
    return filled


def _build_text_grid(column: pa.ChunkedArray, is_response: Mask) -> npt.NDArray[Any]:
    grid = np.full(is_response.shape, None, dtype=object)
    grid[is_response] = _flatten(column).to_numpy(zero_copy_only=False)
    return grid
