"""The paper's seven tables, with the metrics of runs above those of the paper.

A metric is from a scorecard stored by `manage.py evaluate --experiment`, from an iteration's own
data, or, in the miniature, from the ground truth. If a metric is missing, the table contains the
reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from meta_reward_core.evaluation.confidence_intervals import Interval, compute_wilson_interval
from meta_reward_core.recipes.schema import get_scheduled_value
from meta_reward_core.reporting import metrics, published_results
from meta_reward_core.reporting.document import (
    DASH,
    Absent,
    Block,
    ReportTable,
    add_reason_if_empty,
    format_interval,
    format_number,
)
from meta_reward_core.reporting.metrics import MetricSpec, estimate_metric
from meta_reward_core.reporting.run_loader import Arm, ExperimentRun
from meta_reward_core.reporting.scorecard_schema import ScorecardDict
from meta_reward_core.reporting.seed_statistics import estimate_over_seeds

_PAPERS: Final = "The last rows are from the paper, for models with 8 billion parameters."
_NO_CARD: Final = (
    "no evaluation of this kind is stored for these models: score its files with `manage.py "
    "evaluate "
    "{command} --save-to EXPERIMENT/M<t>`"
)


def build_paper_tables(arms: Sequence[Arm]) -> list[tuple[str, list[Block]]]:
    """Build all seven tables: heading and blocks."""
    return [
        (
            "Table 1: AlpacaEval 2",
            [
                *_make_ground_truth_blocks(arms, "Table 1", metrics.QUALITY),
                *_make_alpaca_table(arms),
            ],
        ),
        ("Table 2: Arena-Hard", _make_arena_table(arms)),
        (
            "Table 3: agreement of the judge with a stronger judge",
            [
                *_make_ground_truth_blocks(arms, "Table 3", metrics.JUDGE),
                *_make_judge_table(arms, "model"),
            ],
        ),
        ("Table 4: length control", _make_length_control_table(arms)),
        (
            "Table 5: biases of the meta-judge",
            [*_make_ground_truth_blocks(arms, "Table 5", metrics.BIAS), *_make_bias_table(arms)],
        ),
        ("Table 6: MT-Bench", _make_mt_bench_table(arms)),
        ("Table 7: agreement of the judge with humans", _make_judge_table(arms, "humans")),
    ]


def _make_alpaca_table(arms: Sequence[Arm]) -> list[Block]:
    rows = _make_scorecard_rows(
        arms,
        lambda card: card["benchmark"] == "alpaca_eval_2",
        [("length_controlled_winrate", 2), ("win_rate", 2), ("avg_length", 0)],
    )
    return _make_comparison_table(
        "AlpacaEval 2, percent and characters",
        ("model", "LC win rate", "win rate", "length"),
        published_results.ALPACA_EVAL,
        rows,
        command="annotations FILE",
    )


def _make_arena_table(arms: Sequence[Arm]) -> list[Block]:
    rows = [*_make_arena_rows(arms, "0.1", band="95"), *_make_arena_rows(arms, "2.0", band="90")]
    return _make_comparison_table(
        "Arena-Hard, score and its band",
        ("model", "score", "the version's band"),
        published_results.ARENA_HARD,
        rows,
        command="arena FILE",
    )


def _make_arena_rows(arms: Sequence[Arm], version: str, *, band: str) -> list[tuple[str, ...]]:
    """Build the rows of a version, by category if its scorecards have them."""
    rule = f"arena_hard_{version}"
    benchmarks = {
        str(card["benchmark"])
        for arm in arms
        for run in arm.runs
        for cards in run.cards.values()
        for card in cards
    }
    return [
        (f"{row[0]}, version {version}{name.removeprefix(rule).replace('_', ', ', 1)}", *row[1:])
        for name in sorted(benchmarks)
        if name == rule or name.startswith(f"{rule}_")
        for row in _make_scorecard_rows(
            arms,
            partial(_is_of_benchmark, name),
            [("score", 1), (f"score_band_{band}_of_version_{version}", 1)],
        )
    ]


def _is_of_benchmark(name: str, card: ScorecardDict) -> bool:
    return bool(card["benchmark"] == name)


def _make_judge_table(arms: Sequence[Arm], reference: str) -> list[Block]:
    is_model = reference == "model"
    rows = _make_scorecard_rows(
        arms,
        lambda card: card["benchmark"] == "judge_agreement" and card.get("reference") == reference,
        [("agreement", 2), ("agreement_without_ties", 2), ("spearman", 3)],
        percent=("agreement", "agreement_without_ties"),
    )
    return _make_comparison_table(
        f"Agreement of the judge with {'a stronger model' if is_model else 'people'}, percent",
        ("judge", "agreement", "without ties", "Spearman"),
        published_results.JUDGE_AND_MODEL if is_model else published_results.JUDGE_AND_HUMANS,
        rows,
        command=f"judge FILE --reference FILE --reference-type {reference}",
    )


def _make_mt_bench_table(arms: Sequence[Arm]) -> list[Block]:
    rows = _make_scorecard_rows(
        arms,
        lambda card: card["benchmark"] == "mt_bench",
        [("all", 3), ("turn_1", 3), ("turn_2", 3)],
    )
    return _make_comparison_table(
        "MT-Bench, points of 10",
        ("model", "all", "turn 1", "turn 2"),
        published_results.MT_BENCH,
        rows,
        command="mt-bench FILE",
    )


def _make_comparison_table(
    title: str,
    columns: Sequence[str],
    theirs: Sequence[Sequence[str]],
    ours: Sequence[Sequence[str]],
    *,
    command: str,
) -> list[Block]:
    grid = ReportTable(
        title,
        columns,
        [*ours, *_label_paper_rows(theirs)],
        note=f"{_PAPERS} Brackets contain 95% intervals over prompts.",
        outside=len(theirs),
    )
    return add_reason_if_empty(grid, ours=len(ours), reason=_NO_CARD.format(command=command))


def _label_paper_rows(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return [(f"paper: {row[0]}", *row[1:]) for row in rows]


def _make_scorecard_rows(
    arms: Sequence[Arm],
    is_wanted: Callable[[ScorecardDict], bool],
    names: Sequence[tuple[str, int]],
    *,
    percent: Sequence[str] = (),
) -> list[tuple[str, ...]]:
    """Build one row per stored scorecard of the kind."""
    rows = []
    for arm in arms:
        for run in arm.runs:
            for t, cards in sorted(run.cards.items()):
                rows += [
                    (
                        f"{run.name} M{t}",
                        *(_format_scorecard_cell(card, name, digits, 100 if name in percent else 1)
                          for name, digits in names),
                    )
                    for card in cards
                    if is_wanted(card)
                ]  # fmt: skip
    return rows


def _format_scorecard_cell(card: ScorecardDict, name: str, decimals: int, scale: float) -> str:
    found = find_scorecard_metric(card, name)
    if found is None or found["value"] is None:
        return DASH
    low, high = (None if found[end] is None else scale * found[end] for end in ("low", "high"))
    interval = format_interval(low, high, decimals)
    text = format_number(scale * found["value"], decimals)
    return f"{text} ({interval})" if interval else text


def find_scorecard_metric(card: ScorecardDict, name: str) -> Mapping[str, Any] | None:
    """Find a metric of a scorecard by name."""
    return next((one for one in card["figures"] if one["name"] == name), None)


def build_summary_section(arms: Sequence[Arm]) -> list[Block]:
    """Compare M0 with the last model."""
    known = [metric for metric in metrics.COMPARED if any(_has_ends(arm, metric) for arm in arms)]
    if not known:
        return [
            Absent(
                "M0 and the last model",
                "nothing was measured for both models on the same items; use a task with a "
                "ground truth, or `evaluation.tasks`",
            )
        ]
    return [_make_end_table(arm, known) for arm in arms if arm.iterations]


def _has_ends(arm: Arm, metric: MetricSpec) -> bool:
    ends = (0, arm.iterations)
    return arm.iterations > 0 and all(metrics.collect_values(arm, metric, t) for t in ends)


def _make_end_table(arm: Arm, wanted: Sequence[MetricSpec]) -> ReportTable:
    last = arm.iterations
    return ReportTable(
        f"{arm.label}: M0 and M{last}",
        ("metric", "M0", f"M{last}", "change"),
        [
            (one.title, _format_cell(arm, one, 0), _format_cell(arm, one, last),
             _format_change(arm, one, last))
            for one in wanted
            if _has_ends(arm, one)
        ],
        note=_describe_intervals([arm]),
    )  # fmt: skip


def _format_change(arm: Arm, metric: MetricSpec, last: int) -> str:
    before, after = (estimate_metric(arm, metric, t).mean for t in (0, last))
    if before is None or after is None:
        return DASH
    change = after - before
    return f"{'+' if change > 0 else ''}{format_number(change, metric.decimals)}"


def _make_ground_truth_blocks(
    arms: Sequence[Arm], table: str, wanted: Sequence[MetricSpec]
) -> list[Block]:
    """Build the toy task's counterpart of the table from the ground truth; empty without it."""
    if not any(arm.recipe and arm.recipe.has_ground_truth for arm in arms):
        return []
    known = [one for one in wanted if any(_has_metric(arm, one) for arm in arms)]
    absent: list[Block] = [
        Absent(
            f"{table} in the miniature: {one.title}",
            "these runs were evaluated before this metric was introduced; "
            "new experiments include it",
        )
        for one in wanted
        if one not in known
    ]
    if len(arms) == 1:
        grids: list[Block] = [_make_arm_table(arms[0], table, known)] if known else []
    else:
        grids = [_make_metric_table(arms, table, one) for one in known]
    return [*grids, *absent]


