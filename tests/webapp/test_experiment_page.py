"""The page of one experiment: where it stands, where its models come from, how it went."""

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client
from pytest_django.fixtures import Settings

from meta_reward_core.evaluation.alarms import AlarmName
from meta_reward_core.evaluation.confidence_intervals import Interval
from meta_reward_core.evaluation.scorecard import Metric
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.loader import load_recipe
from tests.webapp.conftest import make_person
from tests.webapp.watching_fixtures import (
    HOSTILE,
    HTMX,
    RESTORE,
    add_stage,
    count_queries,
    finish,
    get,
    make_private,
    run_judging,
)
from webapp.dashboard.alarms import MEANINGS
from webapp.dashboard.experiment_charts import build_experiment_charts
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, Iteration, JobKind, Shard
from webapp.experiments.own_data_intervals import OwnDataInterval

pytestmark = pytest.mark.django_db

PATH = "/experiments/first"


def test_a_new_experiment_says_that_nothing_has_happened(
    client: Client, experiment: Experiment
) -> None:
    page = get(client, PATH)
    assert "0 of 1 iteration completed" in page
    assert "Charts appear once an iteration is completed." in page
    assert "Run iteration 1" in page
    assert "hx-get" not in page


def test_the_pages_about_an_experiment_are_linked(client: Client, iteration: Iteration) -> None:
    page = get(client, PATH)
    for link in ("duplicate", "playground", "files"):
        assert f'href="{PATH}/{link}"' in page
    assert 'href="/experiments/compare?name=first"' in page
    assert 'href="/activity?experiment=first"' in page
    assert 'href="/experiments/new"' in get(client, "/")
    page = get(client, f"{PATH}/iterations/1")
    for link in ("prompts", "what-if"):
        assert f'href="{PATH}/iterations/1/{link}"' in page


@pytest.mark.parametrize("headers, is_whole", [({}, True), (HTMX, False), (RESTORE, True)])
def test_htmx_gets_the_state_alone_and_going_back_the_page(
    client: Client, iteration: Iteration, headers: dict[str, str], is_whole: bool
) -> None:
    run_judging(iteration)
    answer = client.get(PATH, headers=headers)
    page = answer.content.decode()
    assert ("<html" in page) == is_whole
    assert ("Metrics by iteration" in page) == is_whole
    assert page.count('id="experiment-state"') == 1
    assert "HX-Request" in answer.headers["Vary"]


def test_the_state_asks_again_while_it_runs_and_only_then(
    client: Client, iteration: Iteration
) -> None:
    run_judging(iteration)
    assert 'hx-get="/experiments/first?seen=0" hx-trigger="every 2s"' in get(client, PATH, **HTMX)
    finish(iteration)
    assert "hx-get" not in get(client, PATH, **HTMX)


@pytest.mark.parametrize("path", [PATH, f"{PATH}/iterations/1"])
def test_watchers_share_what_is_drawn_and_who_steers_does_not(
    client: Client, iteration: Iteration, alice: User, settings: Settings, path: str
) -> None:
    settings.META_REWARD_REGION_SECONDS = 60.0
    cache.clear()
    one, other = (signed_in(make_person(name, "viewer")) for name in ("vic", "vera"))
    run_judging(iteration)
    before = get(one, path, **HTMX)
    drawn = count_queries(one, path, **HTMX)
    Iteration.objects.filter(pk=iteration.pk).update(status="failed", message="it broke")
    assert get(other, path, **HTMX) == before
    assert drawn < count_queries(client, path, **HTMX)
    assert "it broke" in get(client, path, **HTMX)
    assert "it broke" in get(other, f"{path}?page=1", **HTMX)  # another address
    assert "it broke" in get(other, path)
    make_private(iteration.experiment, alice)
    assert other.get(path, headers=HTMX).status_code == 404
    cache.clear()


def signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def test_once_an_iteration_is_finished_the_page_comes_anew(
    client: Client, iteration: Iteration
) -> None:
    run_judging(iteration)
    assert "HX-Refresh" not in client.get(f"{PATH}?seen=0", headers=HTMX).headers
    finish(iteration)
    assert client.get(f"{PATH}?seen=0", headers=HTMX).headers["HX-Refresh"] == "true"
    assert "HX-Refresh" not in client.get(f"{PATH}?seen=1", headers=HTMX).headers


def test_another_browser_sees_the_same(client: Client, iteration: Iteration) -> None:
    run_judging(iteration)
    other = Client()
    other.force_login(make_person("vera", "viewer"))
    assert "2 of 4 shards" in get(client, PATH)
    assert "2 of 4 shards" in get(other, PATH)


def test_curves_and_their_numbers_stand_on_the_page(client: Client, iteration: Iteration) -> None:
    """Quality 3 before and 4 after iteration 1; then 5: three points, from M0 to M2."""
    finish(iteration)
    finish(Iteration.objects.create(experiment=iteration.experiment, number=2))
    page = get(client, PATH)
    assert "True quality: quality, 0 to 5 by model" in page
    for model, quality in ((0, 3), (1, 4), (2, 5)):
        assert f'<th scope="row">M{model}</th><td>{quality}</td>' in page
    assert "actor: all scores equal" in page
    assert "Biases of the meta-judge" not in page  # nobody measured them


