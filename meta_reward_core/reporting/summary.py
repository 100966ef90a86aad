"""Summary of an iteration as a plain dictionary, for users, `--output` and pages.

Reads the iteration's files; uses neither terminal nor database, and loads no model.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from meta_reward_core.evaluation.alarms import find_alarms
from meta_reward_core.evaluation.iteration_metrics import (
    explain_unreadable_replies,
    measure_iteration,
)
from meta_reward_core.evaluation.judge_metrics import IterationMetrics
from meta_reward_core.evaluation.probe_gate import read_probe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.records import PairKind
from meta_reward_core.storage.shards import Counts, IterationFiles

Summary = dict[str, Any]
LogRow = tuple[int, str, float]
"""Step, metric and value of a training log."""

REFUSALS: Final = {
    "actor": "refused_by_actor",
    "judge": "refused_by_judge",
    "meta-judge": "refused_by_meta_judge",
}
"""Tables of refused prompts, by role."""

NAMED_PROMPTS: Final = 100
"""Maximum number of refused prompts per role that a summary lists."""

NAMED_CHARS: Final = 80
"""Maximum characters of each listed text."""

_PAIR_KINDS: Final[tuple[PairKind, ...]] = ("actor", "judge")
_ACCURACY: Final = "rewards/accuracies"
_TRAINING_METRICS: Final = {
    "loss": "loss",
    "loss_dpo": "loss/dpo",
    "loss_sft": "loss/sft",
    "accuracy": _ACCURACY,
    "margin": "rewards/margins",
}

NO_ACCURACY_YET: Final = (
    "There is no accuracy before the weights have changed: the model equals its reference, so "
    "all rewards are equal except for rounding."
)
PARTS_NOT_LOGGED: Final = (
    "The version that trained this model did not log the two parts of the loss."
)


@dataclass(frozen=True, slots=True)
class Timing:
    """Duration of the shards of one stage, and the tokens they generated."""

    seconds: float
    tokens: int = 0

    def __add__(self, other: "Timing") -> "Timing":
        return Timing(self.seconds + other.seconds, self.tokens + other.tokens)


def summarize_iteration(
    files: IterationFiles,
    *,
    number: int,
    recipe: Recipe,
    stages: Sequence[str],
    before: IterationFiles | None = None,
    timings: Mapping[str, Timing] | None = None,
) -> Summary:
    """Summarize the completed stages of an iteration.

    Args:
        files: files of the iteration.
        number: t, from 1.
        stages: names of the stages in the paper's order.
        before: files of the previous iteration, for comparisons.
        timings: timings by stage, if known.

    Returns:
        A dictionary of plain values; metrics that were not measured are None or absent.
    """
    measured = _measure_metrics(files, number, recipe)
    earlier = _measure_metrics(before, number - 1, recipe) if before is not None else None
    return {
        "iteration": number,
        "finished": files.is_finished(),
        "model_out": files.get_checkpoint_sha256(),
        "stages": _summarize_stages(files, stages, timings or {}),
        "outside_judge": recipe.outside_judge,
        **_summarize_readouts(recipe),
        "judge": asdict(measured.judge) if measured.judge else None,
        "meta_judge": asdict(measured.meta_judge) if measured.meta_judge else None,
        "pairs": [asdict(pairs) for pairs in measured.pairs],
        "response_chars": measured.response_chars,
        "score_length_correlation": measured.score_length_correlation,
        "training": _summarize_training(files, sft_weight=recipe.training.sft_weight),
        "audit": _summarize_audit(files),
        "truth": _summarize_ground_truth(files, before, number),
        "refused": summarize_refusals(files),
        "probe": _summarize_probe(files),
        "alarms": [
            asdict(alarm)
            for alarm in find_alarms(
                measured,
                before=earlier,
                explain=lambda role: explain_unreadable_replies(files, role, recipe),
            )
        ],
    }


def _summarize_probe(files: IterationFiles) -> Summary | None:
    """Return the report of the judge probe, and who accepted its findings."""
    found = read_probe(files)
    if found is None:
        return None
    return found.report | {"accepted_by": (found.accepted or {}).get("by")}


def summarize_refusals(files: IterationFiles) -> list[Summary]:
    """Summarize refused prompts by role: their number, and the first names."""
    found = []
    for role, table in REFUSALS.items():
        rows = files.read(table).to_pylist()
        if rows:
            names = list(dict.fromkeys(row["prompt_id"] for row in rows))
            found.append(
                {
                    "role": role,
                    "table": table,
                    "prompts": len(names),
                    "replies": sum(row["replies"] for row in rows),
                    "named": _name_prompts(files, names[:NAMED_PROMPTS], rows),
                }
            )
    return found


def _name_prompts(
    files: IterationFiles, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[Summary]:
    asked = files.read("prompts", columns=["prompt_id", "text"])
    wanted = asked.filter(pc.is_in(asked["prompt_id"], pa.array(names))).to_pylist()
    texts = {row["prompt_id"]: row["text"] for row in wanted}
    reasons = {row["prompt_id"]: row["reason"] for row in reversed(rows)}
    return [
        {
            "prompt_id": name,
            "text": textwrap.shorten(texts.get(name, ""), NAMED_CHARS, placeholder="..."),
            "reason": reasons[name],
        }
        for name in names
    ]


def describe_refusals(refused: Sequence[Summary], *, shown: int) -> list[str]:
    """Describe which prompts an engine refused, and where all of them are listed."""
    said = []
    for one in refused:
        said.append(
            f"The engine of the {one['role']} refused {one['prompts']:,} of the prompts; all "
            f"are in the table {one['table']}:"
        )
        said += [
            f"  {named['prompt_id'][:16]} {named['text']!r}: {named['reason']}"
            for named in one["named"][:shown]
        ]
        if one["prompts"] > shown:
            said.append(f"  and {one['prompts'] - shown:,} others")
    return said


def _summarize_readouts(recipe: Recipe) -> Summary:
    """Summarize scores and verdicts that were not freely written."""
    if not recipe.forces_lines:
        return {}
    scores, verdicts = recipe.judge.score_readout, recipe.meta_judge.verdict_readout
    return {"readouts": {"scores": scores, "verdicts": verdicts}}


def _measure_metrics(files: IterationFiles, number: int, recipe: Recipe) -> IterationMetrics:
    kinds = [
        kind
        for kind in _PAIR_KINDS
        if recipe.trains_on(kind, number) and files.find_manifest(f"pair_{kind}") is not None
    ]
    return measure_iteration(files, kinds=kinds, judge_reasoning=recipe.judge.reasoning)


def _summarize_stages(
    files: IterationFiles, stages: Sequence[str], timings: Mapping[str, Timing]
) -> list[Summary]:
    rows = []
    for stage in stages:
        made = [manifest for manifest in files.list_manifests() if manifest.stage == stage]
        timing = timings.get(stage)
        if made:
            rows.append(
                {
                    "stage": stage,
                    "shards": len(made),
                    "counts": add_counts(manifest.counts for manifest in made),
                    "seconds": timing.seconds if timing else None,
                    "tokens_per_second": _compute_rate(timing),
                }
            )
    return rows


def add_counts(counts: Any) -> Counts:
    """Add counts by name, in the order of first occurrence."""
    total: Counts = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total


def _compute_rate(timing: Timing | None) -> float | None:
    if timing is None or not timing.tokens or not timing.seconds:
        return None
    return timing.tokens / timing.seconds


def _summarize_training(files: IterationFiles, *, sft_weight: float) -> Summary | None:
    """Return the first and last metrics of the training log, and the number of rows.

    The reasons of missing metrics are under `absent`.
    """
    manifest = files.find_manifest("train")
    if manifest is None:
        return None
    columns = files.read("training_log").to_pydict()
    log = drop_rounding_rows(zip(columns["step"], columns["metric"], columns["value"], strict=True))
    metrics = {
        name: _get_first_and_last(log, metric)
        for name, metric in _TRAINING_METRICS.items()
        if any(metric == logged for _, logged, _ in log)
    }
    if "margin" in metrics:
        metrics["accuracy"] = _summarize_accuracy(log)
    if sft_weight and "loss" in metrics and "loss_sft" not in metrics:
        absent = {"first": None, "last": None, "absent": PARTS_NOT_LOGGED}
        metrics |= {"loss_dpo": absent, "loss_sft": absent}
    return {**manifest.counts, **metrics}


def _get_first_and_last(log: Sequence[LogRow], metric: str) -> Summary:
    values = [value for _, logged, value in log if logged == metric]
    return {"first": values[0], "last": values[-1]}


def _summarize_accuracy(log: Sequence[LogRow]) -> Summary:
    """Return the accuracy at the first and the last margin in the log."""
    margins = [step for step, metric, _ in log if metric == "rewards/margins"]
    values = {step: value for step, metric, value in log if metric == _ACCURACY}
    ends = {"first": values.get(margins[0]), "last": values.get(margins[-1])}
    return ends | ({"absent": NO_ACCURACY_YET} if None in ends.values() else {})


def drop_rounding_rows(log: Iterable[LogRow]) -> list[LogRow]:
    """Drop accuracies from before the first step moved the weights.

    Earlier versions logged them. Policy and reference are equal at step 1, and at step 2 if a
    warm-up starts with the learning rate 0.
    """
    rows = list(log)
    still = any(
        step == 1 and metric == "learning_rate" and rate == 0 for step, metric, rate in rows
    )
    last_equal = 2 if still else 1
    return [row for row in rows if row[1] != _ACCURACY or row[0] > last_equal]


def _summarize_audit(files: IterationFiles) -> Summary | None:
    """Summarize how audits changed the training rows; None if they did not."""
    manifest = files.find_manifest("train")
    if manifest is None or "human" not in manifest.counts:
        return None
    counts = manifest.counts
    return {
        "withheld": files.read("withheld").to_pylist(),
        "withheld_pairs": counts["withheld"],
        "human_pairs": counts["human"],
        "human_pairs_offered": counts["human_offered"],
        "human_share": counts["human"] / counts["rows"],
    }


def describe_audit(audit: Mapping[str, Any] | None) -> list[str]:
    """Describe how audits changed the training rows."""
    if audit is None:
        return []
    said = [
        f"{audit['withheld_pairs']:,} {one['kind']} pairs were withheld from training: "
        f"{one['reason']}"
        for one in audit["withheld"]
    ]
    if audit["human_pairs_offered"]:
        said.append(
            f"{audit['human_pairs']:,} training rows ({audit['human_share']:.1%}) are "
            "human-preferred judgments from audits of earlier iterations, out of "
            f"{audit['human_pairs_offered']:,}"
        )
    return said


def _summarize_ground_truth(
    files: IterationFiles, before: IterationFiles | None, number: int
) -> list[Summary]:
    """Return the ground-truth metrics of M_{t-1} and M_t."""
    known = [
        row
        for source in (before, files)
        if source is not None
        for row in source.read("evaluation").to_pylist()
        if row["basis"] == "oracle"
    ]
    metrics = {(row["model"], row["subject"], row["metric"]): row["value"] for row in known}
    made = [key for key in metrics if key[0] == f"M{number}"]
    return [
        {
            "subject": subject,
            "metric": metric,
            "before": metrics.get((f"M{number - 1}", subject, metric)),
            "after": metrics[model, subject, metric],
        }
        for model, subject, metric in made
    ]
