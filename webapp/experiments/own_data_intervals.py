"""95% intervals of the metrics of an iteration's own data, clustered by prompt.

The summary of an iteration holds totals. Here, the tables are read again, column by column and
without their texts, because the responses and judgments of one prompt depend on each other.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.errors import ArtifactError
from meta_reward_core.evaluation.clustered_intervals import compute_clustered_mean_interval
from meta_reward_core.evaluation.confidence_intervals import Interval
from meta_reward_core.evaluation.judge_metrics import BIN_WIDTH, HISTOGRAM_BINS
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.schemas import read_parquet
from meta_reward_core.storage.shards import IterationFiles
from webapp.experiments.files import open_experiment_files
from webapp.experiments.models import Experiment, Iteration, RunStatus

_Numbers = npt.NDArray[np.float64]
_Groups = npt.NDArray[np.int64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OwnDataInterval:
    """The interval of a metric, and the number of prompts behind it."""

    interval: Interval
    prompts: int


OwnData = Mapping[str, OwnDataInterval]
"""By path in an iteration's summary; of pairs, `pairs.<kind>.<metric>`."""


def read_own_data_intervals(
    experiment: Experiment, iterations: Iterable[Iteration]
) -> dict[int, OwnData]:
    """Return the intervals of completed iterations by number; empty where tables are missing."""
    files = open_experiment_files(experiment)
    return {
        row.number: _read_intervals(
            files.store.root, files.get_iteration(row.number).folder, row.model_out
        )
        for row in iterations
        if row.status == RunStatus.FINISHED and row.model_out and row.metrics
    }


def list_own_intervals(own: Mapping[int, OwnData], path: str) -> dict[float, Interval]:
    """Return the intervals of a metric by the model that generated the data, M_{t-1}."""
    return {
        float(number - 1): known[path].interval for number, known in own.items() if path in known
    }


@lru_cache(maxsize=512)
def _read_intervals(root: str, folder: str, model: str) -> OwnData:  # noqa: ARG001 part of the key
    """Read with a cache: the tables of a completed iteration do not change."""
    tables = _Tables(IterationFiles(ArtifactStore(root), folder))
    try:
        found = [
            *_iter_score_metrics(tables.read("scores", ["prompt_id", "mean", "length_chars"])),
            *_iter_judgment_metrics(tables.read("judgments", ["prompt_id", "score"])),
            *_iter_battle_metrics(tables),
            *_iter_pair_metrics(tables),
        ]
    except (ArtifactError, pa.ArrowException, OSError, KeyError) as error:
        _log.warning("cannot compute intervals of %s: %s", folder, error)
        return {}
    return {name: known for name, known in found if known is not None}


_Found = Iterator[tuple[str, OwnDataInterval | None]]


@dataclass(frozen=True, slots=True)
class _Tables:
    """The tables of an iteration, without the check of their hashes, which reads all texts."""

    files: IterationFiles

    def read(self, name: str, columns: Sequence[str]) -> pa.Table:
        store = self.files.store
        parts = []
        for part in self.files.list_partitions(name):
            path = f"{self.files.folder}/{part.path}"
            source = store.get_local_path(path) if store.is_local else store.read(path)
            parts.append(read_parquet(source, columns))
        return pa.concat_tables(parts) if parts else pa.table({one: [] for one in columns})


def _iter_score_metrics(scores: pa.Table) -> _Found:
    if not scores.num_rows:
        return
    prompts = _group(scores["prompt_id"])
    yield "response_chars", _estimate(_to_numbers(scores["length_chars"]), prompts)
    known = _to_numbers(scores["mean"])
    is_scored = ~np.isnan(known)
    means, lengths = known[is_scored], _to_numbers(scores["length_chars"])[is_scored]
    if len(set(means)) > 1 and len(set(lengths)) > 1:
        linear = _linearize_correlation(_rank(means), _rank(lengths))
        yield "score_length_correlation", _estimate(linear, prompts[is_scored])


def _iter_judgment_metrics(judgments: pa.Table) -> _Found:
    if not judgments.num_rows:
        return
    prompts = _group(judgments["prompt_id"])
    scores = _to_numbers(judgments["score"])
    is_scored = ~np.isnan(scores)
    yield "judge.parse_rate", _estimate(is_scored.astype(float), prompts, is_share=True)
    scored, prompts = scores[is_scored], prompts[is_scored]
    yield "judge.mean", _estimate(scored, prompts)
    top = HISTOGRAM_BINS[-1]
    if scored.size and scored.min() >= 0 and scored.max() <= top:
        yield (
            "judge.share_at_max",
            _estimate((scored == top).astype(float), prompts, is_share=True),
        )
        yield "judge.entropy_bits", _estimate(_linearize_entropy(scored), prompts)


