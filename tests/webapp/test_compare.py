"""Several experiments beside each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.experiment_files import ExperimentFiles
from meta_reward_core.storage.schemas import build_table
from meta_reward_core.storage.shards import StageOutput
from tests.webapp.conftest import make_person
from tests.webapp.experiment_form_fixtures import HTMX, make_experiment, storage_roots
from webapp.experiment_form.compare import describe_identical_curves
from webapp.experiments.models import Experiment, Iteration

pytestmark = pytest.mark.django_db

__all__ = ["storage_roots"]

COMPARE = "/experiments/compare"


def finished(row: Experiment, number: int, **metrics: Any) -> None:
    Iteration.objects.create(
        experiment=row, number=number, model_in="b" * 64, status="finished", metrics=metrics
    )


def chart(answer: Any, title: str) -> Any:
    groups = answer.context["comparison"].groups
    return next(one for group in groups for one in group.charts if one.title == title)


def test_only_what_differs_is_listed(client: Client) -> None:
    make_experiment("a")
    make_experiment("b", changes=["actor.samples=5"], seed=2)
    answer = client.get(f"{COMPARE}?name=b&name=a")
    rows = [
        (row.key, [(cell.experiment, cell.text) for cell in row.cells])
        for row in answer.context["comparison"].differences
    ]
    assert rows == [
        ("seed", [("b", "2"), ("a", "1")]),
        ("actor.samples", [("b", "5"), ("a", "7")]),
    ]


def test_figures_become_curves_and_what_is_missing_stays_missing(client: Client) -> None:
    first, second = make_experiment("a"), make_experiment("b")
    finished(first, 1, judge={"mean": 3.5}, pairs=[{"kind": "actor", "pairs": 30}])
    finished(first, 2, judge={"mean": None})
    finished(second, 1, judge=None, truth=[{"subject": "actor", "metric": "quality", "after": 2}])
    answer = client.get(f"{COMPARE}?name=a&name=b")
    mean = chart(answer, "Mean score")
    assert mean.table.columns[1:] == ("a", "b")
    assert mean.table.rows[0][1].startswith("3.5")
    assert "0" not in [cell for row in mean.table.rows for cell in row[1:]]
    assert chart(answer, "Preference pairs, actor").table.rows[0][1] == "30"
    assert chart(answer, "Actor: quality").table.rows[0][2] == "2"
    titles = [one.title for group in answer.context["comparison"].groups for one in group.charts]
    assert "Readable judgments" not in titles


def test_the_axis_of_a_share_ends_at_one(client: Client) -> None:
    row, other = make_experiment("a"), make_experiment("b")
    truth = [{"subject": "judge", "metric": "order_agreement", "after": 1.0}]
    finished(row, 1, judge={"mean": 1.0, "parse_rate": 1.0}, truth=truth)
    finished(
        other, 1, training={"accuracy": {"last": 1.0}}, pairs=[{"kind": "actor", "yield_rate": 1}]
    )
    answer = client.get(f"{COMPARE}?name=a&name=b")
    for title in (
        "Readable judgments",
        "Judge: order agreement",
        "Final DPO accuracy",
        "Prompts with a pair, actor",
    ):
        assert chart(answer, title).y_ticks[-1].text == "1.0", title
    assert chart(answer, "Mean score").y_ticks[-1].text == "1.6", "points have air above"


def test_without_a_finished_iteration_it_says_so(client: Client) -> None:
    make_experiment("a")
    make_experiment("b")
    page = client.get(f"{COMPARE}?name=a&name=b").content.decode()
    assert "The recipes are identical." in page
    assert "None of these experiments has completed an iteration yet." in page


def test_results_from_m0_on_stand_before_the_charts(client: Client) -> None:
    row, other = make_experiment("a"), make_experiment("b")
    for number, (before, after) in enumerate([(0.7, 0.75), (0.75, 0.8)], start=1):
        truth = [
            {"subject": "judge", "metric": "order_agreement", "before": before, "after": after}
        ]
        finished(row, number, truth=truth)
    answer = client.get(f"{COMPARE}?name=a&name=b")
    page = answer.content.decode()
    assert page.index("Results") < page.index("Recipes") < page.index("Metrics by iteration")
    (result,) = answer.context["comparison"].results
    assert (result.group, result.title) == ("Judge", "order agreement")
    assert [name for name, found in result.cells if found is None] == ["b"]
    assert "0.700 → 0.800</span> <b>+0.100</b>" in page
    assert "no interval: only totals over the held-out prompts are stored" in page
    drawn = chart(answer, "Judge: order agreement")
    assert [cells[0] for cells in drawn.table.rows] == ["M0", "M1", "M2"], "M0 is there"
    assert drawn.table.rows[0][1] == "0.7"
    assert Experiment.objects.get(name="b") == other


def test_the_results_have_a_difference_of_the_latest_models(client: Client) -> None:
    for name, after in (("a", 0.8), ("b", 0.75)):
        truth = [{"subject": "judge", "metric": "order_agreement", "before": 0.7, "after": after}]
        finished(make_experiment(name), 1, truth=truth)
    page = client.get(f"{COMPARE}?name=a&name=b").content.decode()
    assert "Difference: b − a</th>" in page
    assert "<b>−0.050</b>" in page


def test_a_difference_of_other_models_names_them(client: Client) -> None:
    truth = [{"subject": "judge", "metric": "order_agreement", "before": 0.7, "after": 0.8}]
    for name, iterations in (("a", 2), ("b", 1), ("c", 2)):
        row = make_experiment(name)
        for number in range(1, iterations + 1):
            finished(row, number, truth=truth)
    answer = client.get(f"{COMPARE}?name=a&name=b&name=c")
    (result,) = answer.context["comparison"].results
    assert result.differences == [("b", "0.000 (M1 − M2)"), ("c", "0.000")]
    assert "Difference from a</th>" in answer.content.decode()


def test_identical_curves_are_named_and_the_legend_stands_once(client: Client) -> None:
    rows = {name: make_experiment(name) for name in "abc"}
    for number, scores in enumerate([(3.0, 3.0, 3.0), (3.2, 3.2, 3.1), (3.4, 3.3, 3.1)], start=1):
        for row, mean in zip(rows.values(), scores, strict=True):
            finished(row, number, judge={"mean": mean, "scored": 40}, response_chars=90.0 + mean)
    answer = client.get(f"{COMPARE}?name=a&name=b&name=c")
    note = "a and b: identical from M0 to M1. a, b and c: identical at M0."
    (group,) = answer.context["comparison"].groups
    assert group.note == f"{note} M3 has generated no data yet."
    assert [one.description for one in group.charts] == ["", ""]
    page = answer.content.decode()
    assert page.count(note) == 1
    assert page.count('class="chart-legend"') == 1
    assert chart(answer, "Mean score").table.columns[1:3] == ("a", "a: n")


def test_the_settings_that_differ_are_one_sentence(client: Client) -> None:
    make_experiment("a")
    make_experiment("b", changes=["actor.samples=5"], seed=2)
    make_experiment("c")
    said = "Different settings: seed (1 / 2) and actor.samples (7 / 5). All others are identical."
    assert said in client.get(f"{COMPARE}?name=a&name=b").content.decode()
    same = client.get(f"{COMPARE}?name=a&name=c").content.decode()
    assert "Recipe, seed and base model are identical." in same


def test_each_chart_has_the_difference_at_the_last_common_model(client: Client) -> None:
    rows = {name: make_experiment(name) for name in "ab"}
    for number, means in ((1, (3.0, 3.2)), (2, (3.0, None))):
        for row, mean in zip(rows.values(), means, strict=True):
            judge = {"mean": mean, "parse_rate": 1.0, "scored": 40}
            finished(row, number, judge=judge, response_chars=50.0 + number)
    answer = client.get(f"{COMPARE}?name=a&name=b")
    assert chart(answer, "Mean score").verdict == "M0: b +0.20 compared with a."
    assert chart(answer, "Mean score").count == "n = 40 judgments"
    assert chart(answer, "Length of responses").verdict == "M1: no difference between b and a."
    (group,) = answer.context["comparison"].groups
    assert group.constant == [("Readable judgments", "1")]
    assert "Readable judgments" not in [one.title for one in group.charts]
    page = answer.content.decode()
    assert "the difference from a at the last model that both have" in page
    assert "1 metric equal for all models of all experiments" in page
    assert '<div class="sticky"><ul class="chart-legend">' in answer.content.decode()


def measure(row: Experiment, values: Sequence[float]) -> None:
    """Complete an iteration with the true quality of each held-out prompt."""
    items = [
        {"task": "toy", "model": "M1", "item_id": str(place), "prompt_id": str(place),
         "metric": "actor.true_quality", "part": 0, "value": value}
        for place, value in enumerate(values)
    ]  # fmt: skip
    files = ExperimentFiles(ArtifactStore(row.artifact_root), row.name).get_iteration(1)
    tables: dict[str, list[dict[str, Any]]] = {"task_items": items, "evaluation": []}
    output = StageOutput({(name, 0): build_table(name, found) for name, found in tables.items()})
    files.publish("evaluate", 0, key="a key", work=output, packages={})
    after = sum(values) / len(values)
    truth = [{"subject": "actor", "metric": "true_quality", "before": None, "after": after}]
    finished(row, 1, truth=truth)


@pytest.mark.parametrize("prompts, is_paired", [(120, True), (60, False)])
def test_a_difference_on_the_same_held_out_prompts_is_paired(
    client: Client, tmp_path: Path, prompts: int, is_paired: bool
) -> None:
    """Quality varies much between prompts, but b is better by 0.4 to 0.6 on each of them."""
    first = [float(place % 5) for place in range(40)]
    second = [value + (0.4, 0.6)[place % 2] for place, value in enumerate(first)]
    measure(
        make_experiment("a", artifact_root=str(tmp_path), changes=["evaluation.prompts=120"]), first
    )
    measure(
        make_experiment(
            "b", artifact_root=str(tmp_path), changes=[f"evaluation.prompts={prompts}"]
        ),
        second,
    )
    said = chart(client.get(f"{COMPARE}?name=a&name=b"), "Actor: true quality").verdict
    assert said.startswith("M1: b +0.50 [")
    assert said.endswith(
        "compared with a: higher, paired by prompt."
        if is_paired
        else "compared with a: no clear difference, not paired."
    )


def test_curves_that_differ_from_the_start_have_no_note() -> None:
    assert describe_identical_curves({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.5, 1: 2.0}}) == ""
    assert describe_identical_curves({"a": {0: None}, "b": {0: None}}) == ""


def test_the_axes_can_show_the_whole_range(client: Client) -> None:
    for name, mean in (("a", 3.0), ("b", 3.1)):
        finished(make_experiment(name), 1, judge={"mean": mean}, response_chars=50.0 + mean)
    fitted = client.get(f"{COMPARE}?name=a&name=b")
    assert float(chart(fitted, "Mean score").y_ticks[0].text) > 2
    assert "?name=a&amp;name=b&amp;axis=whole#metrics" in fitted.content.decode()
    whole = client.get(f"{COMPARE}?name=a&name=b&axis=whole")
    ticks = [tick.text for tick in chart(whole, "Mean score").y_ticks]
    assert (ticks[0], ticks[-1]) == ("0", "5")
    assert chart(whole, "Length of responses").y_ticks[0].text == "0"
    assert 'href="?name=a&amp;name=b#metrics"' in whole.content.decode()


def test_one_needs_another(client: Client) -> None:
    make_experiment("a")
    assert (
        "Choose at least one more experiment." in client.get(f"{COMPARE}?name=a").content.decode()
    )
    assert "Start one" not in client.get(COMPARE).content.decode()


def test_with_no_experiment_the_form_is_offered(client: Client) -> None:
    assert "Start one" in client.get(COMPARE).content.decode()


def test_strangers_private_experiments_are_not_there(client: Client) -> None:
    make_experiment("a")
    make_experiment("unseen-one", is_private=True, owner=make_person("bob", "operator"))
    page = client.get(f"{COMPARE}?name=a&name=unseen-one").content.decode()
    assert "/experiments/unseen-one" not in page
    assert "Choose at least one more experiment." in page


def test_more_than_can_be_told_apart_are_cut(client: Client) -> None:
    for number in range(8):
        make_experiment(f"e{number}")
    query = "&".join(f"name=e{number}" for number in range(8))
    answer = client.get(f"{COMPARE}?{query}")
    assert len(answer.context["comparison"].experiments) == 6
    assert "Only the first 6 are compared" in answer.content.decode()


def test_htmx_gets_the_comparison_alone(client: Client) -> None:
    make_experiment("a")
    region = client.get(f"{COMPARE}?name=a", headers=HTMX).content.decode()
    assert "<html" not in region
    assert 'id="comparison"' in region
    restored = {**HTMX, "HX-History-Restore-Request": "true"}
    assert "<html" in client.get(COMPARE, headers=restored).content.decode()


def test_hostile_recipes_stay_text(client: Client) -> None:
    make_experiment("a", changes=['actor.system_prompt="<script>alert(1)</script>"'])
    make_experiment("b")
    assert "<script>alert" not in client.get(f"{COMPARE}?name=a&name=b").content.decode()


def test_only_who_may_see_compares(client: Client) -> None:
    assert Client().get(COMPARE).status_code == 302
    assert client.post(COMPARE).status_code == 405
    client.force_login(make_person("otto", "auditor"))
    assert client.get(COMPARE).status_code == 403
    client.force_login(make_person("vera", "viewer"))
    assert client.get(COMPARE).status_code == 200


def test_it_asks_the_database_little(
    client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(6):
        finished(make_experiment(f"e{number}"), 1, judge={"mean": 1.0})
    query = "&".join(f"name=e{number}" for number in range(6))
    with django_assert_max_num_queries(8):
        client.get(f"{COMPARE}?{query}")
