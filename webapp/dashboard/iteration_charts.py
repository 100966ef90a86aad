"""Charts of one iteration, from the tables of its finished shards."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Final

import numpy as np
from django.db.models import BigIntegerField, Sum
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast

from meta_reward_core.errors import ArtifactError
from meta_reward_core.evaluation.clustered_intervals import compute_clustered_mean_interval
from meta_reward_core.evaluation.judge_metrics import (
    BIN_WIDTH,
    HISTOGRAM_BINS,
    compute_entropy_bits,
)
from meta_reward_core.reporting.summary import LogRow
from webapp.charts.bars import build_bar_chart, build_histogram
from webapp.charts.chart import Chart
from webapp.charts.lines import Point, Series, build_line_chart
from webapp.charts.scales import Scale, format_number, make_wide_scale
from webapp.dashboard.table_reader import Numbers, ScoreCounts, TableReader
from webapp.experiments.files import open_iteration_files
from webapp.experiments.models import Attempt, AttemptStatus, Iteration, Shard, ShardStatus
from webapp.experiments.stage_progress import estimate_training_steps
from webapp.experiments.training_charts import TRAINING_CHARTS, TrainingChart

_BINS: Final = 12
_POINTS_OF_A_LINE: Final = 150


@dataclass(frozen=True, slots=True)
class IterationCharts:
    """Charts with data; `problem` names unreadable files, if any."""

    charts: tuple[Chart, ...]
    problem: str


def build_iteration_charts(iteration: Iteration) -> IterationCharts:
    """Draw the results and the speed of an iteration's finished shards.

    The charts of a running training are first; the others have the order of the stages.
    """
    charts, problem = [_chart_speed(iteration)], ""
    try:
        tables = TableReader(open_iteration_files(iteration.experiment, iteration.number))
        running = _read_running_log(iteration)
        steps = estimate_training_steps(iteration) if running else None
        training = list(_iter_training_charts(tables.read_training_log() or running, steps))
        scores = [] if _has_reward_model(iteration) else [tables.read_score_counts()]
        results = [*map(_chart_scores, scores), *_iter_table_charts(tables)]
        charts = [*training, *results, *charts] if running else [*results, *training, *charts]
    except ArtifactError as error:
        problem = str(error)
    return IterationCharts(tuple(chart for chart in charts if chart.drawing), problem)


def _has_reward_model(iteration: Iteration) -> bool:
    """Whether a reward model gives the scores, which do not fit the bins of the judge's scale."""
    judge = iteration.experiment.recipe.get("judge", {})
    return judge.get("reward_model") is not None


def _read_running_log(iteration: Iteration) -> list[LogRow]:
    """Read the metrics of a running training so far."""
    told = Shard.objects.filter(
        stage__iteration=iteration, stage__name="train", status=ShardStatus.RUNNING
    ).values_list("training_metrics", flat=True)
    return [
        (int(row["step"]), metric, value)
        for rows in told
        for row in rows
        for metric, value in row.items()
        if metric != "step"
    ]


def _iter_training_charts(log: Sequence[LogRow], steps: int | None) -> Iterator[Chart]:
    """Draw a training; the axis of a running one includes all steps."""
    for chart in TRAINING_CHARTS:
        yield _chart_training_log(chart, log, steps)


def _iter_table_charts(tables: TableReader) -> Iterator[Chart]:
    variances = tables.read_variances()
    yield _chart_histogram(
        "Variance of scores per response",
        variances,
        x_label="variance of the scores",
        y_label="responses",
        description=f"{_describe_values(variances, 'responses')} At 0, all judgments of a "
        "response have the same score.",
    )
    yield _chart_length_differences("actor", "response", tables)
    spreads = tables.read_elo_spreads()
    yield _chart_histogram(
        "Range of Elo ratings per response",
        spreads,
        x_label="best minus worst Elo, in nats",
        y_label="responses",
        description=f"{_describe_values(spreads, 'responses with compared judgments')}",
    )
    yield _chart_length_differences("judge", "judgment", tables)


def _chart_scores(scores: ScoreCounts) -> Chart:
    """Draw one bar per score if all scores are integers, else one bar per bin."""
    named = [
        (f"{start:g}", count) for start, count in zip(HISTOGRAM_BINS, scores.bins, strict=True)
    ]
    count, entropy = sum(scores.bins), compute_entropy_bits(scores.bins)
    description = f"n = {count:,} judgments with a score."
    if scores.mean is not None and entropy is not None:
        description += f" Mean {scores.mean:.2f}, entropy {entropy:.2f} bits."
    if scores.are_whole:
        named = named[:: round(1 / BIN_WIDTH)]
    else:
        description += f" Each bar covers a range of {BIN_WIDTH:g}; the last bar, only the score 5."
    return build_histogram(
        "Judge scores", named, x_label="score", y_label="judgments", description=description
    )


