"""What the page of an experiment draws of people and evaluations, and its prompts."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client

from meta_reward_core.evaluation.scorecard import Metric, Scorecard
from meta_reward_core.experiment import Experiment as OnDisk
from meta_reward_core.reporting.scorecard_store import save_scorecard
from meta_reward_core.storage.shards import IterationFiles
from tests.webapp.results_fixtures import record, scripted_experiment
from tests.webapp.watching_fixtures import HOSTILE, get
from webapp.experiments.models import Experiment, Job

pytestmark = pytest.mark.django_db

PATH = "/experiments/scripted"


@pytest.fixture
def on_disk(tmp_path: Path) -> OnDisk:
    return scripted_experiment(tmp_path)


@pytest.fixture
def row(on_disk: OnDisk, alice: User) -> Experiment:
    return record(on_disk, alice)


def card(benchmark: str, **figures: float | None) -> Scorecard:
    made = tuple(Metric(name, value, 805) for name, value in figures.items())
    return Scorecard(benchmark, model="m", baseline="gpt-4", judge="gpt-4", metrics=made)


def test_nothing_is_drawn_where_nobody_evaluated(client: Client, row: Experiment) -> None:
    assert client.get(PATH).context["outside_charts"] == []
    assert "Human review and benchmarks" not in get(client, PATH)


def test_win_rates_are_drawn_over_the_models(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    for number, rate in {0: 22.5, 1: 31.25}.items():
        rates = {"win_rate": rate, "length_controlled_winrate": rate - 2, "avg_length": 1900.0}
        save_scorecard(on_disk.store, "scripted", number, card("AlpacaEval 2", **rates))
    page = get(client, PATH)
    assert "Human review and benchmarks" in page
    for shown in ("Win rate in evaluations", "AlpacaEval 2, plain", "22.5", "31.25", "20.5"):
        assert shown in page
    assert "1900" not in page
    assert "Judge agreement with a reference" not in page


def test_agreement_with_a_reference_is_drawn(
    client: Client, row: Experiment, on_disk: OnDisk
) -> None:
    agreeing = card("judge_agreement", agreement=61.5, agreement_without_ties=None)
    save_scorecard(on_disk.store, "scripted", 1, agreeing, reference="humans")
    page = get(client, PATH)
    assert "Judge agreement with a reference" in page
    assert "judge agreement with people, all pairs" in page
    assert "61.5" in page
    assert "without ties" not in page
    assert "Win rate in evaluations" not in page


def test_a_damaged_evaluation_hides_no_page(
    client: Client, row: Experiment, on_disk: OnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    name = save_scorecard(on_disk.store, "scripted", 1, card("AlpacaEval 2", win_rate=20.0))
    Path(on_disk.store.root, name).write_text("{")
    assert client.get(PATH).context["outside_charts"] == []
    assert "evaluations of scripted M1 are not plotted" in caplog.text


def test_names_in_an_evaluation_are_text(client: Client, row: Experiment, on_disk: OnDisk) -> None:
    save_scorecard(on_disk.store, "scripted", 1, card(HOSTILE, win_rate=20.0))
    page = get(client, PATH)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_lineage_names_the_prompts(client: Client, row: Experiment, on_disk: OnDisk) -> None:
    """As many as the pool has, under the hash of its table; by name once one is known."""
    pool = IterationFiles(on_disk.store, "scripted/iteration-0").find_manifest("pool")
    assert pool is not None
    page = " ".join(get(client, PATH).split())
    assert "sampled from 60 prompts, hash" in page
    assert pool.parts[0].sha256 in page
    payload = {"prompts_called": f"questions {HOSTILE}.jsonl"}
    Job.objects.create(kind="launch", experiment=row, experiment_name="scripted", payload=payload)
    page = get(client, PATH)
    assert "questions &lt;/pre&gt;" in page
    assert "<script>alert" not in page


def test_an_experiment_whose_files_are_gone_names_no_prompts(
    client: Client, experiment: Experiment
) -> None:
    assert "are sampled from" not in get(client, "/experiments/first")