def test_the_axis_of_a_share_ends_at_one() -> None:
    always = {"first": 1.0, "last": 1.0}
    metrics = {"training": {"accuracy": always}, "judge": {"parse_rate": 1.0}}
    drawn = {
        one.title: one for one in build_experiment_charts([Iteration(number=1, metrics=metrics)])
    }
    assert drawn.keys() == {"DPO: accuracy", "Readable replies"}
    assert [chart.y_ticks[-1].text for chart in drawn.values()] == ["1.0", "1.0"]


def test_all_charts_have_the_models_on_one_axis() -> None:
    """Iteration 1 is judged by M0 and trains M1, so with two iterations the axis is M0 to M2."""
    truth = [{"subject": "actor", "metric": "true_quality", "before": 3.0, "after": 4.0}]
    metrics = {
        "judge": {"mean": 3.0, "scored": 40},
        "training": {"loss": {"first": 0.7, "last": 0.5}},
        "truth": truth,
    }
    rows = [Iteration(number=number, metrics=metrics) for number in (1, 2)]
    drawn = {one.title: one for one in build_experiment_charts(rows)}
    assert [[tick.text for tick in chart.x_ticks] for chart in drawn.values()] == [
        ["M0", "M1", "M2"]
    ] * 3
    models = {title: [row[0] for row in chart.table.rows] for title, chart in drawn.items()}
    assert models == {
        "True quality": ["M0", "M1", "M2"],
        "Mean judge score": ["M0", "M1"],
        "DPO: loss": ["M1", "M2"],
    }
    assert drawn["Mean judge score"].table.rows[0] == ("M0", "3", "40")


def test_intervals_and_counts_of_held_out_items_are_drawn() -> None:
    truth = [{"subject": "judge", "metric": "order_agreement", "before": 0.7, "after": 0.8}]
    found = Metric("judge.order_agreement", 0.7, 32, 0.6, 0.75)
    levels = {0: {"judge.order_agreement": found}}
    (chart,) = build_experiment_charts([Iteration(number=1, metrics={"truth": truth})], levels)
    name = "judge: order"
    assert chart.table.columns == ("model", name, f"{name}: 95% CI", f"{name}: n")
    assert chart.table.rows == (("M0", "0.7", "0.6 to 0.75", "32"), ("M1", "0.8", "–", "–"))
    assert chart.lines[0].intervals.count("V") == 1


def test_the_effect_of_filler_is_drawn_with_its_correct_value() -> None:
    truth = [{"subject": "judge", "metric": "points_per_10_words", "before": 1.2, "after": 1.1}]
    (chart,) = build_experiment_charts([Iteration(number=1, metrics={"truth": truth})])
    assert chart.reference is not None
    assert chart.reference.text == "correct value: 0"
    assert chart.y_ticks[0].text == "-0.5", "the correct value is not on the axis itself"


def test_a_chart_says_what_has_changed_and_from_how_many_values() -> None:
    """The interval of the change is paired, and moved to the displayed change of +0.1."""
    truth = [{"subject": "judge", "metric": "order_agreement", "before": 0.7, "after": 0.8}]
    found = Metric("judge.order_agreement", 0.7, 32, 0.6, 0.75)
    change = Metric("judge.order_agreement", 0.11, 32, 0.03, 0.19)
    (chart,) = build_experiment_charts(
        [Iteration(number=1, metrics={"truth": truth})],
        {0: {"judge.order_agreement": found}},
        {},
        {"judge.order_agreement": change},
    )
    assert chart.verdict == "M0 to M1: +0.100 [+0.020, +0.180], better."
    assert chart.count == "n = 32 held-out items"
    assert not chart.has_legend, "one line needs none"


def test_metrics_of_generated_data_have_intervals_of_different_prompts() -> None:
    """3.0 -+ 0.3 and 3.6 -+ 0.4 differ by 0.6 -+ 0.5: the half-widths are at right angles."""
    rows = [
        Iteration(number=number, metrics={"judge": {"mean": mean, "scored": count}})
        for number, mean, count in ((1, 3.0, 40), (2, 3.6, 44))
    ]
    own = {
        number: {"judge.mean": OwnDataInterval(Interval(mean - half, mean + half), 20)}
        for number, mean, half in ((1, 3.0, 0.3), (2, 3.6, 0.4))
    }
    (chart,) = build_experiment_charts(rows, {}, own)
    assert chart.title == "Mean judge score"
    assert chart.verdict == "M0 to M1: +0.60 [+0.10, +1.10], higher."
    assert chart.count == "n = 40 to 44 judgments"
    assert chart.lines[0].intervals.count("V") == 2
    assert "M2 has generated no data yet." in chart.description


