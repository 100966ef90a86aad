"""The page of one iteration: stages, shards, attempts, failures, and charts from its files."""

import json
import re
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from meta_reward_core.evaluation.judge_health import describe_untested
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.layout import PROBE_ACCEPTANCE, PROBE_REPORT
from meta_reward_core.storage.records import Judgment, Rating, RefusedPrompt, ResponseScore
from meta_reward_core.storage.schemas import build_table
from meta_reward_core.storage.shards import IterationFiles, StageOutput
from tests.webapp.conftest import make_person
from tests.webapp.watching_fixtures import (
    HOSTILE,
    HTMX,
    RESTORE,
    add_attempt,
    add_stage,
    count_queries,
    finish,
    get,
    make_private,
    run_judging,
)
from webapp.dashboard import table_reader
from webapp.dashboard.iteration_charts import build_iteration_charts
from webapp.experiments.models import Attempt, Experiment, Iteration, Shard, Stage
from webapp.experiments.stage_progress import format_duration, list_stage_progress

pytestmark = pytest.mark.django_db

PATH = "/experiments/first/iterations/1"
CHARTS = HTMX | {"HX-Target": "iteration-charts"}


@pytest.fixture
def files(experiment: Experiment, tmp_path: Path) -> IterationFiles:
    Experiment.objects.update(artifact_root=str(tmp_path))
    return IterationFiles(ArtifactStore(str(tmp_path)), "first/iteration-1")


def publish(files: IterationFiles, stage: str, shard: int, made: dict[str, list[Any]]) -> None:
    parts = {(name, shard): build_table(name, rows) for name, rows in made.items()}
    files.publish(stage, shard, key=f"{stage}-{shard}", work=StageOutput(parts), packages={})


def judged(shard: int, *scores: float | None) -> dict[str, list[Any]]:
    """Judgments of one response, and its variance of 1."""
    response = f"r{shard}"
    return {
        "judgments": [
            Judgment("p", response, f"{response}.{n}", n, "text", score, None, 9)
            for n, score in enumerate(scores)
        ],
        "scores": [ResponseScore("p", response, 0, 1, 3.0, 1.0, 40, 9, "stop")],
    }


def pair(chosen: str, rejected: str) -> dict[str, Any]:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return {"prompt": said("p"), "chosen": said(chosen), "rejected": said(rejected)}


def logged(step: int, metric: str, value: float) -> dict[str, Any]:
    return {"step": step, "epoch": step / 10, "metric": metric, "value": value}


@pytest.mark.parametrize(
    "headers, region",
    [
        ({}, ""),
        (RESTORE, ""),
        (HTMX, "iteration-state"),
        (HTMX | {"HX-Target": "iteration-state"}, "iteration-state"),
        (CHARTS, "iteration-charts"),
    ],
)
def test_htmx_gets_the_region_it_asks_for(
    client: Client, iteration: Iteration, headers: dict[str, str], region: str
) -> None:
    run_judging(iteration)
    answer = client.get(PATH, headers=headers)
    page = answer.content.decode()
    assert ("<html" in page) == (region == "")
    assert ('id="iteration-state"' in page) == (region in ("", "iteration-state"))
    assert ('id="iteration-charts"' in page) == (region in ("", "iteration-charts"))
    assert "HX-Target" in answer.headers["Vary"]
    assert "HX-Request" in answer.headers["Vary"]


def test_both_regions_ask_again_while_it_runs_and_only_then(
    client: Client, iteration: Iteration
) -> None:
    run_judging(iteration)
    assert f'hx-get="{PATH}?page=1" hx-trigger="every 2s"' in get(client, f"{PATH}?page=1")
    assert 'hx-trigger="every 10s"' in get(client, PATH, **CHARTS)
    finish(iteration)
    assert "hx-trigger" not in get(client, PATH)
    assert "hx-trigger" not in get(client, PATH, **CHARTS)


def test_the_timeline_shows_speed_and_what_is_left(client: Client, iteration: Iteration) -> None:
    """A finished shard took 100 s; one runs since 10 s and one waits: 90 + 100 s by one worker."""
    run_judging(iteration)
    page = get(client, PATH).replace("\u00a0", " ")
    assert "1. Judge" in page
    assert "about 3 min left · 2 of 4 shards done</span>" in page
    assert re.search(r"so far · 1 running · 13,400 tokens · [\d,]+ tokens/s", page)
    assert "stage 1 of 1: Judge" in page
    assert "live, updated" in page
    part = get(client, PATH, **HTMX)
    assert '<p id="iteration-now" class="state" hx-swap-oob="true">' in part


