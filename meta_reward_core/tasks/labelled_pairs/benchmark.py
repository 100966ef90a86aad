"""Human-labeled pairs: whether the model, as a judge, agrees with human preferences.

The model answers two questions about each pair. As the judge, it scores each output separately, N
times, and the order of the mean scores is compared with the label. As a pairwise judge, which is
similar to the meta-judge, it sees both outputs together, in both orders, and its verdict is
compared with the label.

A tie counts half, so random guessing gets 50%. Unreadable replies are counted and excluded from the
means, and the interval covers both extremes: all of them wrong, and all of them right.

Source of the format: Zeng et al. 2023, arXiv 2310.07641 (LLMBar).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.data.tabular_io import NumberedRow, format_for_message, read_rows
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.alpaca_eval_io import ModelOutput
from meta_reward_core.evaluation.clustered_intervals import compute_clustered_share_interval
from meta_reward_core.evaluation.pairwise_judge import (
    OutputPair,
    PresentedReplies,
    ask_for_verdicts,
    parse_preference,
)
from meta_reward_core.evaluation.score_baselines import (
    FloatArray,
    measure_score_entropy,
    measure_shuffled_scores,
)
from meta_reward_core.evaluation.scorecard import Metric, Scorecard, make_issue_if_any
from meta_reward_core.method.judging import judge_responses
from meta_reward_core.storage.records import Judgment, Response
from meta_reward_core.tasks.protocol import BenchmarkItem, BenchmarkRequest, ItemResult

NAME: Final = "labelled-pairs"
_SUFFIXES: Final = (".json", ".jsonl", ".parquet")
_OUTPUTS: Final = ("output_1", "output_2")

JUDGE: Final = "judge_accuracy"
JUDGE_TIES: Final = "judge_ties"
COMPARISON: Final = "comparison_accuracy"
CONSISTENT: Final = "comparison_consistent"
FIRST: Final = "comparison_prefers_first"
_TITLED: Final = (
    JUDGE,
    "judge_accuracy_without_ties",
    JUDGE_TIES,
    "judge_scored",
    "judge_prefers_longer",
    COMPARISON,
    "comparison_accuracy_better_first",
    "comparison_accuracy_better_second",
    "comparison_read",
    CONSISTENT,
    FIRST,
)
"""Metrics over all items, in reading order."""


class LabelledPairs:
    """The benchmark of the task `labelled-pairs`."""

    def find_obstacle(self) -> str | None:
        """Return None: this benchmark needs nothing but its data."""
        return None

    def read_items(self, data: Path) -> Sequence[BenchmarkItem]:
        """Read a file, or every file of a folder as a subset; see `read_labelled_pairs`."""
        return read_labelled_pairs(data)

    def evaluate(
        self, request: BenchmarkRequest, items: Sequence[BenchmarkItem]
    ) -> Sequence[ItemResult]:
        """Score every output separately, then compare both outputs in both orders."""
        judgments = judge_outputs(request, items)
        replies = compare_outputs(request, items)
        return [*score_judgments(items, judgments), *score_comparisons(items, replies)]

    def score(self, results: Sequence[ItemResult], *, model: str) -> Scorecard:
        """Compute accuracies; see `score_labelled_pairs`."""
        return score_labelled_pairs(results, model=model)


def read_labelled_pairs(path: Path) -> list[BenchmarkItem]:
    """Read rows of `input, output_1, output_2, label` (1 or 2: the better output).

    Args:
        path: a file, or a folder in which each file is a subset with the name of the file.

    Raises:
        EvaluationFileError: a row is incomplete, or there is no row.
    """
    if not path.is_dir():
        return [_parse_item(row, path.stem, n) for n, row in enumerate(read_rows(path), start=1)]
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if not files:
        raise EvaluationFileError(
            f"{path}: contains no file of pairs ({', '.join(_SUFFIXES)}); specify such a "
            f"file, or a folder that contains some"
        )
    return [item for file in files for item in read_labelled_pairs(file)]


def _parse_item(row: NumberedRow, subset: str, number: int) -> BenchmarkItem:
    label = row.values.get("label")
    if isinstance(label, bool) or label not in (1, 2, "1", "2"):
        row.refuse(f"label must be 1 or 2, the better output, not {format_for_message(label)}.")
    prompt = row.read_text("input" if "input" in row.values else "instruction")
    outputs = [row.read_text(name) for name in _OUTPUTS]
    if outputs[0] == outputs[1]:
        row.refuse("both outputs have the same text; remove the pair.")
    named = row.read_optional_text("subset") or subset
    values = {"outputs": outputs, "better": int(label) - 1, "subset": named}
    return BenchmarkItem(f"{named}/{number}", prompt, values)


def judge_outputs(request: BenchmarkRequest, items: Sequence[BenchmarkItem]) -> list[Judgment]:
    """Score both outputs of every item; ids are `item` and `item.0`, `item.1`.

    Raises:
        EngineError: the engine failed as a whole.
    """
    responses = [
        Response(item.item_id, f"{item.item_id}.{side}", side, text, 0, "stop")
        for item in items
        for side, text in enumerate(item.values["outputs"])
    ]
    judgments, _ = judge_responses(
        responses,
        request.engine,
        instructions={item.item_id: item.prompt for item in items},
        template=request.templates.judge,
        rubric=request.templates.rubric,
        max_score=request.max_score,
        samples=request.judgments,
        readout=request.score_readout,
        sampling=request.judge,
        seed=derive_seed(request.seed, "labelled pairs", "judge"),
        progress=request.progress,
    )
    return judgments


def compare_outputs(
    request: BenchmarkRequest, items: Sequence[BenchmarkItem]
) -> list[PresentedReplies]:
    """Compare both outputs of every item in both orders; the better output counts as the model's.

    Raises:
        EngineError: the engine failed as a whole.
    """
    return ask_for_verdicts(
        request.engine,
        [make_output_pair(item) for item in items],
        sampling=replace(request.meta_judge, alternatives=0),
        orders="both",
        samples=1,
        seed=derive_seed(request.seed, "labelled pairs", "compare"),
        progress=request.progress,
    )


def make_output_pair(item: BenchmarkItem) -> OutputPair:
    """Build a pair with the worse output as the baseline's and the better output as the model's."""
    better = item.values["better"]
    outputs = item.values["outputs"]
    return (
        ModelOutput(item.prompt, outputs[1 - better], "worse"),
        ModelOutput(item.prompt, outputs[better], "better"),
    )


def score_judgments(
    items: Sequence[BenchmarkItem], judgments: Sequence[Judgment]
) -> Iterator[ItemResult]:
    """Compare the order of mean scores with the labels."""
    means = _compute_mean_scores(judgments)
    for item in items:
        yield from _score_item(item, [means.get(f"{item.item_id}.{side}") for side in (0, 1)])


def _compute_mean_scores(judgments: Sequence[Judgment]) -> dict[str, float]:
    """Compute the mean of the readable scores of each output."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for judgment in judgments:
        if judgment.score is not None:
            scores[judgment.response_id].append(judgment.score)
    return {name: sum(values) / len(values) for name, values in scores.items()}


