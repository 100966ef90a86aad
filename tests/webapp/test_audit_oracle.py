"""Miniature battles in real files, audited through the rows by an oracle, before the gate."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from django.contrib.auth.models import User

from meta_reward_core.method.pairing import score_responses
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json
from meta_reward_core.storage.schemas import WRITERS, build_table
from meta_reward_core.storage.shards import IterationFiles, StageOutput
from tests.core.review.miniature_battles import NOISE, audited_world, fight
from tests.webapp import audit_fixtures
from tests.webapp.audit_fixtures import answer_by_oracle, carol, draw
from webapp.audit import gate
from webapp.audit.batch_report import make_report
from webapp.audit.models import Gate
from webapp.experiments.models import Experiment, Iteration

__all__ = ["carol"]

pytestmark = pytest.mark.django_db


def miniature(root: Path, owner: User, *, noise: float) -> tuple[Experiment, float]:
    """Files and rows of a miniature iteration, and the true accuracy of its meta-judge."""
    fought = fight(60, noise=noise, seed=3)
    store = ArtifactStore(str(root))
    words = {"judge": "{instruction} {response}", "meta_judge": "", "rubric": "Five words."}
    description = {
        "recipe": {"name": "scripted"},
        "templates": words,
        "seed": 3,
        "seed_model": {"folder": "m0", "sha256": "0" * 64},
    }
    store.put_if_absent("scripted/experiment.json", encode_canonical_json(description))
    scores = score_responses(fought.responses, fought.judgments)
    prompts = [{"prompt_id": p.prompt_id, "text": p.text, "extra": None} for p in fought.prompts]
    tables: dict[str, Sequence[object]] = {
        "prompts": prompts, "responses": fought.responses, "judgments": fought.judgments,
        "scores": scores, "battles": fought.battles, "ratings": [], "judge_pairs": [],
    }  # fmt: skip
    files = IterationFiles(store, "scripted/iteration-1")
    for stage in {WRITERS[name][0] for name in tables}:
        written = {name: rows for name, rows in tables.items() if stage in WRITERS[name]}
        made = {(name, 0): build_table(name, rows) for name, rows in written.items()}
        files.publish(stage, 0, key="k", work=StageOutput(made), packages={})
    return audit_fixtures.record(root, owner=owner), audited_world(fought).accuracy


@pytest.mark.parametrize("level", NOISE)
def test_an_oracle_at_the_desk_finds_the_truth_and_the_gate_stops_the_coin(
    level: str, tmp_path: Path, alice: User, carol: User
) -> None:
    experiment, truth = miniature(tmp_path, alice, noise=NOISE[level])
    Gate.objects.create(experiment=experiment, min_answers=50)
    iteration = Iteration.objects.get(experiment=experiment)
    assert "no audit of these battles" in gate.explain_hold(iteration)
    batch = draw(experiment, by=alice, auditors=[carol], strategy="score_gap", size=100)
    answer_by_oracle(batch, carol)
    report = make_report(batch)
    assert report.pairs is not None
    found = report.pairs.agreement_decided
    assert found.low is not None
    assert found.high is not None
    assert found.low <= truth <= found.high
    assert bool(gate.explain_hold(iteration)) == (level == "coin")
    assert ("not shown" in report.sentences[0]) == (level == "coin")
