"""The judge probe of an iteration for its page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from meta_reward_core.errors import ArtifactError
from meta_reward_core.evaluation.probe_gate import read_probe
from webapp.experiments.files import open_iteration_files
from webapp.experiments.models import Iteration
from webapp.experiments.stage_progress import format_duration

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
        unfinished: number of judgments and verdicts that did not finish within the time limit.
        findings: reasons why the run should not continue, each with a remedy.
        accepted_by: the user who continued despite the findings.
    """

    tried: str
    projected: str
    unfinished: int
    measures: list[MeasureView]
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
        unfinished=report.get("unfinished", 0),  # absent in earlier versions
        measures=[
            _make_measure(label, report[key]) for key, label in _MEASURES if report[key]["n"]
        ],
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