def measure_baselines(
    items: Sequence[BenchmarkItem], judgments: Sequence[Judgment]
) -> list[Metric]:
    """Measure the spread of the scores, and the accuracy of shuffled scores."""
    given: defaultdict[str, list[float]] = defaultdict(list)
    for judgment in judgments:
        given[judgment.prompt_id] += [] if judgment.score is None else [judgment.score]

    means = _compute_mean_scores(judgments)
    place = {name: number for number, name in enumerate(means)}
    pairs = [
        [place.get(f"{item.item_id}.{side}", -1) for side in (better, 1 - better)]
        for item in items
        for better in [item.values["better"]]
    ]
    good, bad = np.array([pair for pair in pairs if -1 not in pair], dtype=int).reshape(-1, 2).T

    def compute_accuracy(scores: FloatArray) -> FloatArray:
        if not len(good):
            return np.full(len(scores), np.nan)
        differences = np.sign(scores[:, good] - scores[:, bad])
        accuracies: FloatArray = (differences + 1).mean(axis=1) / 2
        return accuracies

    return [
        measure_score_entropy(given),
        measure_shuffled_scores(
            f"{JUDGE}_of_shuffled_scores", list(means.values()), compute_accuracy
        ),
    ]


def _score_item(item: BenchmarkItem, means: Sequence[float | None]) -> Iterator[ItemResult]:
    first, second = means
    yield _make_result(item, "judge_scored", float(first is not None and second is not None))
    if first is None or second is None:
        yield from _make_subset_results(item, JUDGE, None)
        return
    better = item.values["better"]
    difference = (first - second) * (1 if better == 0 else -1)
    yield from _make_subset_results(item, JUDGE, _to_credit(difference))
    yield _make_result(item, JUDGE_TIES, float(difference == 0))
    if difference != 0:
        yield _make_result(item, "judge_accuracy_without_ties", float(difference > 0))
    lengths = [len(output) for output in item.values["outputs"]]
    if lengths[0] != lengths[1] and first != second:
        prefers_longer = (first > second) == (lengths[0] > lengths[1])
        yield _make_result(item, "judge_prefers_longer", float(prefers_longer))


