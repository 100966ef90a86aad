"""Defects that users of the pages have reported, each with what shows that it is mended."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from tests.webapp.conftest import make_person
from tests.webapp.watching_fixtures import HTMX, add_attempt, add_stage, finish, get, run_judging
from webapp.api.models import ApiToken
from webapp.charts.heat_map import Cell, build_heat_map
from webapp.charts.lines import Series, build_line_chart
from webapp.experiment_form.compare import name_truth_metric
from webapp.experiments.models import Attempt, Experiment, Iteration, Job, Shard
from webapp.experiments.stage_progress import format_time_left, list_stage_progress


def test_a_finished_launch_redirects_htmx_and_browsers_apart(
    client: Client, alice: User, experiment: Experiment
) -> None:
    job = Job.objects.create(
        kind="launch", created_by=alice, experiment=experiment, experiment_name="first",
        status="done", payload={"name": "first", "seed": 1, "until": 1, "recipe": "smoke"},
    )  # fmt: skip
    for headers in ({}, HTMX):
        answer = client.get(f"/jobs/{job.pk}", headers=headers)
        assert "HX-Request" in answer.headers["Vary"]


def test_a_training_bar_moves_with_its_steps(client: Client, iteration: Iteration) -> None:
    run_judging(iteration)
    Experiment.objects.update(recipe={"name": "x", "training": {"batch_size": 1, "epochs": 1}})
    paired = add_stage(iteration, name="pair_actor", position=3, status="finished", shard_count=1)
    Shard.objects.create(stage=paired, index=0, status="finished", counts={"pairs": 8})
    train = add_stage(iteration, name="train", title="DPO", position=6, shard_count=1)
    shard = Shard.objects.create(stage=train, index=0, status="running", token="1" * 32, done=2)
    add_attempt(shard, status="running")
    assert '<progress value="0.25" max="1" aria-label="DPO' in get(
        client, "/experiments/first/iterations/1"
    )


@pytest.mark.parametrize(
    "seconds, text",
    [
        (None, ""),
        (0.4, "under 1 s left"),
        (7.3, "about 7 s left"),
        (74.0, "about 1 min 15 s left"),
        (726.0, "about 12 min left"),
        (9000.0, "about 2 h 30 min left"),
        (200_000.0, "about 2 d 8 h left"),
    ],
)
def test_the_time_left_reads_as_a_phrase(seconds: float | None, text: str) -> None:
    assert format_time_left(seconds).replace("\u00a0", " ") == text


def test_the_live_speed_is_that_of_completed_shards_when_one_has_just_started(
    iteration: Iteration,
) -> None:
    stage = add_stage(iteration)
    for index in range(2):
        done = Shard.objects.create(
            stage=stage, index=index, status="finished", counts={"tokens": 40_000}
        )
        add_attempt(done, status="finished", seconds=10.0, finished=timezone.now())
    begun = Shard.objects.create(stage=stage, index=2, status="running", token="1" * 32)
    attempt = add_attempt(begun, status="running")
    Attempt.objects.filter(pk=attempt.pk).update(started=timezone.now() - timedelta(seconds=5))
    (progress,) = list_stage_progress([iteration])[iteration.pk]
    assert progress.tokens_per_second == 4000, "80,000 tokens in 20 s"


def test_a_token_form_that_is_sent_again_makes_no_second_token(client: Client) -> None:
    session = client.session
    session["identity_confirmed"] = timezone.now().timestamp()
    session.save()
    form = {"name": "nightly", "scope": "read", "days": "30", "once": "abc"}
    first = client.post("/account/tokens", form)
    if first.status_code == 302:
        pytest.skip("the identity has to be confirmed first: see test_api_tokens")
    assert "it will not be shown again" in first.content.decode()
    again = client.post("/account/tokens", form, follow=True).content.decode()
    assert "The token is shown only once." in again
    assert ApiToken.objects.count() == 1


def test_a_form_without_its_token_gets_a_page_in_the_site_s_style(alice: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    answer = strict.post("/experiments/first/actions", {"do": "pause"})
    page = answer.content.decode()
    assert answer.status_code == 403
    assert "<h1>Form expired</h1>" in page
    assert "site.css" in page


def test_an_auditor_who_is_refused_is_led_to_a_page_that_opens(db: None) -> None:
    auditor = Client()
    auditor.force_login(make_person("carol", "auditor"))
    answer = auditor.get("/workers")
    assert answer.status_code == 403
    page = answer.content.decode().partition("<main")[2]
    assert 'href="/audits"' in page
    assert "All experiments" not in page
    assert auditor.get("/audits").status_code == 200


def test_every_point_of_a_long_line_shows_its_value() -> None:
    points = [(float(step), step / 90) for step in range(90)]
    (line,) = build_line_chart("Loss", [Series("a", points)], x_label="step", y_label="loss").lines
    said = {mark.text for mark in (*line.marks, *line.targets)}
    assert len(said) == 90
    assert len(line.marks) < 20, "the others are not drawn"


def test_the_axis_of_a_share_ends_at_one() -> None:
    for name in ("accuracy_better_first", "order_agreement", "parse_rate"):
        metric = name_truth_metric("judge", name)
        chart = build_line_chart(
            "x", [Series("a", [(1, 1.0)])], x_label="t", y_label="", within=metric.within
        )
        assert max(float(tick.text) for tick in chart.y_ticks) <= 1.0


def test_metrics_of_one_kind_of_prompts_are_named_for_people() -> None:
    metric = name_truth_metric("actor", "win_rate.french")
    assert metric.title == "Actor: win rate, french prompts"
    assert (metric.unit, metric.within) == ("percent", (0.0, 100.0))


def test_the_captions_of_a_small_matrix_fit_into_it() -> None:
    chart = build_heat_map(
        "Battles",
        rows=["0"],
        columns=["0"],
        cells={("0", "0"): Cell(1.0, "1")},
        row_label="judgment shown second",
        column_label="judgment shown first, in the order of their scores",
    )
    assert chart.width >= chart.left + 6 * len(chart.x_label)


def test_names_that_cannot_be_compared_are_named(client: Client, experiment: Experiment) -> None:
    page = get(client, "/experiments/compare?name=first&name=gone&name=%3Cb%3E")
    assert "Not found, or not visible to you" in page
    assert "<bdi>gone</bdi>" in page
    assert "<bdi>&lt;b&gt;</bdi>" in page


def test_comparing_shows_no_raw_keys(client: Client, iteration: Iteration) -> None:
    truth = [{"subject": "actor", "metric": "win_rate.french", "before": 50.0, "after": 60.0}]
    finish(iteration, truth=truth)
    Experiment.objects.create(
        name="second", recipe={"name": "y"}, recipe_sha256="c" * 64, seed=1, base_model_folder="",
        base_model_sha256="b" * 64, artifact_root="/none",
    )  # fmt: skip
    page = get(client, "/experiments/compare?name=first&name=second")
    assert "win rate, french prompts" in page
    assert "win rate.french" not in page


def sign_in_again(browser: Client, address: str) -> str:
    """Fill in the sign-in page that an address leads to; returns where that leads."""
    form = {"username": "alice", "password": "correct horse", "code": ""}
    page = browser.get(address)
    answer = browser.post("/account/login", form | {"next": page.context["next"]})
    assert answer.status_code == 302, answer.content
    return str(answer.headers["Location"])


def test_an_action_after_the_session_ended_can_be_sent_after_signing_in(
    alice: User, experiment: Experiment
) -> None:
    browser = Client()
    browser.force_login(alice)
    Session.objects.update(expire_date=timezone.now() - timedelta(days=1))
    given = {"description": "baseline", "tags": "a, b", "notes": "<b>two</b>\nlines"}
    answer = browser.post(
        "/experiments/first/details", given, headers={"Referer": "http://testserver/?tag=x"}
    )
    place = sign_in_again(browser, answer.headers["Location"])
    page = browser.get(place)
    assert page.status_code == 200
    text = page.content.decode()
    assert 'action="/experiments/first/details"' in text
    assert 'name="notes" value="&lt;b&gt;two&lt;/b&gt;\nlines"' in text
    assert 'href="/?tag=x"' in text
    assert browser.post("/experiments/first/details", given).status_code == 302
    experiment.refresh_from_db()
    assert experiment.notes == given["notes"]


@pytest.mark.parametrize("field", ["password", "new_password1", "webhook_secret"])
def test_secrets_are_not_kept_while_signing_in(
    alice: User, experiment: Experiment, field: str
) -> None:
    browser = Client()
    answer = browser.post(
        "/experiments/first/details",
        {field: "hunter2"},
        headers={"Referer": "http://testserver/experiments/first"},
    )
    assert "hunter2" not in str(dict(browser.session))
    assert sign_in_again(browser, answer.headers["Location"]) == "/experiments/first"


def test_a_form_from_another_site_leads_to_the_first_page_and_is_not_kept(
    alice: User, experiment: Experiment
) -> None:
    strict = Client(enforce_csrf_checks=True)
    answer = strict.post("/experiments/first/details", {"notes": "planted"})
    assert answer.status_code == 403, "forged forms do not come as far as the sign-in page"
    elsewhere = Client().post(
        "/experiments/first/details",
        {"token": "x"},
        headers={"Referer": "https://evil.example/experiments/first"},
    )
    assert elsewhere.headers["Location"] == "/account/login?next=/"
