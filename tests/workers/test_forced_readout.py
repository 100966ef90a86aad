"""Recipes with a forced readout: what a run stores, where it is marked, and what is refused."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError
from django.test import Client

from meta_reward_core.recipes.loader import load_recipe
from tests.workers.installation import Installation

pytestmark = pytest.mark.django_db

FORCED = ("--set", "judge.score_readout=forced", "--set", "meta_judge.verdict_readout=forced")


def read(installation: Installation, table: str) -> list[dict[str, Any]]:
    folder = installation.artifacts / f"mine/iteration-1/{table}"
    return [row for part in sorted(folder.iterdir()) for row in pq.read_table(part).to_pylist()]


def test_every_score_and_verdict_is_there_with_its_probabilities(
    installation: Installation,
) -> None:
    shown = installation.run_iteration(*FORCED)
    judgments, battles = read(installation, "judgments"), read(installation, "battles")
    assert judgments
    assert battles
    for row in judgments:
        assert row["readout"] == "forced"
        assert row["score"] in range(6)
        assert row["text"].endswith(f"\nScore: {row['score']:g}")
        assert [one["value"] for one in row["probabilities"]] == ["0", "1", "2", "3", "4", "5"]
        assert len(row["injected_at"]) == 2
    for row in battles:
        assert row["readout"] == "forced"
        assert row["text"].endswith(f"\nWinner: Judgement {row['verdict']}")
    assert "readout of scores" in shown
    assert "forced" in shown


def test_expected_scores_are_means(installation: Installation) -> None:
    installation.run_iteration("--set", "judge.score_readout=expected")
    for row in read(installation, "judgments"):
        mean = sum(float(one["value"]) * one["probability"] for one in row["probabilities"])
        assert row["score"] == pytest.approx(mean)
        assert row["readout"] == "expected"
    assert {row["readout"] for row in read(installation, "battles")} == {"free"}


def test_pages_and_reports_say_so(installation: Installation, tmp_path: Path) -> None:
    installation.run_iteration(*FORCED)
    person = User.objects.create_user("vera")
    person.groups.set(Group.objects.filter(name="viewer"))
    client = Client()
    client.force_login(person)
    for address in ("/experiments/mine", "/experiments/mine/iterations/1"):
        page = client.get(address).content.decode()
        assert "Scores use a forced readout" in page, address
        assert "Verdicts use a forced readout" in page, address
    installation.run("report", "--experiment", "mine", "--output", tmp_path / "report")
    report = (tmp_path / "report.md").read_text()
    assert "readout of scores forced, of verdicts forced; the paper samples both freely" in report


def test_pages_of_a_free_readout_do_not_mention_it(installation: Installation) -> None:
    installation.run_iteration()
    person = User.objects.create_user("vera")
    person.groups.set(Group.objects.filter(name="viewer"))
    client = Client()
    client.force_login(person)
    assert "forced readout" not in client.get("/experiments/mine").content.decode()


def test_forced_scores_of_an_external_judge_are_refused_before_anything_is_written(
    installation: Installation,
) -> None:
    with pytest.raises(CommandError, match=r"forces scores of an external judge"):
        installation.run_iteration(*FORCED, "--set", "judge.endpoint=strong")
    assert not (installation.artifacts / "mine").exists()


def test_the_default_is_not_in_the_hash() -> None:
    recipe = load_recipe("smoke")
    same = load_recipe("smoke", changes=["judge.score_readout=free"])
    other = load_recipe("smoke", changes=["judge.score_readout=forced"])
    assert recipe.sha256 == same.sha256 != other.sha256
