"""What an iteration did, as one plain dictionary: for people, for `--json` and for pages.

Reads the iteration's files; knows no terminal, no database and loads no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from meta_reward_core.config import Recipe
from meta_reward_core.evaluation.own_data import measure_iteration
from meta_reward_core.measures import IterationMeasures, find_alarms
from meta_reward_core.records import PairKind
from meta_reward_core.shards import Counts, IterationFiles

Summary = dict[str, Any]

_PAIR_KINDS: Final[tuple[PairKind, ...]] = ("actor", "judge")
_TRAINING_FIGURES: Final = {
    "loss": "loss",
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
}


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the shards of one stage ran, and what those very shards generated."""

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
    """Sum up an iteration; one that is not finished as far as it goes.

    Args:
        files: of the iteration.
        number: t, from 1.
        stages: names of the steps in the paper's order.
        before: files of the iteration before, for what compares two.
        timings: by stage, where they are known.

    Returns:
        Plain values alone; what was not measured is None or absent.
    """
    measured = _measure(files, number, recipe)
    earlier = _measure(before, number - 1, recipe) if before is not None else None
    return {
        "iteration": number,
        "finished": files.store.exists(f"{files.folder}/manifest.json"),
        "model_out": files.promised_checkpoint(),
        "stages": _stages(files, stages, timings or {}),
        "outside_judge": recipe.judge.endpoint,
        "judge": asdict(measured.judge) if measured.judge else None,
        "meta_judge": asdict(measured.meta_judge) if measured.meta_judge else None,
        "pairs": [asdict(pairs) for pairs in measured.pairs],
        "response_chars": measured.response_chars,
        "score_length_correlation": measured.score_length_correlation,
        "training": _training(files),
        "audit": _audit(files),
        "truth": _truth(files, before, number),
        "alarms": [asdict(alarm) for alarm in find_alarms(measured, before=earlier)],
    }


def _measure(files: IterationFiles, number: int, recipe: Recipe) -> IterationMeasures:
    kinds = [
        kind
        for kind in _PAIR_KINDS
        if recipe.trains_on(kind, number) and files.manifest(f"pair_{kind}") is not None
    ]
    return measure_iteration(files, kinds=kinds)


def _stages(
    files: IterationFiles, stages: Sequence[str], timings: Mapping[str, Timing]
) -> list[Summary]:
    rows = []
    for stage in stages:
        made = [manifest for manifest in files.manifests() if manifest.stage == stage]
        timing = timings.get(stage)
        if made:
            rows.append(
                {
                    "stage": stage,
                    "shards": len(made),
                    "counts": add_counts(manifest.counts for manifest in made),
                    "seconds": timing.seconds if timing else None,
                    "tokens_per_second": _rate(timing),
                }
            )
    return rows


def add_counts(counts: Any) -> Counts:
    """Add up counts name by name, in the order in which names first appear."""
    total: Counts = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total


def _rate(timing: Timing | None) -> float | None:
    if timing is None or not timing.tokens or not timing.seconds:
        return None
    return timing.tokens / timing.seconds


def _training(files: IterationFiles) -> Summary | None:
    """First and last figure of the training's log, and the rows that went in."""
    manifest = files.manifest("train")
    if manifest is None:
        return None
    log = files.read("training_log").to_pylist()
    figures = {
        name: [row["value"] for row in log if row["metric"] == metric]
        for name, metric in _TRAINING_FIGURES.items()
    }
    return {
        **manifest.counts,
        **{
            name: {"first": values[0], "last": values[-1]}
            for name, values in figures.items()
            if values
        },
    }


def _audit(files: IterationFiles) -> Summary | None:
    """What people's audits changed about the rows that trained; None where nothing."""
    manifest = files.manifest("train")
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


def audit_sentences(audit: Mapping[str, Any] | None) -> list[str]:
    """Say in words what people's audits changed about the rows that trained."""
    if audit is None:
        return []
    said = [
        f"{audit['withheld_pairs']:,} {one['kind']} pairs were withheld from training: "
        f"{one['reason']}"
        for one in audit["withheld"]
    ]
    if audit["human_pairs_offered"]:
        said.append(
            f"{audit['human_pairs']:,} rows of the training ({audit['human_share']:.1%}) are "
            "judgments that people preferred in audits of earlier iterations; "
            f"{audit['human_pairs_offered']:,} were there"
        )
    return said


def _truth(files: IterationFiles, before: IterationFiles | None, number: int) -> list[Summary]:
    """The oracle's figures of M_{t-1} and M_t; of the earlier one its own iteration took them."""
    known = [
        row
        for source in (before, files)
        if source is not None
        for row in source.read("evaluation").to_pylist()
        if row["basis"] == "oracle"
    ]
    figures = {(row["model"], row["subject"], row["metric"]): row["value"] for row in known}
    made = [key for key in figures if key[0] == f"M{number}"]
    return [
        {
            "subject": subject,
            "metric": metric,
            "before": figures.get((f"M{number - 1}", subject, metric)),
            "after": figures[model, subject, metric],
        }
        for model, subject, metric in made
    ]
