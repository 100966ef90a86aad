"""The summary of an experiment: M0 and the latest model, with intervals where there are any."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from meta_reward_core.evaluation.clustered_intervals import compute_clustered_change_interval
from meta_reward_core.evaluation.confidence_intervals import compute_graded_mean_interval
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.schemas import build_table
from meta_reward_core.storage.shards import StageOutput
from tests.webapp.watching_fixtures import HTMX, finish, get, run_judging
from webapp.experiments.ground_truth import list_intervals, read_ground_truth_levels
from webapp.experiments.models import Experiment, Iteration, RunStatus
from webapp.experiments.outcome_summary import build_outcome_summary


def make_card(value: float) -> str:
    figure = {"name": "accuracy", "value": value, "count": 20, "low": 0.0, "high": 1.0}
    return json.dumps(
        {"benchmark": "pairs", "model": "", "figures": [figure], "findings": [], "judge": None}
    )


def write_tasks(experiment: Experiment, number: int, values: dict[int, list[float]]) -> None:
    """The tables of `evaluation.tasks`: by model one value for each of the same items."""
    files = ExperimentFiles(ArtifactStore(experiment.artifact_root), experiment.name)
    cards = [
        {"task": "labelled-pairs", "model": f"M{model}", "version": 1,
         "not_evaluated_reason": None, "scorecard": make_card(sum(found) / len(found))}
        for model, found in values.items()
    ]  # fmt: skip
    items = [
        {"task": "labelled-pairs", "model": f"M{model}", "item_id": str(place),
         "prompt_id": f"p{place}", "metric": "accuracy", "part": 0, "value": value}
        for model, found in values.items() for place, value in enumerate(found)
    ]  # fmt: skip
    iteration = files.get_iteration(number)
    output = StageOutput(
        {
            ("task_scorecards", 0): build_table("task_scorecards", cards),
            ("task_items", 0): build_table("task_items", items),
        }
    )
    iteration.publish("evaluate", 0, key="a key", work=output, packages={})


@pytest.fixture
def measured(experiment: Experiment, tmp_path: Path) -> Experiment:
    experiment.artifact_root = str(tmp_path)
    experiment.recipe = {"name": "smoke", "evaluation": {"tasks": [{"name": "labelled-pairs"}]}}
    experiment.save()
    return experiment


def complete(experiment: Experiment, number: int, **metrics: Any) -> Iteration:
    row = Iteration.objects.create(experiment=experiment, number=number, model_in="b" * 64)
    finish(row, **metrics)
    row.refresh_from_db()
    return row


def test_without_a_completed_iteration_there_is_no_summary(
    client: Client, iteration: Iteration
) -> None:
    assert build_outcome_summary(iteration.experiment, [iteration]) is None
    assert "appears once an iteration is completed" in get(client, "/experiments/first")


def test_without_values_per_prompt_there_is_no_interval_and_the_reason_is_given(
    client: Client, experiment: Experiment
) -> None:
    rows = [complete(experiment, 1), complete(experiment, 2)]
    found = build_outcome_summary(experiment, rows)
    assert found is not None
    assert "is unknown" in found.answer
    quality = next(row for row in found.rows if "true quality" in row.measure.title)
    assert (quality.before, quality.after, quality.change) == (3.0, 5.0, 2.0)
    assert (quality.low, quality.interval_text) == (None, "")
    assert "only totals" in quality.why_no_interval
    own = next(row for row in found.rows if "mean score" in row.measure.title)
    assert (own.models, own.why_no_interval) == (
        "M0, M1",
        "each iteration samples different prompts",
    )
    page = get(client, "/experiments/first")
    assert "none: only totals over the held-out prompts are stored" in page
    assert page.index("M0 to M2") < page.index("Metrics by iteration") < page.index("Lineage")


def test_ground_truth_replaces_what_each_iteration_measured_of_its_own_data(
    experiment: Experiment,
) -> None:
    truth = [{"subject": "judge", "metric": "order_agreement", "before": 0.8, "after": 0.9}]
    rows = [complete(experiment, 1, truth=truth), complete(experiment, 2, truth=truth)]
    found = build_outcome_summary(experiment, rows)
    assert found is not None
    judge = [row.measure.title for row in found.rows if row.measure.group == "Judge"]
    assert judge == ["order agreement"]


def test_ground_truth_of_the_same_items_has_a_paired_interval(measured: Experiment) -> None:
    """Of the order agreement, whose pairs share items, the interval is twice as wide."""
    shares = {0: [0.25] * 10 + [0.5] * 10, 1: [0.5] * 10 + [0.75] * 8 + [0.5] * 2}
    items = [
        {"task": "toy", "model": f"M{model}", "item_id": str(place), "prompt_id": str(place),
         "metric": metric, "part": 0, "value": scale * value}
        for model, found in shares.items() for place, value in enumerate(found)
        for metric, scale in (("judge.order_agreement", 1), ("actor.true_quality", 5))
    ]  # fmt: skip
    files = ExperimentFiles(ArtifactStore(measured.artifact_root), measured.name).get_iteration(1)
    output = StageOutput({("task_items", 0): build_table("task_items", items)})
    files.publish("evaluate", 0, key="a key", work=output, packages={})
    measured.recipe = canonicalize_recipe(load_recipe("smoke"))
    measured.save()
    before, after = 0.375, 0.6
    truth = [
        {"subject": subject, "metric": metric, "before": scale * before, "after": scale * after}
        for subject, metric, scale in (
            ("judge", "order_agreement", 1),
            ("actor", "true_quality", 5),
        )
    ]
    found = build_outcome_summary(measured, [complete(measured, 1, truth=truth)])
    assert found is not None
    quality, judge = found.rows
    changes = [now - then for then, now in zip(shares[0], shares[1], strict=True)]
    narrow = compute_clustered_change_interval(changes, list(map(str, range(20))))
    middle = after - before
    assert (quality.low, quality.high) == pytest.approx((5 * narrow.low, 5 * narrow.high))
    assert judge.low == pytest.approx(middle - 2 * (middle - narrow.low))
    assert judge.high == pytest.approx(middle + 2 * (narrow.high - middle))
    assert (judge.count, judge.why_no_interval) == (20, "")
    assert found.answer.startswith("M1 is better than M0 in true quality")


def test_ground_truth_of_each_model_has_an_interval_of_its_own(measured: Experiment) -> None:
    """Order agreement, whose pairs share items, has twice the width, cut off at the scale."""
    shares = {0: [0.25] * 10 + [0.5] * 10, 1: [1.0] * 20}
    items = [
        {"task": "toy", "model": f"M{model}", "item_id": str(place), "prompt_id": str(place),
         "metric": metric, "part": 0, "value": value}
        for model, found in shares.items() for place, value in enumerate(found)
        for metric in ("judge.order_agreement", "meta_judge.accuracy", "actor.length_chars")
    ]  # fmt: skip
    rows = [
        {"model": f"M{model}", "subject": "judge", "metric": "points_per_10_words",
         "value": 1.2, "count": 24, "basis": "oracle"}
        for model in shares
    ]  # fmt: skip
    files = ExperimentFiles(ArtifactStore(measured.artifact_root), measured.name).get_iteration(1)
    tables: dict[str, list[dict[str, Any]]] = {"task_items": items, "evaluation": rows}
    output = StageOutput({(name, 0): build_table(name, found) for name, found in tables.items()})
    files.publish("evaluate", 0, key="a key", work=output, packages={})
    measured.recipe = canonicalize_recipe(load_recipe("smoke"))
    measured.save()
    levels = read_ground_truth_levels(measured, [complete(measured, 1, truth=[{"after": 1.0}])])
    one = compute_graded_mean_interval(shares[0], lowest=0.0, highest=1.0)
    accuracy, order = (levels[0][key] for key in ("meta_judge.accuracy", "judge.order_agreement"))
    assert (accuracy.low, accuracy.high, accuracy.count) == pytest.approx((one.low, one.high, 20))
    assert order.low == pytest.approx(0.375 - 2 * (0.375 - one.low))
    assert levels[1]["judge.order_agreement"].high == 1.0
    filler = levels[0]["judge.points_per_10_words"]
    assert (filler.value, filler.count, filler.low) == (1.2, 24, None)
    length = levels[0]["actor.length_chars"]
    assert length.low is not None
    assert length.high is not None
    half = 2.0930 * 0.125 * (20 / 19) ** 0.5 / 20**0.5
    assert (length.high - length.low) / 2 == pytest.approx(half, abs=1e-4)
    moved = list_intervals(levels, "meta_judge.accuracy", {0: 0.4})
    assert moved == {0: pytest.approx((one.low + 0.025, one.high + 0.025))}


@pytest.mark.parametrize(
    "flipped, verdict", [(0, "no clear change"), (18, "better"), (-18, "worse")]
)
def test_a_change_on_the_same_prompts_has_a_paired_interval(
    measured: Experiment, client: Client, flipped: int, verdict: str
) -> None:
    low, high = [0.0] * 20, [1.0] * abs(flipped) + [0.0] * (20 - abs(flipped))
    before, after = (low, high) if flipped >= 0 else (high, low)
    write_tasks(measured, 1, {0: before, 1: after})
    row = complete(measured, 1, truth=[])
    found = build_outcome_summary(measured, [row])
    assert found is not None
    (task,) = [one for one in found.rows if one.interval_text]
    changes = [now - then for then, now in zip(before, after, strict=True)]
    expected = compute_clustered_change_interval(changes, [f"p{n}" for n in range(20)])
    assert (task.low, task.high) == pytest.approx((expected.low, expected.high))
    assert (task.verdict, task.count) == (verdict, 20)
    assert verdict in found.answer.lower()
    assert task.sentence.endswith(f": {verdict}")
    assert task.interval_text in get(client, "/experiments/first")


def test_status_and_lineage_change_together_in_one_update(
    client: Client, iteration: Iteration
) -> None:
    """An update of the status brings the lineage with it, and the tab's title."""
    run_judging(iteration)
    assert ">running</span></td>" in get(client, "/experiments/first")
    update = get(client, "/experiments/first?seen=0", **HTMX)
    assert '<section id="lineage" hx-swap-oob="true">' in update
    assert "<title>" in update
    assert "% · Experiment first" in update
    Iteration.objects.update(status=RunStatus.PAUSED)
    Experiment.objects.update(status=RunStatus.PAUSED)
    update = get(client, "/experiments/first?seen=0", **HTMX)
    lineage = update[update.index('<section id="lineage"') :]
    assert ">paused</span>" in lineage
    assert ">running</span>" not in lineage
    assert update.count(">paused</span>") == 3, "experiment, iteration, lineage"