def _has_metric(arm: Arm, metric: MetricSpec) -> bool:
    return any(metrics.collect_values(arm, metric, t) for t in range(arm.iterations + 1))


def _make_arm_table(arm: Arm, table: str, wanted: Sequence[MetricSpec]) -> ReportTable:
    return ReportTable(
        f"{table} in the miniature: {arm.label}",
        ("metric", *(f"M{t}" for t in range(arm.iterations + 1))),
        [
            (one.title, *(_format_cell(arm, one, t) for t in range(arm.iterations + 1)))
            for one in wanted
        ],
        note=_describe_intervals([arm]),
    )  # fmt: skip


def _make_metric_table(arms: Sequence[Arm], table: str, metric: MetricSpec) -> ReportTable:
    last = max(arm.iterations for arm in arms)
    return ReportTable(
        f"{table} in the miniature: {metric.title}",
        ("arm", "runs", *(f"M{t}" for t in range(last + 1))),
        [
            (
                arm.label,
                str(len(arm.runs)),
                *(_format_cell(arm, metric, t) for t in range(last + 1)),
            )
            for arm in arms
            if arm.runs
        ],
        note=_describe_intervals(arms),
    )


def _format_cell(arm: Arm, metric: MetricSpec, t: int) -> str:
    """Format the mean over runs with its interval over seeds; for one run, over items."""
    found = estimate_metric(arm, metric, t)
    interval = found.here
    if found.runs == 1:
        interval = next(
            iter(metric.compute_interval(run, t) for run in arm.runs if _has_value(run, metric, t))
        )
    text = format_number(found.mean, metric.decimals)
    if interval is None:
        return text
    return f"{text} ({format_interval(*metrics.clip_to_bounds(metric, interval), metric.decimals)})"