def _to_credit(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def score_comparisons(
    items: Sequence[BenchmarkItem], replies: Sequence[PresentedReplies]
) -> Iterator[ItemResult]:
    """Compare the verdicts of both orders with the labels."""
    found: defaultdict[int, dict[bool, float | None]] = defaultdict(dict)
    for showing, (completion,) in replies:
        preference = None
        if completion.finish_reason != "refused":
            preference = parse_preference(
                completion.text,
                baseline_first=showing.baseline_first,
                is_cut_off=completion.finish_reason == "length",
            )
        found[showing.pair][not showing.baseline_first] = (
            None if preference is None else preference - 1.0
        )
    for number, item in enumerate(items):
        yield from _score_orders(item, found[number])


def _score_orders(item: BenchmarkItem, credit: dict[bool, float | None]) -> Iterator[ItemResult]:
    """Compute credits of 0, 0.5 and 1, grouped by whether the better output was shown first."""
    for better_first, value in credit.items():
        side = "first" if better_first else "second"
        yield _make_result(item, f"comparison_accuracy_better_{side}", value)
        if value is not None and value != 0.5:
            first_won = (value == 1.0) == better_first
            yield _make_result(item, FIRST, float(first_won), part=int(better_first))
    known = [value for value in credit.values() if value is not None]
    is_read = len(known) == len(credit)
    yield _make_result(item, "comparison_read", float(is_read))
    yield from _make_subset_results(item, COMPARISON, sum(known) / len(known) if is_read else None)
    if is_read:
        yield _make_result(item, CONSISTENT, float(len(set(known)) == 1))


def _make_subset_results(
    item: BenchmarkItem, metric: str, value: float | None
) -> Iterator[ItemResult]:
    yield _make_result(item, metric, value)
    yield _make_result(item, f"{metric}.{item.values['subset']}", value)


def _make_result(
    item: BenchmarkItem, metric: str, value: float | None, *, part: int = 0
) -> ItemResult:
    return ItemResult(item.item_id, compute_prompt_id(item.prompt), metric, part, value)


def score_labelled_pairs(results: Sequence[ItemResult], *, model: str) -> Scorecard:
    """Compute accuracies of judge and comparison, overall and by subset, as shares."""
    found: defaultdict[str, list[ItemResult]] = defaultdict(list)
    for result in results:
        found[result.metric].append(result)
    subsets = sorted(name for name in found if "." in name)
    if sum(name.startswith(f"{JUDGE}.") for name in subsets) < 2:
        subsets = []  # a single subset is the whole set
    return Scorecard(
        benchmark=NAME.replace("-", "_"),
        model=model,
        baseline=None,
        judge=model,
        metrics=tuple(
            _make_metric(name, found[name])
            for name in (*_TITLED, *subsets)
            if name in found or _is_asked(name, found)
        ),
        issues=tuple(
            make_issue_if_any(
                [result for result in found[JUDGE] if result.value is None],
                "pairs_unscored",
                "Pairs with an output without a readable score: {rows}.",
                "They are excluded from the mean; the interval allows for each of them being "
                "right or wrong.",
            )
            + make_issue_if_any(
                [result for result in found[COMPARISON] if result.value is None],
                "comparisons_unread",
                "Pairs with an order without a readable verdict: {rows}.",
                "They are excluded from the mean; the interval allows for each of them being "
                "right or wrong.",
            )
        ),
    )


def _is_asked(name: str, found: Mapping[str, object]) -> bool:
    """Whether the question of a metric was asked, even without results."""
    return any(other.startswith(name.partition("_")[0]) for other in found)


def _make_metric(name: str, results: Sequence[ItemResult]) -> Metric:
    known = [(result.value, result.prompt_id) for result in results if result.value is not None]
    if not known:
        reason = "no pair could be read" if results else "no pair has the required replies"
        return Metric(name, None, 0, absent=reason)
    values, clusters = [value for value, _ in known], [prompt for _, prompt in known]
    interval = compute_clustered_share_interval(values, clusters, missing=len(results) - len(known))
    return Metric(name, sum(values) / len(values), len(values), interval.low, interval.high)