def test_a_stage_of_one_shard_shows_no_shards(client: Client, iteration: Iteration) -> None:
    train = add_stage(iteration, name="train", title="Train", shard_count=1)
    shard = Shard.objects.create(stage=train, index=0, status="running", token="1" * 32, done=3)
    add_attempt(shard, status="running", seconds_ago=60)
    (progress,) = list_stage_progress([iteration])[iteration.pk]
    assert progress.facts == ["step 3"]
    (time,) = progress.details
    assert time.endswith("so far")


def test_nobody_says_how_long_it_takes_before_a_shard_is_finished(iteration: Iteration) -> None:
    stage = run_judging(iteration)
    Attempt.objects.filter(status="finished").delete()
    stage.shards.filter(status="finished").update(status="waiting")
    (progress,) = list_stage_progress([iteration])[iteration.pk]
    assert progress.seconds_left is None
    assert progress.left == ""


def test_a_training_shows_its_step_of_at_most_so_many(iteration: Iteration) -> None:
    """70 pairs in batches of 16 are 5 steps an epoch, 10 in two; 4 took 20 s, 6 take 30 s."""
    iteration.experiment.recipe = {"training": {"batch_size": 16, "epochs": 2}}
    pairs = add_stage(iteration, name="pair_actor", position=3, status="finished", shard_count=1)
    Shard.objects.create(stage=pairs, index=0, status="finished", counts={"pairs": 70})
    train = add_stage(iteration, name="train", position=6, shard_count=1)
    shard = Shard.objects.create(stage=train, index=0, done=4)
    attempt = add_attempt(shard, status="running", seconds_ago=20)
    progress = list_stage_progress([iteration])[iteration.pk][1]
    assert (progress.step, progress.steps) == (4, 10)
    assert progress.seconds_left == pytest.approx(30, abs=1)
    Attempt.objects.filter(pk=attempt.pk).update(number=2)  # it was resumed somewhere on the way
    assert list_stage_progress([iteration])[iteration.pk][1].seconds_left is None


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.2, "under 1 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (7260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text.replace(" ", "\u00a0"), "a line must not break it"


def test_a_failure_shows_the_end_of_what_was_said_and_a_button(
    client: Client, iteration: Iteration
) -> None:
    stage = run_judging(iteration)
    error = "\n".join(f"line {number}" for number in range(1000))
    Shard.objects.filter(index=3).update(status="failed", failures=1)
    for number in range(1, 5):
        add_attempt(stage.shards.get(index=3), number, error=f"try {number}\n{error}")
    Iteration.objects.update(status="failed")
    Experiment.objects.update(status="failed")
    page = get(client, PATH)
    assert "Attempt 4 failed on host-1 (process 71)" in page
    above = page.split("Shards and attempts")[0]
    assert above.count("line 999</p>") == 1
    assert "<summary>Attempts and console output</summary>" in above
    assert "Judge, shard 3: 3 attempts, same error" in above
    assert "line 991 " not in above
    assert above.index("line 999</p>") < above.index(">Retry</button>") < above.index("Stages</h2>")
    assert "1 failed" in page


def test_a_traceback_is_folded_below_its_cause(client: Client, iteration: Iteration) -> None:
    stage = run_judging(iteration)
    error = (
        "Traceback (most recent call last):\n"
        '  File "run.py", line 9, in judge\n'
        "    answer(batch)\n"
        "    ~~~~~~^^^^^^^\n"
        "torch.OutOfMemoryError: CUDA out of memory.\n"
        "Lower engine.max_batch_tokens."
    )
    Shard.objects.filter(index=3).update(status="failed", failures=2)
    for number, text in ((1, error), (2, error), (3, "lost")):
        add_attempt(stage.shards.get(index=3), number, error=text)
    message = f"{error}\n(shard 3 of judge, attempt 2)"
    Iteration.objects.update(status="failed", message=message)
    Experiment.objects.update(status="failed")
    page = get(client, PATH)
    assert "Judge, shard 3: attempt 3 failed" in page
    assert "Judge, shard 3: 2 attempts, same error" in page
    cause = (
        '<p class="finding status-failed">CUDA out of memory.</p>\n'
        '<p class="finding">Lower engine.max_batch_tokens.</p>'
    )
    assert page.count(cause) == 2, "why it stopped, and the two attempts"
    assert "at stage 1 of 1: Judge · CUDA out of memory</p>" in page
    assert page.index(cause) < page.index("<summary>Traceback</summary>")
    assert cause in get(client, "/experiments/first")
    assert "Traceback (most" not in get(client, "/")