def _iter_battle_metrics(tables: _Tables) -> _Found:
    sides = ("first_judgment_id", "second_judgment_id")
    battles = tables.read("battles", ["prompt_id", "response_id", *sides, "verdict"])
    if not battles.num_rows:
        return
    prompts = _group(battles["prompt_id"])
    verdicts = np.array(battles["verdict"].to_pylist(), dtype=object)
    is_read = np.array([verdict is not None for verdict in verdicts])
    yield "meta_judge.parse_rate", _estimate(is_read.astype(float), prompts, is_share=True)
    is_decided = np.isin(verdicts.astype(str), ("A", "B"))
    by_first = (verdicts == "A").astype(float)
    yield (
        "meta_judge.won_by_first",
        _estimate(by_first[is_decided], prompts[is_decided], is_share=True),
    )
    judgments = tables.read("judgments", ["judgment_id", "score"])
    first, second = (_look_up(battles[side], judgments) for side in sides)
    is_unequal = is_decided & ~np.isnan(first) & ~np.isnan(second) & (first != second)
    by_higher = ((verdicts == "A") == (first > second)).astype(float)
    yield (
        "meta_judge.won_by_higher_score",
        _estimate(by_higher[is_unequal], prompts[is_unequal], is_share=True),
    )
    yield "meta_judge.inconsistency", _measure_inconsistency(battles, prompts)


def _measure_inconsistency(battles: pa.Table, prompts: _Groups) -> OwnDataInterval | None:
    """Measure how often the two orders of a pair of judgments have different outcomes."""
    outcomes: dict[tuple[str, str, str], tuple[str | None, int]] = {}
    differs: list[float] = []
    groups: list[int] = []
    names = ("response_id", "first_judgment_id", "second_judgment_id", "verdict")
    for at, (response, first, second, verdict) in enumerate(
        zip(*(battles[name].to_pylist() for name in names), strict=True)
    ):
        if verdict is None:
            continue
        winner = {"A": first, "B": second}.get(verdict)
        other = outcomes.get((response, second, first))
        if other is not None:
            differs.append(float(other[0] != winner))
            groups.append(int(prompts[at]))
        outcomes[response, first, second] = (winner, at)
    return _estimate(np.array(differs), np.array(groups, dtype=np.int64), is_share=True)


def _iter_pair_metrics(tables: _Tables) -> _Found:
    dropped = tables.read("dropped", ["kind"])["kind"].to_pylist()
    for kind in ("actor", "judge"):
        made = sum(part.rows for part in tables.files.list_partitions(f"{kind}_pairs"))
        missing = dropped.count(kind)
        has_pair = np.array([1.0] * made + [0.0] * missing)
        prompts = np.arange(made + missing)
        yield f"pairs.{kind}.yield_rate", _estimate(has_pair, prompts, is_share=True)
        for side in ("chosen", "rejected"):
            pairs = tables.read(f"{kind}_pairs", ["prompt_id", side])
            if not pairs.num_rows:
                continue
            texts = pc.struct_field(pc.list_element(pairs[side], 0), "content")
            lengths = _to_numbers(pc.utf8_length(texts))
            yield f"pairs.{kind}.{side}_chars", _estimate(lengths, _group(pairs["prompt_id"]))


def _estimate(
    values: _Numbers, groups: _Groups, *, is_share: bool = False
) -> OwnDataInterval | None:
    """Compute the interval of a mean, clustered by group."""
    if not values.size:
        return None
    sums, sizes = np.bincount(groups, weights=values), np.bincount(groups)
    interval = compute_clustered_mean_interval(sums.tolist(), sizes.tolist(), is_share=is_share)
    return None if interval is None else OwnDataInterval(interval, int((sizes > 0).sum()))


def _linearize_entropy(scores: _Numbers) -> _Numbers:
    """Return the surprise of each score in bits; their mean is the entropy of the histogram."""
    bins = np.floor(scores / BIN_WIDTH).astype(np.int64)
    shares = np.bincount(bins) / len(bins)
    surprise: _Numbers = -np.log2(shares[bins])
    return surprise


def _linearize_correlation(first: _Numbers, second: _Numbers) -> _Numbers:
    """Return values whose mean is the correlation, and whose errors are those of its estimate."""
    x = (first - first.mean()) / first.std()
    y = (second - second.mean()) / second.std()
    correlation = float(np.mean(x * y))
    linear: _Numbers = x * y - correlation * (x**2 + y**2) / 2 + correlation
    return linear


def _rank(values: _Numbers) -> _Numbers:
    """Rank values from 0; equal values share their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: _Numbers = (ends - (counts + 1) / 2)[places]
    return ranks


def _group(names: pa.ChunkedArray) -> _Groups:
    """Number equal names."""
    encoded = pa.array(names.to_pylist(), pa.string()).dictionary_encode()
    groups: _Groups = encoded.indices.to_numpy().astype(np.int64)
    return groups


def _look_up(names: pa.ChunkedArray, judgments: pa.Table) -> _Numbers:
    """Return the scores of judgments by their ids; NaN for those without a score."""
    places = pc.index_in(
        names.combine_chunks(), value_set=judgments["judgment_id"].combine_chunks()
    )
    return _to_numbers(pa.chunked_array([pc.take(judgments["score"].combine_chunks(), places)]))


def _to_numbers(values: pa.ChunkedArray) -> _Numbers:
    """Convert to floats, with NaN where there is none."""
    numbers: _Numbers = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
    return numbers
