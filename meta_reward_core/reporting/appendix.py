"""Appendix of the report: cost, repeats, limitations and provenance."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, Final

import yaml

from meta_reward_core.reporting.document import (
    DASH,
    Absent,
    Block,
    Code,
    Notes,
    ReportTable,
    Text,
    format_number,
)
from meta_reward_core.reporting.metrics import COMPARED, estimate_metric, find_last_model
from meta_reward_core.reporting.model_card import remove_local_paths
from meta_reward_core.reporting.run_loader import Arm, ExperimentRun
from meta_reward_core.reporting.tables import find_scorecard_metric

_ROLES: Final = {"actor": "generate", "judge": "judge", "meta-judge": "meta_judge"}


def build_compute_section(arms: Sequence[Arm]) -> list[Block]:
    """Build the table of tokens, pairs, steps and seconds of each arm."""
    rows = [_make_compute_row(arm) for arm in arms if arm.runs]
    if not rows:
        return [Absent("Cost of each arm", "no iteration is finished")]
    return [
        ReportTable(
            "Cost of each arm, mean per run over finished iterations",
            ("arm", "runs", *(f"tokens, {role}" for role in _ROLES), "tokens in all",
             "pairs trained", "DPO steps", "seconds"),
            rows,
            note="Tokens are those generated in the loop, without evaluation. Seconds are "
            "those of the stages, depend on the machine and its other load, and exclude "
            "completions reused from an earlier run: compare tokens and steps, not seconds. A "
            "dash means unknown, such as the seconds of files without rows.",
        )
    ]  # fmt: skip


def _make_compute_row(arm: Arm) -> tuple[str, ...]:
    tokens = [
        _compute_mean(arm, partial(_sum_stage_counts, stage, "tokens")) for stage in _ROLES.values()
    ]
    known = [value for value in tokens if value is not None]
    return (
        arm.label,
        str(len(arm.runs)),
        *(format_number(value, 0) for value in tokens),
        format_number(sum(known), 0) if known else DASH,
        format_number(_compute_mean(arm, partial(_sum_stage_counts, "train", "trained")), 0),
        format_number(_compute_mean(arm, _sum_steps), 0),
        format_number(_compute_mean(arm, _sum_seconds), 0),
    )


def _compute_mean(arm: Arm, read: Callable[[ExperimentRun], float | None]) -> float | None:
    known = [value for run in arm.runs if (value := read(run)) is not None]
    return fmean(known) if known else None


def _iter_stages(run: ExperimentRun) -> Iterator[Mapping[str, Any]]:
    for summary in run.summaries:
        yield from summary.get("stages") or []


def _sum_stage_counts(stage: str, name: str, run: ExperimentRun) -> float | None:
    found = [row["counts"].get(name) for row in _iter_stages(run) if row["stage"] == stage]
    if stage == "meta_judge" and not found and run.summaries:
        return 0.0
    known = [count for count in found if count is not None]
    return float(sum(known)) if known else None


def _sum_steps(run: ExperimentRun) -> float | None:
    known = [steps for steps in run.steps if steps is not None]
    return float(sum(known)) if known and len(known) == len(run.steps) else None


def _sum_seconds(run: ExperimentRun) -> float | None:
    found = [row.get("seconds") for row in _iter_stages(run)]
    known = [seconds for seconds in found if seconds is not None]
    return sum(known) if known and len(known) == len(found) else None


def build_repeats_section(arms: Sequence[Arm]) -> list[Block]:
    """Show how metrics vary with the seed, and with repeated annotation."""
    blocks: list[Block] = []
    if any(len(arm.runs) > 1 for arm in arms):
        blocks += [_make_seed_spread_table(arms)]
    else:
        blocks += [Absent("Spread over seeds", "each arm has one run: use several seeds")]
    again = [
        (f"{run.name} M{t}", format_number(found["value"], 3), f"{found['count']:,}")
        for arm in arms
        for run in arm.runs
        for t, cards in sorted(run.cards.items())
        for card in cards
        if (found := find_scorecard_metric(card, "win_rate_repeat_deviation"))
        and found["value"] is not None
    ]
    if again:
        columns = ("model", "standard deviation, points", "annotations")
        return [*blocks, ReportTable("The same outputs annotated again", columns, again)]
    reason = "no repeated annotation is stored: `evaluate annotations --repeats FILE...`"
    return [*blocks, Absent("The same outputs annotated again", reason)]


def _make_seed_spread_table(arms: Sequence[Arm]) -> ReportTable | Absent:
    last = find_last_model(arms)
    rows = []
    for metric in COMPARED:
        found = [estimate_metric(arm, metric, last) for arm in arms]
        if any(one.deviation is not None for one in found):
            cells = (format_number(one.deviation, metric.decimals) for one in found)
            rows.append((metric.title, *cells))
    title = f"Standard deviation between loop seeds of one M0, at M{last}"
    if not rows:
        return Absent(title, "no metric has values for two runs from the same M0")
    return ReportTable(title, ("metric", *(arm.label for arm in arms)), rows)


def build_limitations_section(arms: Sequence[Arm]) -> list[Block]:
    """List alarms, evaluation issues, and responses that manipulate the judge."""
    return [
        Text("Alarms of the iterations:"),
        Notes(_list_alarms(arms) or ["none"]),
        Text(
            "Warnings of the stored evaluations (null models, copies of the baseline, judge marks, "
            "instructions to the judge, and other limitations):"
        ),
        _make_issues_block(arms),
        Text("The same search in the loop's own responses, which its judge scored:"),
        _make_judge_hacking_block(arms),
    ]  # fmt: skip


def _list_alarms(arms: Sequence[Arm]) -> list[str]:
    lines = []
    for arm in arms:
        rang = [
            (run.name, summary["iteration"], alarm)
            for run in arm.runs
            for summary in run.summaries
            for alarm in summary.get("alarms") or []
        ]
        if len(arm.runs) == 1:
            lines += [f"{name}, iteration {t}: {one['sentence']}" for name, t, one in rang]
            continue
        counts = Counter((one["name"], t) for _, t, one in rang)
        lines += [
            f"{arm.label}: {name} in iteration {t} of {count} of {len(arm.runs)} runs"
            for (name, t), count in sorted(counts.items())
        ]
    return lines


def _make_issues_block(arms: Sequence[Arm]) -> Block:
    kept = [
        (run, t, card)
        for arm in arms
        for run in arm.runs
        for t, cards in sorted(run.cards.items())
        for card in cards
    ]
    if not kept:
        return Absent(
            "Warnings of the evaluations", "no evaluation is stored for these experiments"
        )
    lines = [
        f"{run.name} M{t}, {card['benchmark']}: {one['name']}. {one['sentence']} {one['advice']}"
        for run, t, card in kept
        for one in card.get("findings") or []
    ]
    return Notes(lines or [f"none in {len(kept)} evaluations"])


def _make_judge_hacking_block(arms: Sequence[Arm]) -> Block:
    looked = [(run, run.gaming) for arm in arms for run in arm.runs if run.gaming is not None]
    if not looked:
        return Absent(
            "Responses that manipulate the judge", "only `manage.py report` reads all responses"
        )
    lines = [
        f"{run.name}, iteration {t}: {one.name}. {one.sentence} {one.advice}"
        for run, gaming in looked
        for t, metrics in sorted(gaming.items())
        for one in metrics
    ]
    return Notes(lines or [f"none in the responses of {len(looked)} experiments"])


def build_provenance_section(arms: Sequence[Arm]) -> list[Block]:
    """List versions, hashes and settings."""
    runs = [run for arm in arms for run in arm.runs]
    versions = {tuple(sorted(run.packages.items())) for run in runs if run.packages}
    blocks: list[Block] = [
        Notes(
            [f"{name} {version}" for name, version in sorted(next(iter(versions)))]
            if len(versions) == 1
            else [
                "versions differ between the experiments" if versions else "versions: not known",
                *(", ".join(f"{name} {text}" for name, text in one) for one in sorted(versions)),
            ]
        ),
        _make_lineage_block(runs),
    ]
    for arm in arms:
        if arm.recipe is not None:
            values = remove_local_paths(arm.recipe.model_dump(mode="json"))
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            blocks.append(Code(f"Recipe of {arm.label}", text))
    return blocks


def _make_lineage_block(runs: Sequence[ExperimentRun]) -> Block:
    models = max((len(run.models) for run in runs), default=0)
    if not models:
        return Absent("Lineage", "there is no experiment")
    return ReportTable(
        "Lineage: the first 12 digits of the sha256 of recipe and models",
        ("experiment", "seed", "recipe", *(f"M{t}" for t in range(models))),
        [
            (
                run.name,
                str(run.seed),
                run.recipe_sha256[:12],
                *(sha256[:12] for sha256 in run.models),
                *([DASH] * (models - len(run.models))),
            )
            for run in runs
        ],
        note="Each M_t starts from M_{t-1}, which is also its reference.",
    )