def test_shards_come_in_pages_by_stage_and_status(client: Client, iteration: Iteration) -> None:
    run_judging(iteration)
    other = add_stage(iteration, name="generate", title="Generate", position=1)
    Shard.objects.bulk_create(Shard(stage=other, index=index) for index in range(40))

    def shown(query: str) -> int:
        return get(client, f"{PATH}?{query}").count('data-label="Done"')

    assert shown("") == 25
    assert shown("page=2") == 19
    assert shown("stage=judge") == 4
    assert shown("stage=judge&status=finished") == 2
    assert shown("status=dreaming&stage=generate&page=2") == 15
    assert shown("stage=nonsense") == 0
    assert 'href="?stage=generate&amp;page=2"' in get(client, f"{PATH}?stage=generate")
    assert '<details id="shards" class="more" open>' in get(client, f"{PATH}?stage=judge")


def test_charts_show_what_finished_shards_made(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    assert "Charts appear as shards are completed" in get(client, PATH, **CHARTS)
    run_judging(iteration)
    publish(files, "judge", 0, judged(0, 3.0, 3.0, 5.0, None))
    page = get(client, PATH, **CHARTS)
    assert '<th scope="row">3</th><td>2</td>' in page
    assert '<th scope="row">5</th><td>1</td>' in page
    assert "Variance of scores per response" in page
    assert "Training loss" not in page
    publish(files, "judge", 1, judged(1, 3.0))
    page = get(client, PATH, **CHARTS)
    assert '<th scope="row">3</th><td>3</td>' in page
    assert '<th scope="row">3.5</th>' not in page, "all scores are whole"
    publish(files, "judge", 2, judged(2, 3.2))
    page = get(client, PATH, **CHARTS)
    assert '<th scope="row">3</th><td>4</td>' in page
    assert "Each bar covers a range of 0.5" in page


def test_a_running_training_is_drawn_before_its_log_is_written(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    train = run_judging(iteration)
    Stage.objects.filter(pk=train.pk).update(name="train")
    running = Shard.objects.filter(stage=train, status="running")
    running.update(training_metrics=[{"step": 1.0, "loss": 0.69}, {"step": 2.0, "loss": 0.42}])
    assert "running on host-1 ·" in get(client, PATH)
    page = get(client, PATH, **CHARTS)
    assert "Training loss" in page
    assert '<th scope="row">2</th><td>0.42</td>' in page
    assert "DPO accuracy" not in page


def test_the_axis_of_a_trainings_accuracy_ends_at_one(
    iteration: Iteration, files: IterationFiles
) -> None:
    log = [logged(step, "rewards/accuracies", 1.0) for step in (2, 3)]
    publish(files, "train", 0, {"training_log": log})
    drawn = {chart.title: chart for chart in build_iteration_charts(Iteration.objects.get()).charts}
    assert drawn["DPO accuracy"].y_ticks[-1].text == "1.0"


def test_an_accuracy_of_equal_rewards_is_not_drawn(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    """Logs of earlier versions hold one for step 1."""
    log = [logged(step, "rewards/accuracies", value) for step, value in ((1, 0.31), (2, 0.93))]
    publish(files, "train", 0, {"training_log": log})
    page = get(client, PATH, **CHARTS)
    assert "<td>0.93</td>" in page
    assert "0.31" not in page
    assert "before it all rewards are equal" in page


def test_the_parts_of_a_training_loss_are_drawn(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    log = [logged(2, "loss", 1.7), logged(2, "loss/dpo", 0.6), logged(2, "loss/sft", 1.1)]
    publish(files, "train", 0, {"training_log": log})
    page = get(client, PATH, **CHARTS)
    assert "Parts of the training loss" in page
    assert '<th scope="row">2</th><td>0.6</td><td>1.1</td>' in page


def test_a_finished_iteration_shows_all_charts(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    """One pair of 10 against 20 characters; ratings from -1 to 1 are 2 nats apart."""
    run_judging(iteration)
    finish(iteration)
    publish(files, "pair_actor", 0, {"actor_pairs": [pair("a" * 10, "b" * 20)]})
    ratings = [Rating("p", "r", f"j{n}", float(n)) for n in (-1, 0, 1)]
    publish(files, "pair_judge", 0, {"ratings": ratings, "judge_pairs": [pair("x" * 30, "y" * 30)]})
    log = [
        logged(step, metric, value)
        for step in (1, 2)
        for metric, value in (("loss", 0.7), ("eval_loss", 0.8), ("logps/chosen", -3.5))
    ]
    publish(files, "train", 0, {"training_log": log})
    page = get(client, PATH)
    for title in (
        "Response length, chosen − rejected",
        "Judgment length, chosen − rejected",
        "Range of Elo ratings per response",
        "Training loss",
        "Log-probabilities",
    ):
        assert f"<figcaption>{title}</figcaption>" in page
    assert "Speed of the stages" not in page, "only one stage generates, so nothing is compared"
    assert '<th scope="row">2</th><td>0.7</td><td>0.8</td>' in page
    assert "so far" not in page.split(">Results")[1][:10]


def test_the_difference_in_length_is_drawn_pair_by_pair(
    iteration: Iteration, files: IterationFiles
) -> None:
    """Chosen are 10, 20 and 30 characters longer: 20 -+ 4.303 * 10 / sqrt(3)."""
    pairs = [pair("a" * (50 + more), "b" * 50) for more in (10, 20, 30)]
    publish(files, "pair_actor", 0, {"actor_pairs": pairs})
    drawn = {chart.title: chart for chart in build_iteration_charts(Iteration.objects.get()).charts}
    chart = drawn["Response length, chosen − rejected"]
    assert chart.verdict == (
        "Mean: chosen responses 70, rejected 50 characters; +20.0 [−4.8, +44.8], "
        "no clear difference."
    )
    assert chart.description.startswith("n = 3 actor pairs.")
    assert chart.x_ticks[0].text == "10", "the left end of the first bar"


def test_a_failed_stage_shows_what_failed_and_what_never_began(
    client: Client, iteration: Iteration
) -> None:
    stage = run_judging(iteration)
    add_stage(iteration, name="train", title="Train", position=6, status="waiting")
    Attempt.objects.filter(status="running").delete()
    stage.shards.filter(index=2).update(status="failed", token=None)
    Stage.objects.filter(pk=stage.pk).update(status="failed")
    Iteration.objects.update(status="failed")
    page = get(client, PATH)
    assert "1 failed · 1 not started" in page
    assert 'Judge: 2 of 4 shards done, 1 failed"><rect class="done" width="2"' in page
    assert '<span class="status status-waiting">blocked</span>' in page


@pytest.mark.parametrize(
    "advice, label, query",
    [
        ("Lower engine.max_batch_tokens.", "Retry with engine.max_batch_tokens = 32,768…", "32768"),
        (
            "Raise engine.max_batch_tokens.",
            "Retry with engine.max_batch_tokens = 131,072…",
            "131072",
        ),
        ("Check engine.max_batch_tokens.", "Change engine.max_batch_tokens and retry…", ""),
    ],
)
def test_a_retry_proposes_the_value_that_the_error_names(
    client: Client, iteration: Iteration, advice: str, label: str, query: str
) -> None:
    run_judging(iteration)
    Attempt.objects.filter(status="running").delete()
    recipe = {"name": "smoke", "engine": {"max_batch_tokens": 65_536}}
    Experiment.objects.update(status="failed", recipe=recipe)
    Iteration.objects.update(status="failed", message=f"Out of memory.\n{advice}")
    for path in (PATH, "/experiments/first"):
        page = get(client, path)
        assert f">{label}</a>" in page
        assert f"recipe.engine.max_batch_tokens={query}" in page or not query
        assert "Now 65,536." in page
        assert 'id="steer-resume" class="quiet"' in page


def test_an_error_that_names_no_setting_leads_to_all_settings(
    client: Client, iteration: Iteration
) -> None:
    Iteration.objects.update(status="failed", message="The host is gone. See workers.log")
    Experiment.objects.update(status="failed")
    page = get(client, PATH)
    assert ">Retry with changes</a>" in page
    assert 'id="steer-resume" class=""' in page


def test_the_charts_of_a_running_training_come_first(
    iteration: Iteration, files: IterationFiles
) -> None:
    publish(files, "judge", 0, judged(0, 3.0, 4.0))
    train = add_stage(iteration, name="train", shard_count=1)
    Shard.objects.create(
        stage=train, index=0, status="running", token="1" * 32,
        training_metrics=[{"step": 1.0, "loss": 0.69}],
    )  # fmt: skip
    titles = [chart.title for chart in build_iteration_charts(Iteration.objects.get()).charts]
    assert titles[:2] == ["Training loss", "Judge scores"]
    Experiment.objects.update(recipe={"training": {"batch_size": 16, "epochs": 2}})
    pairs = add_stage(iteration, name="pair_actor", position=1, status="finished")
    Shard.objects.create(stage=pairs, index=0, status="finished", counts={"pairs": 70})
    loss = build_iteration_charts(Iteration.objects.get()).charts[0]
    assert loss.x_ticks[-1].text == "10", "the axis includes all steps"
    Shard.objects.update(status="finished", token=None)
    titles = [chart.title for chart in build_iteration_charts(Iteration.objects.get()).charts]
    assert titles[0] == "Judge scores"


def test_a_part_is_read_once(
    client: Client, iteration: Iteration, files: IterationFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(files, "judge", 0, judged(0, 3.0))
    before = get(client, PATH, **CHARTS)
    monkeypatch.setattr(table_reader, "_read_columns", None)
    assert get(client, PATH, **CHARTS) == before


def test_a_part_that_is_gone_is_said(
    client: Client, iteration: Iteration, files: IterationFiles, tmp_path: Path
) -> None:
    publish(files, "judge", 0, judged(0, 2.0, 2.5))
    for part in (tmp_path / "first/iteration-1/judgments").iterdir():
        part.unlink()
    page = get(client, PATH)
    assert "Some files could not be read" in page
    assert "judgments/part-00000.parquet" in page


def test_the_epoch_that_was_kept_stands_in_the_lineage(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    finish(iteration)
    publish(files, "train", 0, {"training_log": [logged(n, "loss", 1.0) for n in range(30)]})
    stage = add_stage(iteration, name="train", status="finished", shard_count=1)
    Shard.objects.create(stage=stage, index=0, status="finished", counts={"kept_step": 15})
    assert "step 15, epoch 1.5" in get(client, "/experiments/first")


def test_another_browser_and_a_reload_see_the_same(client: Client, iteration: Iteration) -> None:
    run_judging(iteration)
    now = timezone.now() - timedelta(hours=3)
    Iteration.objects.update(started=now)
    other = Client()
    other.force_login(make_person("vera", "viewer"))
    shown = f'Started <time datetime="{now.isoformat(timespec="microseconds")}'
    assert all(shown in get(browser, PATH) for browser in (client, client, other))


def test_text_of_others_is_never_html(client: Client, iteration: Iteration) -> None:
    stage = run_judging(iteration)
    Iteration.objects.update(message=HOSTILE)
    Stage.objects.update(title=HOSTILE, name="judge")
    Shard.objects.filter(index=0).update(counts={HOSTILE: 1, "tokens": 5})
    add_attempt(stage.shards.get(index=3), error=HOSTILE, worker=HOSTILE)
    for path in (PATH, f"{PATH}?stage={HOSTILE}"):
        page = get(client, path)
        assert "<script>alert" not in page
        assert "<img" not in page


def test_strangers_are_kept_out(client: Client, iteration: Iteration) -> None:
    assert Client().get(PATH).status_code == 302
    assert client.post(PATH).status_code == 405
    assert client.get("/experiments/first/iterations/2").status_code == 404
    auditor = Client()
    auditor.force_login(make_person("ada", "auditor"))
    assert auditor.get(PATH).status_code == 403
    make_private(iteration.experiment, make_person("bob", "operator"))
    assert client.get(PATH).status_code == 404


def test_the_page_asks_the_database_as_often_for_many(
    client: Client, iteration: Iteration, alice: User
) -> None:
    stage = run_judging(iteration)
    add_attempt(stage.shards.get(index=3), error="no")
    before = count_queries(client, PATH)
    assert before <= 18
    for index in range(4, 24):
        add_attempt(Shard.objects.create(stage=stage, index=index), error="no")
    assert count_queries(client, PATH) == before


def test_the_page_does_not_call_a_probe_without_a_judgment_passed(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    none = {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    shares = ("readable", "cut_off", "verdicts", "same_order", "actor_pairs", "judge_pairs")
    report = dict.fromkeys(shares, none) | {
        "prompts": 0, "wanted": 8, "seconds": 55.6, "projected_seconds": 0, "findings": [],
    }  # fmt: skip
    files.replace_note(PROBE_REPORT, json.dumps({"key": "k", "report": report}).encode())
    page = get(client, PATH)
    assert "Judge probe: no result" in page
    assert "the judge was not tested" in page
    assert "At this rate" not in page


def test_the_page_shows_why_a_probe_without_a_judgment_stopped_the_run(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    none = {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    shares = ("readable", "cut_off", "verdicts", "same_order", "actor_pairs", "judge_pairs")
    found = describe_untested(responses=7, answers=7, unfinished=0, seconds=120.4, limit=120)
    report = dict.fromkeys(shares, none) | {
        "prompts": 0, "wanted": 8, "seconds": 120.4, "projected_seconds": 0,
        "findings": [asdict(found)],
    }  # fmt: skip
    files.replace_note(PROBE_REPORT, json.dumps({"key": "k", "report": report}).encode())
    page = get(client, PATH)
    assert "Judge probe: failed" in page
    assert found.sentence in page
    assert found.remedy in page
    assert "At this rate" not in page


def test_the_page_shows_what_the_judge_probe_found(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    assert "Judge probe" not in get(client, PATH)
    share = {"value": 0.006, "low": 0.001, "high": 0.034, "n": 160}
    none = {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    report = {
        "prompts": 1, "wanted": 8, "seconds": 75.2, "projected_seconds": 86_400.0,
        "readable": share, "cut_off": share, "verdicts": none, "same_order": none,
        "actor_pairs": none, "judge_pairs": none,
        "findings": [{"cause": "wrong_format", "sentence": HOSTILE, "remedy": "x"}],
    }  # fmt: skip
    files.replace_note(PROBE_REPORT, json.dumps({"key": "k", "report": report}).encode())
    page = get(client, PATH)
    assert "Tokens per reply" not in page, "reports of earlier versions have no such counts"
    report |= {
        "unscored": {"judgment_cut_off": 107, "no_score_line": 49},
        "scores": [0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0], "entropy_bits": 0.811,
        "iterations": 4, "projected_run_seconds": 4 * 86_400.0,
        "costs": {"actor": {"tokens_per_reply": 160.2}, "meta_judge": {"tokens_per_reply": None}},
    }  # fmt: skip
    files.replace_note(PROBE_REPORT, json.dumps({"key": "k", "report": report}).encode())
    page = get(client, PATH)
    assert "Judgments without a score: cut off (107), no score line (49)" in page
    assert "Scores, rounded down to halves: 1 (1), 3 (3)" in page
    assert "Entropy of the scores: 0.81 bits" in page
    assert "Tokens per reply: actor 160" in page
    assert "for 4 iterations" in page
    assert "Judge probe: failed" in page
    assert "Tried 1 of 8 prompts in 1\u00a0min\u00a015\u00a0s" in page
    assert "0.6%" in page
    assert "0% to 3%" in page
    assert "Battles with a readable verdict" not in page, "nothing was compared"
    assert HOSTILE not in page
    files.replace_note(PROBE_ACCEPTANCE, json.dumps({"key": "k", "by": "alice"}).encode())
    assert "Judge probe: failed, continued by alice" in get(client, PATH)
    files.replace_note(PROBE_REPORT, b"{")
    assert "Judge probe" not in get(client, PATH), "a damaged report does not take the page along"


def test_the_page_names_the_prompts_that_engines_refused(
    client: Client, iteration: Iteration, files: IterationFiles
) -> None:
    assert "refused by the engine" not in get(client, PATH)
    rows = [RefusedPrompt("a" * 64, None, 7, HOSTILE), RefusedPrompt("b" * 64, None, 7, "filtered")]
    publish(files, "generate", 0, {"refused_by_actor": rows})
    page = get(client, PATH)
    assert "2 prompts refused by the engine of the actor" in page
    assert "filtered" in page
    assert HOSTILE not in page
    assert "/experiments/first/files/iteration-1/refused_by_actor.csv" in page
