"""A report, put together."""

from collections.abc import Sequence

from meta_reward_core.reporting.accounts import compute, limits, origins, repeats
from meta_reward_core.reporting.claims import claims
from meta_reward_core.reporting.document import Block, Document, Grid, Notes, Section, Text
from meta_reward_core.reporting.plots import paper_plots
from meta_reward_core.reporting.runs import Arm
from meta_reward_core.reporting.tables import paper_tables


def build_report(
    arms: Sequence[Arm],
    *,
    title: str,
    baseline: str | None = None,
    foreword: Sequence[Block] = (),
) -> Document:
    """Put the report of one experiment, or of several, together.

    Args:
        arms: what stands side by side; one arm with one run for one experiment.
        baseline: label of the arm that others are compared with; by default the first.
        foreword: what stands first, such as how the runs came about.
    """
    several = len(arms) > 1
    parts: list[tuple[str, Sequence[Block]]] = [("What this is", [*foreword, *_contents(arms)])]
    if several:
        parts += [("What follows", claims(arms, baseline or arms[0].label))]
    parts += [
        *paper_tables(arms),
        ("Figures", paper_plots(arms)),
        ("Compute", compute(arms)),
        ("Repeats", repeats(arms)),
        ("What limits these figures", limits(arms)),
        ("Settings, versions and lineage", origins(arms)),
    ]
    return Document(title, [Section(heading, blocks) for heading, blocks in parts])


def _contents(arms: Sequence[Arm]) -> list[Block]:
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
    return [
        Grid("What stands side by side" if len(arms) > 1 else "The experiment", columns, rows),
        *([Notes(unfinished)] if unfinished else []),
        *([Text(f"Judged from outside, by the endpoint {', '.join(outside)}.")] if outside else []),
        Text(
            "The paper's tables (Wu et al. 2024, arXiv 2407.19594) follow in its order. What could "
            "not be computed is named with the reason."
        ),
    ]
