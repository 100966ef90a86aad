"""The list of what is kept of the evaluations of an experiment's models."""

import json
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from meta_reward_core.evaluation.scorecard import DataIssue, Metric, Scorecard
from meta_reward_core.experiment import Experiment as OnDisk
from meta_reward_core.reporting.scorecard_store import save_scorecard
from tests.webapp import results_fixtures
from tests.webapp.conftest import make_person
from webapp.experiments.models import Experiment

pytestmark = pytest.mark.django_db

ALPACA = Scorecard(
    benchmark="alpaca_eval_2",
    model="mine",
    baseline="gpt",
    judge="somebody",
    metrics=(
        Metric("win_rate", 31.25, 805, 28.0, 34.5),
        Metric("win_rate_repeat_deviation", 0.707, 3),
        Metric("length_controlled_winrate", None, 0, absent="too few prompts"),
    ),
    issues=(DataIssue("constant_answers", results_fixtures.HOSTILE, "Look at them.", 9),),
)
JUDGED = Scorecard("judge_agreement", "M2", None, "M2", (Metric("agreement", 0.61, 40),))


@pytest.fixture
def on_disk(tmp_path: Path) -> OnDisk:
    return results_fixtures.scripted_experiment(tmp_path)


@pytest.fixture
def row(on_disk: OnDisk, alice: User) -> Experiment:
    return results_fixtures.record(on_disk, alice)


@pytest.fixture
def kept(on_disk: OnDisk, row: Experiment) -> Experiment:
    save_scorecard(on_disk.store, on_disk.name, 10, JUDGED, reference="humans")
    save_scorecard(on_disk.store, on_disk.name, 2, ALPACA)
    return row


def page_of(client: Client, row: Experiment) -> str:
    return client.get(f"/experiments/{row.name}/evaluations").content.decode()


def test_every_evaluation_stands_with_figures_intervals_judge_and_repeats(
    client: Client, kept: Experiment
) -> None:
    page = page_of(client, kept)
    assert "Model: mine · Baseline: gpt · Judge: somebody" in page
    assert "Repeats: standard deviation 0.707 over 3" in page
    assert '<td data-label="Value">31.250</td><td data-label="Interval">28.000 to 34.500' in page
    assert "too few prompts" in page
    assert "Reference: people · Repeats: none" in page
    assert page.index("M2: alpaca_eval_2") < page.index("M10: judge_agreement")


def test_its_file_can_be_had(client: Client, kept: Experiment) -> None:
    address = f"/experiments/{kept.name}/files/evaluations/M2/alpaca-eval-2.json"
    assert f'href="{address}"' in page_of(client, kept)
    answer = client.get(address)
    assert json.loads(b"".join(answer))["benchmark"] == "alpaca_eval_2"
    assert client.get(f"{address}x").status_code == 404


def test_what_models_wrote_stays_text(client: Client, kept: Experiment) -> None:
    page = page_of(client, kept)
    assert "constant_answers" in page
    assert "<script>alert" not in page
    assert "{{ 7|add:7 }}" in page


def test_where_nothing_is_kept_the_page_says_how_to_keep(client: Client, row: Experiment) -> None:
    assert f"--save-to {row.name}/M1" in page_of(client, row)


def test_a_damaged_file_is_said_to_be_damaged(
    client: Client, on_disk: OnDisk, kept: Experiment
) -> None:
    folder = on_disk.store.get_local_path(f"{kept.name}/evaluations/M2")
    (folder / "alpaca-eval-2.json").write_text("[1]")
    answer = client.get(f"/experiments/{kept.name}/evaluations")
    assert answer.status_code == 503
    assert b"missing or damaged" in answer.content


def test_a_strangers_experiment_has_no_such_page(kept: Experiment) -> None:
    Experiment.objects.update(is_private=True)
    stranger = Client()
    stranger.force_login(make_person("mallory", "operator"))
    assert stranger.get(f"/experiments/{kept.name}/evaluations").status_code == 404


def test_it_can_only_be_read(client: Client, row: Experiment) -> None:
    assert client.post(f"/experiments/{row.name}/evaluations").status_code == 405


def test_it_asks_the_database_little(
    client: Client, kept: Experiment, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_max_num_queries(8):
        page_of(client, kept)


@pytest.mark.parametrize("path", ["/experiments/{name}", "/reports?name={name}"])
def test_the_pages_of_the_experiment_and_of_its_report_lead_to_it(
    client: Client, row: Experiment, path: str
) -> None:
    page = client.get(path.format(name=row.name)).content.decode()
    assert f'href="/experiments/{row.name}/evaluations"' in page
