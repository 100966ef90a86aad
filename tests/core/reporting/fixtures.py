"""Runs with figures made by hand, as if experiments had been evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.reporting.run_loader import ExperimentRun, MetricValues
from meta_reward_core.reporting.scorecard_schema import ScorecardDict

QUALITY = ("actor", "true_quality", "oracle")
EXACT = ("judge", "single_judgment_exact", "oracle")


def make_run(
    name: str,
    *,
    recipe: str = "miniature",
    seed: int = 1,
    seed_model: str = "SFT seed 1",
    metrics: MetricValues | None = None,
    iterations: int = 2,
    **changes: Any,
) -> ExperimentRun:
    """A run of two iterations whose quality is 3.0, 3.1, 3.2 and exactness .4, .5, .6."""
    loaded: Recipe = load_recipe(recipe)
    known: MetricValues = {}
    for t in range(iterations + 1):
        known[f"M{t}", *QUALITY] = (3.0 + t / 10, 100)  # type: ignore[index]
        known[f"M{t}", *EXACT] = (0.4 + t / 10, 500)  # type: ignore[index]
    run = ExperimentRun(
        name=name,
        recipe=loaded,
        recipe_sha256=loaded.sha256,
        seed=seed,
        seed_model=seed_model,
        models=[letter * 64 for letter in "abcdef"[: iterations + 1]],
        summaries=[make_summary(t) for t in range(1, iterations + 1)],
        metrics=known | (metrics or {}),
        steps=[30] * iterations,
        cards={},
        packages={"torch": "2.13.0"},
    )
    return replace(run, **changes)


def make_summary(number: int, **changes: Any) -> dict[str, Any]:
    """As `summarize_iteration` makes them."""
    counts = {"generate": 100, "judge": 2000, "meta_judge": 500}
    return {
        "iteration": number,
        "stages": [
            *(
                {"stage": stage, "shards": 1, "counts": {"tokens": tokens}, "seconds": 2.0}
                for stage, tokens in counts.items()
            ),
            {"stage": "train", "shards": 1, "counts": {"trained": 240}, "seconds": 4.0},
        ],
        "judge": {"mean": 3.0, "histogram": [0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1]},
        "meta_judge": {
            "won_by_higher_score": 0.7,
            "won_by_first": 0.55,
            "inconsistency": 0.1,
        },
        "pairs": [{"kind": "judge", "pairs": 90, "dropped": {"equal_text": 10}}],
        "response_chars": 70.0,
        "alarms": [],
        **changes,
    }


def with_values(
    run: ExperimentRun, values: Mapping[tuple[str, str], float], last: int = 2
) -> ExperimentRun:
    """The run with other figures of its last model, by (subject, metric)."""
    changed: MetricValues = {
        (f"M{last}", subject, metric, "oracle"): (value, 100)
        for (subject, metric), value in values.items()
    }
    return replace(run, metrics=run.metrics | changed)


def make_card(benchmark: str, metrics: Mapping[str, float], **changes: Any) -> ScorecardDict:
    """A scorecard as `evaluate --output` writes it."""
    return {
        "benchmark": benchmark,
        "reference": None,
        "figures": [
            {"name": name, "value": value, "count": 805, "low": value - 1, "high": value + 1,
             "absent": None}
            for name, value in metrics.items()
        ],
        "findings": [],
        **changes,
    }  # fmt: skip


def finding(name: str, sentence: str) -> Mapping[str, Any]:
    """A finding as it stands in a scorecard."""
    return {"name": name, "sentence": sentence, "advice": "Look.", "rows": 3}


def cells(rows: Sequence[Sequence[str]], heading: str) -> list[str]:
    """The cells of the row of a heading."""
    return next(list(row[1:]) for row in rows if row[0] == heading)
