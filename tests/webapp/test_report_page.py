"""The report as a page and as a file."""

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

CARD = Scorecard(
    benchmark="alpaca_eval_2",
    model="mine",
    baseline="gpt",
    judge="somebody",
    metrics=(Metric("win_rate", 31.25, 805, 28.0, 34.5), Metric("dataset_koala", 20.0, 10)),
    issues=(DataIssue("constant_answers", results_fixtures.HOSTILE, "Look at them.", 9),),
)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    """An experiment without a finished iteration, whose M0 has been evaluated."""
    root = tmp_path_factory.mktemp("artifacts")
    experiment = results_fixtures.scripted_experiment(root)
    save_scorecard(experiment.store, experiment.name, 0, CARD)
    return experiment


@pytest.fixture
def row(on_disk: OnDisk, alice: User) -> Experiment:
    return results_fixtures.record(on_disk, alice)


def test_the_page_shows_what_is_kept_and_says_why_the_rest_is_absent(
    client: Client, row: Experiment
) -> None:
    page = client.get("/reports", {"name": row.name}).content.decode()
    assert "31.25 (28.00 to 34.50)" in page
    assert "paper: Meta-Rewarding, iteration 4" in page
    assert "Table 7: agreement of the judge with humans" in page
    assert "manage.py evaluate" in page


def test_what_models_wrote_stays_text(client: Client, row: Experiment) -> None:
    for form in ("page", "html"):
        page = client.get("/reports", {"name": row.name, "as": form}).content.decode()
        assert "constant_answers" in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "{{ 7|add:7 }}" in page


def test_the_file_needs_nothing_but_itself(client: Client, row: Experiment) -> None:
    answer = client.get("/reports", {"name": row.name, "as": "html"})
    text = answer.content.decode()
    assert answer.headers["Content-Disposition"] == 'attachment; filename="scripted.html"'
    for reference in ("<script", "<link", 'http-equiv="refresh', "src=", "url(", "@import"):
        assert reference not in text.replace("&lt;", "").replace("src=x", "")
    assert "default-src 'none'" in text
    assert "--colour-0" in text


def test_the_markdown_is_the_same_report(client: Client, row: Experiment) -> None:
    answer = client.get("/reports", {"name": row.name, "as": "md"})
    assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert "31.25 (28.00 to 34.50)" in answer.content.decode()


def test_an_unknown_form_is_the_page(client: Client, row: Experiment) -> None:
    answer = client.get("/reports", {"name": row.name, "as": "exe"})
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "Content-Disposition" not in answer.headers


def test_a_strangers_experiment_makes_no_report(on_disk: OnDisk, row: Experiment) -> None:
    Experiment.objects.update(is_private=True)
    stranger = Client()
    stranger.force_login(make_person("mallory", "operator"))
    assert stranger.get("/reports", {"name": row.name}).status_code == 404


def test_no_name_and_an_unknown_one_are_no_report(client: Client, row: Experiment) -> None:
    assert client.get("/reports").status_code == 404
    assert client.get("/reports", {"name": [row.name, "nothing"]}).status_code == 404


def test_files_that_are_gone_are_said_to_be_gone(
    client: Client, row: Experiment, tmp_path: Path
) -> None:
    Experiment.objects.update(artifact_root=str(tmp_path / "nowhere"))
    answer = client.get("/reports", {"name": row.name})
    assert answer.status_code == 503
    assert b"missing or damaged" in answer.content


def test_a_damaged_scorecard_is_said_to_be_damaged(
    client: Client, alice: User, tmp_path: Path
) -> None:
    experiment = results_fixtures.scripted_experiment(tmp_path)
    row = results_fixtures.record(experiment, alice)
    save_scorecard(experiment.store, experiment.name, 0, CARD)
    (tmp_path / row.name / "evaluations/M0/alpaca-eval-2.json").write_text("[1]")
    assert client.get("/reports", {"name": row.name}).status_code == 503


def test_a_report_asks_the_database_little(
    client: Client, row: Experiment, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_max_num_queries(8):
        client.get("/reports", {"name": row.name})


def test_the_pages_of_an_experiment_and_of_a_comparison_lead_to_it(
    client: Client, row: Experiment
) -> None:
    assert (
        f'href="/reports?name={row.name}"'
        in client.get(f"/experiments/{row.name}").content.decode()
    )
