"""What arms cost, how far repeats lie apart, what limits the figures, and where all came from."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, Final

import yaml

from meta_reward_core.model_card import without_places
from meta_reward_core.reporting.document import (
    DASH,
    Absent,
    Block,
    Code,
    Grid,
    Notes,
    Text,
    number,
)
from meta_reward_core.reporting.metrics import COMPARED, estimate_metric, last_model
from meta_reward_core.reporting.runs import Arm, Run
from meta_reward_core.reporting.tables import figure_of

_ROLES: Final = {"actor": "generate", "judge": "judge", "meta-judge": "meta_judge"}


def compute(arms: Sequence[Arm]) -> list[Block]:
    """Tokens, pairs, steps and seconds of each arm, so that equal can be told from unequal."""
    rows = [_compute_row(arm) for arm in arms if arm.runs]
    if not rows:
        return [Absent("Compute of each arm", "no iteration is finished")]
    return [
        Grid(
            "Compute of each arm, mean of a run over its finished iterations",
            ("arm", "runs", *(f"tokens, {role}" for role in _ROLES), "tokens in all",
             "pairs trained", "DPO steps", "seconds"),
            rows,
            note="Tokens are those drawn in the loop; evaluation is not counted. Seconds are of "
            "the stages, on whatever machine and beside whatever else ran, and without those of "
            "draws that a run had in common with an earlier one: compare tokens and steps, not "
            "seconds. A dash: not known, such as the seconds of files without rows.",
        )
    ]  # fmt: skip


def _compute_row(arm: Arm) -> tuple[str, ...]:
    tokens = [_mean(arm, partial(_count, stage, "tokens")) for stage in _ROLES.values()]
    known = [value for value in tokens if value is not None]
    return (
        arm.label,
        str(len(arm.runs)),
        *(number(value, 0) for value in tokens),
        number(sum(known), 0) if known else DASH,
        number(_mean(arm, partial(_count, "train", "trained")), 0),
        number(_mean(arm, _steps), 0),
        number(_mean(arm, _seconds), 0),
    )


def _mean(arm: Arm, read: Callable[[Run], float | None]) -> float | None:
    known = [value for run in arm.runs if (value := read(run)) is not None]
    return fmean(known) if known else None


def _stages(run: Run) -> Iterator[Mapping[str, Any]]:
    for summary in run.summaries:
        yield from summary.get("stages") or []


def _count(stage: str, name: str, run: Run) -> float | None:
    found = [row["counts"].get(name) for row in _stages(run) if row["stage"] == stage]
    if stage == "meta_judge" and not found and run.summaries:
        return 0.0
    known = [count for count in found if count is not None]
    return float(sum(known)) if known else None


def _steps(run: Run) -> float | None:
    known = [steps for steps in run.steps if steps is not None]
    return float(sum(known)) if known and len(known) == len(run.steps) else None


def _seconds(run: Run) -> float | None:
    found = [row.get("seconds") for row in _stages(run)]
    known = [seconds for seconds in found if seconds is not None]
    return sum(known) if known and len(known) == len(found) else None


def repeats(arms: Sequence[Arm]) -> list[Block]:
    """How much figures move when only the seed changes, and when outputs are annotated again."""
    blocks: list[Block] = []
    if any(len(arm.runs) > 1 for arm in arms):
        blocks += [_spread_over_seeds(arms)]
    else:
        blocks += [Absent("Spread over seeds", "each arm has one run: give several seeds")]
    again = [
        (f"{run.name} M{t}", number(found["value"], 3), f"{found['count']:,}")
        for arm in arms
        for run in arm.runs
        for t, cards in sorted(run.cards.items())
        for card in cards
        if (found := figure_of(card, "win_rate_repeat_deviation")) and found["value"] is not None
    ]
    if again:
        columns = ("model", "standard deviation, points", "annotations")
        return [*blocks, Grid("The same outputs annotated again", columns, again)]
    reason = "no repeated annotation is kept: `evaluate annotations --repeats FILE...`"
    return [*blocks, Absent("The same outputs annotated again", reason)]


def _spread_over_seeds(arms: Sequence[Arm]) -> Grid | Absent:
    last = last_model(arms)
    rows = []
    for metric in COMPARED:
        found = [estimate_metric(arm, metric, last) for arm in arms]
        if any(one.deviation is not None for one in found):
            cells = (number(one.deviation, metric.decimals) for one in found)
            rows.append((metric.title, *cells))
    title = f"Standard deviation between loop seeds of one M0, at M{last}"
    if not rows:
        return Absent(title, "no figure is known of two runs from the same M0")
    return Grid(title, ("figure", *(arm.label for arm in arms)), rows)


def limits(arms: Sequence[Arm]) -> list[Block]:
    """Alarms of the iterations, findings of the evaluations, and answers that play the judge."""
    return [
        Text("Alarms of the iterations:"),
        Notes(_alarms(arms) or ["none rang"]),
        Text("Findings of the kept evaluations (null models, copies of the baseline, marks of a "
             "judge, instructions to it, and what else limits a figure):"),
        _findings(arms),
        Text("The same search in the loop's own answers, which its judge has scored:"),
        _gaming(arms),
    ]  # fmt: skip


def _alarms(arms: Sequence[Arm]) -> list[str]:
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


def _findings(arms: Sequence[Arm]) -> Block:
    kept = [
        (run, t, card)
        for arm in arms
        for run in arm.runs
        for t, cards in sorted(run.cards.items())
        for card in cards
    ]
    if not kept:
        return Absent("Findings of the evaluations", "no evaluation is kept for these experiments")
    lines = [
        f"{run.name} M{t}, {card['benchmark']}: {one['name']}. {one['sentence']} {one['advice']}"
        for run, t, card in kept
        for one in card.get("findings") or []
    ]
    return Notes(lines or [f"none in {len(kept)} evaluations"])


def _gaming(arms: Sequence[Arm]) -> Block:
    looked = [(run, run.gaming) for arm in arms for run in arm.runs if run.gaming is not None]
    if not looked:
        return Absent(
            "Answers that play the judge", "this page does not read them: `manage.py report` does"
        )
    lines = [
        f"{run.name}, iteration {t}: {one.name}. {one.sentence} {one.advice}"
        for run, gaming in looked
        for t, findings in sorted(gaming.items())
        for one in findings
    ]
    return Notes(lines or [f"none in the answers of {len(looked)} experiments"])


def origins(arms: Sequence[Arm]) -> list[Block]:
    """Versions, hashes and settings."""
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
        _lineage(runs),
    ]
    for arm in arms:
        if arm.recipe is not None:
            values = without_places(arm.recipe.model_dump(mode="json"))
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            blocks.append(Code(f"Recipe of {arm.label}", text))
    return blocks


def _lineage(runs: Sequence[Run]) -> Block:
    models = max((len(run.models) for run in runs), default=0)
    if not models:
        return Absent("Lineage", "there is no experiment")
    return Grid(
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
