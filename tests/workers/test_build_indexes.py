"""Results are prepared before anybody looks, once, and a damaged file stops nobody."""

import logging

import pytest

from tests.workers.installation import Installation
from webapp.experiments.models import Experiment, Iteration, Stage
from webapp.results.iteration_reader import open_iteration
from webapp.results.prompt_index import find_index
from workers.jobs.build_indexes import RunKey, index_new


@pytest.fixture
def paired(installation: Installation) -> Iteration:
    installation.run_iteration()
    return Iteration.objects.select_related("experiment").get()


def test_the_first_visit_finds_everything_prepared(paired: Iteration) -> None:
    seen: set[RunKey] = set()
    made = index_new(seen)
    opened = open_iteration(paired.experiment, paired.number)
    assert made == len(opened.files.list_partition_numbers("prompts")) > 1
    assert find_index(opened, budget_seconds=-1.0)[1].is_whole
    assert index_new(seen) == 0
    assert index_new(set()) == 0, "another process finds them"


def test_nothing_is_prepared_before_the_pairs_are_chosen(paired: Iteration) -> None:
    Stage.objects.filter(name="pair_judge").update(status="running")
    assert index_new(set()) == 0


def test_a_damaged_file_is_told_and_the_others_are_prepared(
    installation: Installation, paired: Iteration, caplog: pytest.LogCaptureFixture
) -> None:
    installation.run_iteration(name="other")
    path = installation.artifacts / "mine/iteration-1/judgments/part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        made = index_new(set())
    assert "could not be prepared" in caplog.text
    other = open_iteration(Experiment.objects.get(name="other"), 1)
    assert made == len(other.files.list_partition_numbers("prompts"))
