"""What an audit exports is a reference for the judge and for the meta-judge."""

from pathlib import Path

import pytest
from django.contrib.auth.models import User

from meta_reward_core.evaluation.judge_agreement import measure_agreement
from meta_reward_core.evaluation.ratings_io import read_ratings
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.shards import IterationFiles
from tests.webapp.audit_fixtures import artifacts, audited, browser, carol, draw, give, take
from webapp.audit.exports import export_batch
from webapp.experiments.models import Experiment

__all__ = ["artifacts", "audited", "carol"]
pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("kind, table", [("responses", "judgments"), ("judgments", "battles")])
def test_people_are_compared_with_judge_and_meta_judge(
    audited: Experiment, alice: User, carol: User, tmp_path: Path, kind: str, table: str, form: str
) -> None:
    batch = draw(audited, by=alice, auditors=[carol], kind=kind, size=4)
    client = browser(carol)
    for number in range(4):
        answer = {"points": str(number)} if kind == "responses" else {}
        give(client, take(client, batch), **answer)
    file = export_batch(batch, form)
    path = tmp_path / file.name
    path.write_bytes(file.content)
    people = read_ratings(path)
    files = IterationFiles(ArtifactStore(audited.artifact_root), "scripted/iteration-1")
    (part,) = files.list_partitions(table)[:1]
    own = read_ratings(Path(audited.artifact_root) / "scripted/iteration-1" / part.path)
    card = measure_agreement(own, people)
    assert sum(metric.count for metric in card.metrics) > 0
    known = people.scores if kind == "responses" else people.verdicts
    assert len(known) == 4