def test_the_lineage_says_what_each_model_was_trained_on(
    client: Client, iteration: Iteration
) -> None:
    Experiment.objects.update(recipe={"name": "smoke", "train_on": [["actor", "judge"]]})
    finish(iteration)
    for name, counts in (
        ("sample", {"prompts": 36}),
        ("pair_actor", {"pairs": 30, "dropped": 6}),
        ("train", {"kept_step": 1250, "trained": 30}),
    ):
        stage = add_stage(iteration, name=name, position=len(name), status="finished")
        Shard.objects.create(stage=stage, index=0, status="finished", counts=counts)
    page = get(client, PATH)
    assert "M0, also the reference model" in page
    assert "30 actor (6 prompts without a pair), judge: pending" in page
    assert "step 1,250" in page
    assert f'<code title="{"c" * 64}">{"c" * 12}</code>' in page


def test_a_seed_model_of_the_hub_is_named_at_its_commit(
    client: Client, iteration: Iteration
) -> None:
    commit = "0123456789" * 4
    Experiment.objects.update(base_model_folder=f"/models/org/name@{commit}")
    page = get(client, PATH)
    assert "base model org/name from the Hugging Face Hub, commit" in page
    assert f'<code title="{commit}">012345678901</code>' in page


def test_values_that_differ_from_the_shipped_recipe_are_marked(
    client: Client, experiment: Experiment
) -> None:
    recipe = canonicalize_recipe(load_recipe("smoke", changes=["actor.samples=5"]))
    Experiment.objects.update(recipe=recipe)
    page = get(client, PATH)
    assert "1 value differs from the built-in recipe" in page
    changed = page.split('<tr class="changed">')[1].split("</tr>")[0]
    assert "actor.samples" in changed
    assert '<td data-label="Value here">5 </td>' in changed
    assert '<td data-label="Built-in value">7</td>' in changed
    Experiment.objects.update(recipe=canonicalize_recipe(load_recipe("smoke")))
    assert "Identical to the built-in recipe" in get(client, PATH)
    Experiment.objects.update(recipe={"name": "my-own"})
    assert "no built-in recipe of this name" in get(client, PATH)


def test_an_alarm_says_what_it_means_and_what_to_try(client: Client, iteration: Iteration) -> None:
    alarm = {"name": "length_growth", "sentence": "Grew from 70 to 99.", "advice": "Raise rho."}
    finish(iteration, alarms=[alarm])
    page = get(client, PATH)
    assert "Iteration 1: Length growth" in page
    assert "Grew from 70 to 99." in page
    assert "Judges prefer long responses" in page
    assert "Suggested action: Raise rho." in page


def test_every_alarm_has_a_meaning() -> None:
    assert set(MEANINGS) == set(AlarmName.__args__)  # type: ignore[attr-defined]


def test_an_order_is_shown_until_it_is_done_or_refused(
    client: Client, experiment: Experiment, alice: User
) -> None:
    job = enqueue_job(JobKind.NEXT, by=alice, experiment=experiment)
    page = get(client, PATH)
    assert "start the next iteration, requested by alice" in page
    assert "hx-get" in page
    assert "steer-next" not in page
    type(job).objects.update(status="refused", message="no room on the disk")
    page = get(client, PATH)
    assert "no room on the disk" in page
    assert "hx-get" not in page
    assert "steer-next" in page


def test_text_of_others_is_never_html(client: Client, iteration: Iteration, alice: User) -> None:
    stage = run_judging(iteration)
    type(stage).objects.update(title=HOSTILE)
    Experiment.objects.update(
        recipe={"name": HOSTILE, "rubric": HOSTILE * 100, "train_on": [[HOSTILE]]},
        base_model_folder=f"/models/{HOSTILE}",
    )
    Iteration.objects.update(message=HOSTILE)
    finish(
        Iteration.objects.create(experiment=iteration.experiment, number=2),
        alarms=[{"name": HOSTILE, "sentence": HOSTILE, "advice": HOSTILE}],
        pairs=[{"kind": "actor", "pairs": 1, "dropped": {HOSTILE: 1}}],
    )
    Experiment.objects.update(status="running")
    job = enqueue_job(JobKind.PAUSE, by=alice, experiment=iteration.experiment)
    type(job).objects.update(message=HOSTILE, status="refused")
    page = get(client, PATH)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "{{ 7|add:7 }}" in page


def test_strangers_are_kept_out(client: Client, experiment: Experiment) -> None:
    assert Client().get(PATH).status_code == 302
    auditor = Client()
    auditor.force_login(make_person("ada", "auditor"))
    assert auditor.get(PATH).status_code == 403
    make_private(experiment, make_person("bob", "operator"))
    assert client.get(PATH).status_code == 404
    assert client.get("/experiments/none-of-this-name").status_code == 404
    assert client.post(PATH).status_code == 405


def test_the_page_asks_the_database_as_often_for_many(
    client: Client, experiment: Experiment
) -> None:
    def add(number: int) -> None:
        row = Iteration.objects.create(experiment=experiment, number=number)
        run_judging(row)
        finish(row)

    add(1)
    run_judging(Iteration.objects.create(experiment=experiment, number=9))
    before = count_queries(client, PATH)
    assert before <= 19
    for number in range(2, 8):
        add(number)
    Experiment.objects.update(status="running")
    assert count_queries(client, PATH) == before
