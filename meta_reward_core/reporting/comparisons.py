"""Differences between arms, and which claims they support."""

from collections.abc import Sequence
from typing import Final

from meta_reward_core.evaluation.confidence_intervals import Interval
from meta_reward_core.reporting.document import (
    DASH,
    Absent,
    Block,
    Notes,
    ReportTable,
    Text,
    format_interval,
    format_number,
)
from meta_reward_core.reporting.metrics import (
    COMPARED,
    PRIMARY,
    MetricSpec,
    collect_values,
    find_last_model,
)
from meta_reward_core.reporting.run_loader import Arm
from meta_reward_core.reporting.seed_statistics import (
    SeedEstimate,
    compute_differences,
    estimate_over_seeds,
    is_significant,
)

_METHOD: Final = (
    "Differences are taken within pairs of runs that started from the same M0 with the same loop "
    'seed. "These seed models": 95% by Student\'s t over pairs, each M0 with its own mean; it '
    'covers other loop seeds. "Other seed models": 95% by Student\'s t over the means of the M0s; '
    "it covers other M0s, and is wide with three of them. All metrics except the primary ones "
    "are exploratory: one in twenty 95% intervals misses the true value."
)
_PLANTED: Final = (
    "Limits of these results: the toy task is synthetic, its signal is planted, and its base "
    "model has a good meta-judge because it was trained and selected for that. The results "
    "show whether, where and how the mechanism works or fails; they do not show the size, or "
    "the existence, of the effect for large language models."
)
_PRIMARY_PREFIX: Final = "primary: "
_MIN_RUNS: Final = 3
"""Minimum number of differences for a claim: two cannot show approximate normality, which the
interval assumes.
"""


def build_comparison_section(arms: Sequence[Arm], baseline: str) -> list[Block]:
    """Compare each arm with the baseline at the last model that all arms have.

    Args:
        baseline: label of an arm.
    """
    base = next((arm for arm in arms if arm.label == baseline and arm.runs), None)
    others = [arm for arm in arms if arm.runs and arm is not base]
    title = "Differences between arms"
    if base is None or not others:
        return [Absent(title, "finished runs of the baseline and of another arm are required")]
    last = find_last_model([base, *others])
    if not last:
        return [Absent(title, "no iteration is finished in all arms")]
    blocks: list[Block] = []
    sentences: list[str] = []
    for arm in others:
        found = [(one, _estimate_difference(arm, base, one, last)) for one in COMPARED]
        known = [(one, estimated) for one, estimated in found if estimated.runs]
        blocks.append(_make_difference_table(arm, base, last, known))
        sentences += [
            _describe_difference(arm, base, *pair) for pair in known if pair[0] in PRIMARY
        ]
    oracle = any(arm.recipe and arm.recipe.has_ground_truth for arm in arms)
    return [
        Text(f"At M{last}, the last model that all arms have, against the arm {base.label}:"),
        Notes(sentences or ["no primary metric has values for both arms of a pair"]),
        *([Text(_PLANTED)] if oracle else []),
        Text(_METHOD),
        *blocks,
    ]


def _estimate_difference(arm: Arm, base: Arm, metric: MetricSpec, last: int) -> SeedEstimate:
    return estimate_over_seeds(
        compute_differences(collect_values(arm, metric, last), collect_values(base, metric, last))
    )


def _make_difference_table(
    arm: Arm, base: Arm, last: int, known: Sequence[tuple[MetricSpec, SeedEstimate]]
) -> ReportTable | Absent:
    title = f"{arm.label} minus {base.label}, at M{last}"
    if not known:
        return Absent(title, "no two runs started from the same M0 with the same loop seed")
    return ReportTable(
        title,
        ("metric", "difference", "these seed models", "other seed models", "pairs (seed models)"),
        [
            (
                f"{_PRIMARY_PREFIX if metric in PRIMARY else ''}{metric.title}",
                _format_signed(found.mean, metric.decimals),
                _format_interval(found.here, metric, found.absent),
                _format_interval(found.elsewhere, metric, _explain_missing_interval(found)),
                f"{found.runs} ({found.seed_models})",
            )
            for metric, found in known
        ],
    )


def _format_signed(value: float | None, decimals: int) -> str:
    return DASH if value is None else f"{value:+,.{decimals}f}"


def _format_interval(interval: Interval | None, metric: MetricSpec, absent: str) -> str:
    return f"absent: {absent}" if interval is None else format_interval(*interval, metric.decimals)


def _explain_missing_interval(found: SeedEstimate) -> str:
    return "one seed model" if found.seed_models < 2 else "all base models are equal"


def _format_count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _describe_difference(arm: Arm, base: Arm, metric: MetricSpec, found: SeedEstimate) -> str:
    mean = found.mean or 0.0
    size = format_number(abs(mean), metric.decimals)
    side = f"{size} {'higher' if mean > 0 else 'lower'} than" if mean else "as high as"
    here = _describe_interval(
        found.here, "these seed models", metric, runs=found.runs, absent=found.absent
    )
    elsewhere = _describe_interval(
        found.elsewhere,
        "other seed models",
        metric,
        runs=found.runs,
        absent=_explain_missing_interval(found),
    )
    return (
        f"{metric.title}: {arm.label} is {side} {base.label} "
        f"({_format_count(found.runs, 'pair')}, {_format_count(found.seed_models, 'seed model')}). "
        f"{here} {elsewhere}"
    )


def _describe_interval(
    interval: Interval | None, of: str, metric: MetricSpec, *, runs: int, absent: str
) -> str:
    if interval is None:
        return f"For {of} no claim is possible: {absent}."
    text = format_interval(*interval, metric.decimals)
    if is_significant(interval) and runs < _MIN_RUNS:
        return f"For {of} the interval {text} excludes 0, but {runs} pairs are too few to claim it."
    if is_significant(interval):
        return f"For {of} the difference is shown: the interval {text} excludes 0."
    return f"For {of} the difference is not shown: the interval {text} includes 0."
