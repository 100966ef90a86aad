"""Results of `evaluation.tasks` by model, and their changes."""

from collections.abc import Iterator, Mapping, Sequence

from meta_reward_core.reporting.document import (
    DASH,
    Absent,
    Block,
    ReportTable,
    format_interval,
    format_number,
)
from meta_reward_core.reporting.run_loader import Arm, ExperimentRun
from meta_reward_core.reporting.scorecard_schema import ScorecardDict
from meta_reward_core.reporting.task_scorecards import CHANGE_MARK

_DECIMALS = 4


def build_task_blocks(arms: Sequence[Arm]) -> list[Block]:
    """Build two tables per run and task: metrics of M0, M1, ..., and paired changes.

    Runs whose recipe has no such task are skipped.
    """
    return [block for arm in arms for run in arm.runs for block in _iter_run_blocks(run)]


def _iter_run_blocks(run: ExperimentRun) -> Iterator[Block]:
    for task in run.recipe.evaluation.tasks:
        cards = _collect_cards(run, task.name)
        title = f"{task.name}: {run.name}"
        reasons = {number: card.get("not_evaluated") for number, card in cards.items()}
        known = {number: card for number, card in cards.items() if card["figures"]}
        if not known:
            reason = next(filter(None, reasons.values()), "no iteration is finished")
            yield Absent(f"{title}, not evaluated", reason)
            continue
        yield _make_metric_table(title, known)
        changes = _make_change_table(title, known)
        if changes.rows:
            yield changes


def _collect_cards(run: ExperimentRun, task: str) -> dict[int, ScorecardDict]:
    return {
        number: card
        for number, cards in sorted(run.cards.items())
        for card in cards
        if card.get("task") == task
    }


def _make_metric_table(title: str, cards: Mapping[int, ScorecardDict]) -> ReportTable:
    names = dict.fromkeys(
        metric["name"]
        for card in cards.values()
        for metric in card["figures"]
        if CHANGE_MARK not in metric["name"]
    )
    return ReportTable(
        title,
        ("figure", *(f"M{number}" for number in cards)),
        [(name, *(_format_metric(card, name) for card in cards.values())) for name in names],
        note="Shares; every model answers the same items. Brackets contain 95% intervals, "
        "clustered by prompt.",
    )


def _make_change_table(title: str, cards: Mapping[int, ScorecardDict]) -> ReportTable:
    rows = [
        (
            name,
            f"M{number} - M{other}",
            _format_metric(card, f"{name}{CHANGE_MARK}{other}"),
            f"{metric['count']:,}",
        )
        for number, card in cards.items()
        for metric in card["figures"]
        for name, mark, other in [metric["name"].partition(CHANGE_MARK)]
        if mark and "." not in name
    ]
    return ReportTable(
        f"{title}, changes",
        ("figure", "models", "change", "of"),
        rows,
        note="Differences of the same items between both models, with 95% intervals clustered "
        "by prompt: if an interval contains 0, no change is shown.",
    )


def _format_metric(card: ScorecardDict, name: str) -> str:
    found = next((one for one in card["figures"] if one["name"] == name), None)
    if found is None or found["value"] is None:
        return DASH
    interval = format_interval(found["low"], found["high"], _DECIMALS)
    value = format_number(found["value"], _DECIMALS)
    return f"{value} ({interval})" if interval else value
