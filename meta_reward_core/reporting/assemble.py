"""Assemble a report."""

from collections.abc import Sequence

from meta_reward_core.reporting.appendix import (
    build_compute_section,
    build_limitations_section,
    build_provenance_section,
    build_repeats_section,
)
from meta_reward_core.reporting.comparisons import build_comparison_section
from meta_reward_core.reporting.document import Block, Document, Notes, ReportTable, Section, Text
from meta_reward_core.reporting.plots import build_paper_plots
from meta_reward_core.reporting.run_loader import Arm
from meta_reward_core.reporting.tables import build_paper_tables, build_summary_section
from meta_reward_core.reporting.task_tables import build_task_blocks


def build_report(
    arms: Sequence[Arm],
    *,
    title: str,
    baseline: str | None = None,
    foreword: Sequence[Block] = (),
) -> Document:
    """Build the report of one or several experiments.

    Args:
        arms: arms to compare side by side; for one experiment, one arm with one run.
        baseline: label of the arm with which the others are compared; by default the first arm.
        foreword: text at the beginning of the report, such as how the runs were made.
    """
    several = len(arms) > 1
    parts: list[tuple[str, Sequence[Block]]] = [
        ("Summary", build_summary_section(arms)),
        ("What this is", [*foreword, *_make_contents_blocks(arms)]),
    ]
    if several:
        parts += [("What follows", build_comparison_section(arms, baseline or arms[0].label))]
    if tasks := build_task_blocks(arms):
        parts += [("Benchmarks after each iteration", tasks)]
    parts += build_paper_tables(arms)
    parts += [
        ("Figures", build_paper_plots(arms)),
        ("Compute", build_compute_section(arms)),
        ("Repeats", build_repeats_section(arms)),
        ("Limitations", build_limitations_section(arms)),
        ("Settings, versions and lineage", build_provenance_section(arms)),
    ]
    return Document(title, [Section(heading, blocks) for heading, blocks in parts])


def _describe_readouts(arms: Sequence[Arm]) -> list[Block]:
    """List the arms with forced scores or verdicts, which are not comparable with the paper."""
    lines = [
        f"{arm.label}: readout of scores {arm.recipe.judge.score_readout}, of verdicts "
        f"{arm.recipe.meta_judge.verdict_readout}; the paper samples both freely."
        for arm in arms
        if arm.recipe and arm.recipe.forces_lines
    ]
    return [Notes(lines)] if lines else []


def _make_contents_blocks(arms: Sequence[Arm]) -> list[Block]:
    rows = [
        (
            arm.label,
            arm.recipe.description if arm.recipe else "no run is finished",
            f"{len(arm.runs)}{f' of {arm.planned}' if arm.planned else ''}",
            str(len({run.seed_model for run in arm.runs})),
            str(arm.iterations),
        )
        for arm in arms
    ]
    columns = ("arm", "what it is", "runs", "seed models", "iterations")
    unfinished = [
        f"{name} is not in the tables: {reason}"
        for arm in arms
        for name, reason in arm.unfinished.items()
    ]
    outside = sorted(
        {arm.recipe.judge.endpoint for arm in arms if arm.recipe and arm.recipe.judge.endpoint}
    )
    scorers = sorted(
        {
            arm.recipe.judge.reward_model
            for arm in arms
            if arm.recipe and arm.recipe.judge.reward_model
        }
    )
    return [
        ReportTable("Compared arms" if len(arms) > 1 else "The experiment", columns, rows),
        *([Notes(unfinished)] if unfinished else []),
        *(
            [Text(f"Judged by an external judge, the endpoint {', '.join(outside)}.")]
            if outside
            else []
        ),
        *([Text(f"Scored by the reward model {', '.join(scorers)}.")] if scorers else []),
        *_describe_readouts(arms),
        Text(
            "The paper's tables (Wu et al. 2024, arXiv 2407.19594) follow in its order. "
            "Values that could not be computed are listed with the reason."
        ),
    ]
