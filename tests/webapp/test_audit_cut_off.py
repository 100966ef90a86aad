"""A judgment that the token limit cut off is never the chosen one, whoever prefers it."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User

from tests.core import scripted_world
from tests.webapp.audit_fixtures import carol, draw, record
from webapp.audit import annotation_queue
from webapp.audit.human_preference_pairs import build_pair_rows
from webapp.audit.models import Batch
from webapp.experiments.models import Experiment

__all__ = ["carol"]
pytestmark = pytest.mark.django_db


@pytest.fixture
def audited(tmp_path: Path, alice: User) -> Experiment:
    """An iteration in which half of the judgments ended at the token limit."""
    experiment = scripted_world.begin(tmp_path)
    resources = scripted_world.make_scripted_resources(tmp_path, scripted_world.long_winded_reply)
    scripted_world.run_before_training(experiment.build_context(1), resources)
    return record(tmp_path, owner=alice)


def prefer_the_first(batch: Batch, person: User) -> None:
    while (item := annotation_queue.lease_next_item(batch, person)) is not None:
        assert annotation_queue.submit_answer(
            item, person, annotation_queue.AnswerInput("first", None, 3, (), "", 1.0)
        )


def test_people_may_prefer_a_judgment_that_was_cut_off_and_it_becomes_no_row(
    audited: Experiment, alice: User, carol: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], size=30)
    prefer_the_first(batch, carol)
    known = {
        item.key: item.hidden_verdict.facts for item in batch.items.select_related("hidden_verdict")
    }
    for item in batch.items.all():
        facts = known[item.key]
        assert facts["cut_off_first"] == item.first.endswith("Moreover the")
        assert facts["cut_off_second"] == item.second.endswith("Moreover the")
    rows = list(build_pair_rows(batch))
    assert 0 < len(rows) == sum(not facts["cut_off_first"] for facts in known.values()) < 30
    assert not any(row["chosen"][0]["content"].endswith("Moreover the") for row in rows)
    assert any(row["rejected"][0]["content"].endswith("Moreover the") for row in rows)


def test_a_batch_of_before_this_was_written_down_gives_all_its_rows(
    audited: Experiment, alice: User, carol: User
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], size=30)
    prefer_the_first(batch, carol)
    for item in batch.items.select_related("hidden_verdict"):
        facts = item.hidden_verdict.facts
        item.hidden_verdict.facts = {k: v for k, v in facts.items() if not k.startswith("cut_off")}
        item.hidden_verdict.save()
    assert len(list(build_pair_rows(batch))) == 30