def _describe_values(values: Numbers, unit: str) -> str:
    """Describe the number of values and their mean; empty without any."""
    if not values.size:
        return ""
    return f"n = {values.size:,} {unit}. Mean {format_number(float(values.mean()))}."


def _chart_histogram(
    title: str,
    values: Numbers,
    *,
    x_label: str,
    y_label: str,
    tones: tuple[str, str] | None = None,
    verdict: str = "",
    description: str = "",
) -> Chart:
    """Draw a histogram with labels at the ends of its bins.

    Args:
        tones: styles of the bars below zero and of the others.
    """
    if not values.size:
        return build_histogram(title, [], x_label=x_label)
    scale = _make_bins(values)
    counts, _ = np.histogram(values, bins=scale.ticks)
    edges = [scale.format_tick(edge).replace("-", "−") for edge in scale.ticks]
    return build_histogram(
        title,
        [
            (f"{low} to {high}", int(count))
            for (low, high), count in zip(pairwise(edges), counts, strict=True)
        ],
        x_label=x_label,
        y_label=y_label,
        edges=edges,
        tones=[tones[edge >= 0] for edge in scale.ticks[:-1]] if tones else (),
        verdict=verdict,
        description=description,
    )


def _make_bins(values: Numbers) -> Scale:
    """Split the range of values at round numbers."""
    low, high = float(values.min()), float(values.max())
    is_whole = bool(np.all(values == np.round(values)))
    return make_wide_scale(
        [low, high], about=min(_BINS, max(1, int(high - low))) if is_whole else _BINS
    )


def _chart_length_differences(kind: str, text: str, tables: TableReader) -> Chart:
    """Draw by how much the chosen text of each pair is longer than the rejected one."""
    chosen, rejected = (tables.read_lengths(kind, side) for side in ("chosen", "rejected"))
    differences = chosen - rejected
    return _chart_histogram(
        f"{text.capitalize()} length, chosen − rejected",
        differences,
        x_label="difference in characters",
        y_label="pairs",
        tones=("below", ""),
        verdict=_describe_lengths(chosen, rejected, text) if differences.size else "",
        description=f"n = {differences.size:,} {kind} pairs. Left of 0, the chosen {text} is "
        "shorter.",
    )


def _describe_lengths(chosen: Numbers, rejected: Numbers, text: str) -> str:
    """Describe the mean difference in length, with its interval if there are several pairs."""
    differences = chosen - rejected
    interval = compute_clustered_mean_interval(differences.tolist(), [1.0] * differences.size)
    mean = float(differences.mean())
    ends = "" if interval is None else f" [{interval.low:+.1f}, {interval.high:+.1f}]"
    which = f"chosen {text}s {chosen.mean():.0f}, rejected {rejected.mean():.0f} characters"
    clear = interval is not None and (interval.low > 0 or interval.high < 0)
    said = (
        ("chosen are longer" if mean > 0 else "chosen are shorter")
        if clear
        else ("no clear difference")
    )
    return f"Mean: {which}; {mean:+.1f}{ends}, {said}.".replace("-", "−")


def _chart_training_log(chart: TrainingChart, log: Sequence[LogRow], steps: int | None) -> Chart:
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for step, metric, value in log:
        lines[metric].append((step, value))
    longest = max((len(lines[metric]) for metric in chart.metrics.values()), default=0)
    every = -(-longest // _POINTS_OF_A_LINE)
    series = [
        Series(name, _thin_points(lines[metric], every))
        for name, metric in chart.metrics.items()
        if lines[metric]
    ]
    means = f"Each point is the mean of {every} logged values." if every > 1 else ""
    return build_line_chart(
        chart.title,
        series,
        x_label="step",
        shown_x=(0, steps) if steps else (),
        y_label=chart.y_label,
        within=chart.within,
        has_legend=len(series) > 1,
        description=" ".join(filter(None, (chart.description, means))),
    )


def _thin_points(points: Sequence[tuple[int, float]], every: int) -> list[Point]:
    runs = [points[start : start + every] for start in range(0, len(points), max(1, every))]
    return [(run[-1][0], fmean(value for _, value in run)) for run in runs]


def _chart_speed(iteration: Iteration) -> Chart:
    """Draw tokens per second of each stage's finished shards, per worker."""
    tokens = Sum(Cast(KeyTextTransform("tokens", "shard__counts"), BigIntegerField()))
    rows = (
        Attempt.objects.filter(
            shard__stage__iteration=iteration,
            status=AttemptStatus.FINISHED,
            seconds__gt=0,
        )
        .order_by("shard__stage__position")
        .values_list("shard__stage__title")
        .annotate(made=tokens, taken=Sum("seconds"))
    )
    speeds = [(title, made / seconds) for title, made, seconds in rows if made]
    return build_bar_chart(
        "Speed of the stages",
        speeds if len(speeds) > 1 else [],  # one bar has nothing to be compared with
        y_label="tokens per second",
        description="Per worker, over completed shards, including start-up.",
    )
