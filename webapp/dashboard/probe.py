"""The judge probe of an iteration for its page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meta_reward_core.errors import ArtifactError
from meta_reward_core.evaluation.judge_metrics import HISTOGRAM_BINS
from meta_reward_core.evaluation.probe_gate import read_probe
from meta_reward_core.method.parsing import (
    JUDGMENT_CUT_OFF,
    NO_SCORE_LINE,
    PROMPT_REFUSED,
    SCORE_NOT_A_NUMBER,
    SCORE_ON_ANOTHER_SCALE,
    SCORE_OUT_OF_RANGE,
)
from webapp.experiments.files import open_iteration_files
from webapp.experiments.models import Iteration
from webapp.experiments.stage_progress import format_duration

_REASONS: Final[Mapping[str, str]] = {
    NO_SCORE_LINE: "no score line",
    SCORE_NOT_A_NUMBER: "not a number",
    SCORE_OUT_OF_RANGE: "out of range",
    SCORE_ON_ANOTHER_SCALE: "on another scale",
    JUDGMENT_CUT_OFF: "cut off",
    PROMPT_REFUSED: "prompt refused",
}
_MEASURES: Final = (
    ("readable", "Judgments with a readable score"),
    ("cut_off", "Judgments cut off by the token limit"),
    ("verdicts", "Battles with a readable verdict"),
    ("same_order", "Battles with the same verdict in both orders"),
    ("actor_pairs", "Prompts that yield an actor pair"),
    ("judge_pairs", "Prompts that yield a judge pair"),
)


@dataclass(frozen=True, slots=True)
class MeasureView:
    """A measured share: label, value, 95% interval and number of items."""

    label: str
    value: str
    interval: str
    count: int


@dataclass(frozen=True, slots=True)
class ProbeView:
    """Results of the probe.

    Attributes:
        tried: number of prompts and duration.
        projected: estimated time to generate and judge a whole iteration at this rate.
        run: the same for all remaining iterations, and their number; empty if there is only one.
        unfinished: number of judgments and verdicts that did not finish within the time limit.
        facts: scores, unreadable judgments by reason, and tokens per reply.
        findings: reasons why the run should not continue, each with a remedy.
        accepted_by: the user who continued despite the findings.
    """

    tried: str
    projected: str
    run: str
    unfinished: int
    measures: list[MeasureView]
    facts: list[tuple[str, str]]
    findings: list[tuple[str, str]]
    accepted_by: str


def read_probe_view(iteration: Iteration) -> ProbeView | None:
    """Read the probe of an iteration; None if there is none, or its file cannot be read."""
    try:
        found = read_probe(open_iteration_files(iteration.experiment, iteration.number))
    except ArtifactError:
        return None
    if found is None:
        return None
    report = found.report
    return ProbeView(
        tried=f"{report['prompts']} of {report['wanted']} prompts in "
        f"{format_duration(report['seconds'])}",
        projected=format_duration(report["projected_seconds"]),
        run=_describe_run(report),
        unfinished=report.get("unfinished", 0),  # absent in earlier versions
        measures=[
            _make_measure(label, report[key]) for key, label in _MEASURES if report[key]["n"]
        ],
        facts=list(_iter_facts(report)),
        findings=[(one["sentence"], one["remedy"]) for one in found.findings],
        accepted_by=(found.accepted or {}).get("by", ""),
    )


def _make_measure(label: str, share: Mapping[str, Any]) -> MeasureView:
    return MeasureView(
        label,
        f"{share['value']:.1%}",
        f"{share['low']:.0%} to {share['high']:.0%}",
        share["n"],
    )


def _describe_run(report: Mapping[str, Any]) -> str:
    """Describe the remaining run; reports of earlier versions do not contain it."""
    iterations = report.get("iterations", 1)
    if iterations < 2:
        return ""
    return f"{format_duration(report['projected_run_seconds'])} for {iterations} iterations"


def _iter_facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield counts with their labels, as far as the report contains them."""
    reasons = report.get("unscored", {})
    if reasons:
        named = (f"{_REASONS.get(reason, reason)} ({count:,})" for reason, count in reasons.items())
        yield "Judgments without a score", ", ".join(named)
    scores = report.get("scores", [])
    if sum(scores):
        named = (
            f"{low:g} ({count:,})"
            for low, count in zip(HISTOGRAM_BINS, scores, strict=True)
            if count
        )
        yield "Scores, rounded down to halves", ", ".join(named)
        yield "Entropy of the scores", f"{report['entropy_bits']:.2f} bits"
    tokens = {role: cost.get("tokens_per_reply") for role, cost in report.get("costs", {}).items()}
    if any(tokens.values()):
        named = (
            f"{role.replace('_', '-')} {value:,.0f}" for role, value in tokens.items() if value
        )
        yield "Tokens per reply", ", ".join(named)