def _has_value(run: ExperimentRun, metric: MetricSpec, t: int) -> bool:
    return metric.get_value(run, t) is not None


def _describe_intervals(arms: Sequence[Arm]) -> str:
    if max(len(arm.runs) for arm in arms) > 1:
        return (
            "Means over runs; brackets contain 95% intervals over loop seeds of these base "
            "models. For loop seeds of one base model, M0 differs only by its evaluation "
            "samples."
        )
    return "One run; brackets contain 95% intervals over held-out items, not over seeds."


def _make_length_control_table(arms: Sequence[Arm]) -> list[Block]:
    """Compare arms with different rho at the last model that all have."""
    last = metrics.find_last_model(arms)
    rows = []
    for arm in arms:
        if arm.recipe is None or not last:
            continue
        rho = get_scheduled_value(arm.recipe.pairing.rho, last)
        rows.append((f"{arm.label} M{last}", f"{rho:g}", _format_length(arm, last)))
    grid = ReportTable(
        "Length of responses with and without length control, in characters",
        ("model", "rho of the last iteration", "characters"),
        [
            *rows,
            *((name, name.rpartition("rho ")[2], value) for name, value in _iter_paper_lengths()),
        ],
        note=f"{_PAPERS} Brackets contain 95% intervals over loop seeds.",
        outside=len(published_results.LENGTH_CONTROL),
    )
    different = len({row[1] for row in rows}) > 1
    reason = "this table requires two experiments with different pairing.rho in one report"
    return add_reason_if_empty(grid, ours=int(different), reason=reason)


def _iter_paper_lengths() -> Iterator[tuple[str, str]]:
    for name, value in published_results.LENGTH_CONTROL:
        yield f"paper: {name}", value


def _format_length(arm: Arm, t: int) -> str:
    """Format the length of M_t's held-out responses, else of those in the next iteration."""
    metric = MetricSpec("length of responses, characters", "actor", "length_chars", decimals=1)
    return (
        _format_cell(arm, metric, t)
        if _has_metric(arm, metric)
        else _format_training_length(arm, t)
    )


def _format_training_length(arm: Arm, t: int) -> str:
    found = [run.summaries[t - 1].get("response_chars") for run in arm.runs if run.iterations >= t]
    known = [chars for chars in found if chars is not None]
    if not known:
        return DASH
    return f"{sum(known) / len(known):,.0f} (of the responses that M{t - 1} gave to train M{t})"


def _make_bias_table(arms: Sequence[Arm]) -> list[Block]:
    rows = [
        (
            f"{arm.label}, iteration {t}",
            *(_format_bias_cell(arm, t, name)
              for name in ("won_by_higher_score", "won_by_first", "inconsistency")),
        )
        for arm in arms
        for t in range(1, arm.iterations + 1)
        if _select_meta_judged_runs(arm, t)
    ]  # fmt: skip
    grid = ReportTable(
        "Biases of battle outcomes, percent",
        ("battles", "higher score", "shown first", "verdict changes with the order"),
        [*rows, *_label_paper_rows(published_results.META_JUDGE_BIAS)],
        note=f"{_PAPERS} Brackets contain 95% intervals: over runs if there are several, "
        f"otherwise over responses, whose battles count as one observation.",
        outside=len(published_results.META_JUDGE_BIAS),
    )
    reason = "no iteration of these experiments used its meta-judge"
    return add_reason_if_empty(grid, ours=len(rows), reason=reason)


def _select_meta_judged_runs(arm: Arm, t: int) -> list[tuple[ExperimentRun, Mapping[str, Any]]]:
    """Select the runs with meta-judge verdicts in iteration t, with their summaries."""
    summaries = [(run, run.summaries[t - 1]) for run in arm.runs if run.iterations >= t]
    return [(run, summary) for run, summary in summaries if summary.get("meta_judge")]


def _format_bias_cell(arm: Arm, t: int, name: str) -> str:
    known = [
        (run, summary, 100 * share)
        for run, summary in _select_meta_judged_runs(arm, t)
        if (share := summary["meta_judge"].get(name)) is not None
    ]
    found = estimate_over_seeds({(run.seed_model, run.seed): share for run, _, share in known})
    interval = found.here
    if len(known) == 1 and (responses := _count_battled_responses(known[0][1])):
        ends = compute_wilson_interval(known[0][2] / 100, responses)
        interval = Interval(100 * ends.low, 100 * ends.high)
    text = format_number(found.mean, 1)
    if interval is None:
        return text
    return f"{text} ({format_interval(max(0.0, interval.low), min(100.0, interval.high), 1)})"


def _count_battled_responses(summary: Mapping[str, Any]) -> int:
    """Count the responses whose judgments battled: one per prompt of judge pairs."""
    return sum(
        pairs["pairs"] + sum(pairs["dropped"].values())
        for pairs in summary.get("pairs") or []
        if pairs["kind"] == "judge"
    )
