"""Which rows an iteration trains on: its pairs in their order, then people's, less the withheld."""

from pathlib import Path

import pytest

from meta_reward_core.context import IterationContext
from meta_reward_core.training.dataset import WithheldPairs, load_training_rows, write_audit
from tests.core import scripted_world

HUMAN = {
    "prompt": [{"role": "user", "content": "Judge this."}],
    "chosen": [{"role": "assistant", "content": "Score: 4"}],
    "rejected": [{"role": "assistant", "content": "Score: 1"}],
    "kind": "human",
    "iteration": 1,
    "prompt_id": "p",
    "score_chosen": 4.0,
    "score_rejected": 1.0,
    "response_id": "r",
    "chosen_judgment_id": "a",
    "rejected_judgment_id": "b",
}


@pytest.fixture
def context(tmp_path: Path) -> IterationContext:
    begun = scripted_world.begin(tmp_path / "artifacts", audit={"human_pairs_share": 0.2})
    context = begun.context(1)
    scripted_world.run_before_training(context, scripted_world.scripted_tools(tmp_path))
    return context


def test_rows_are_all_pairs_as_often_as_they_are_read(context: IterationContext) -> None:
    actor, judge = (context.files.read(f"{kind}_pairs").to_pylist() for kind in ("actor", "judge"))
    rows = load_training_rows(context)
    assert list(rows) == list(rows) == actor + judge
    assert len(rows) == len(actor) + len(judge)
    assert min(len(actor), len(judge)) > 0
    assert rows.counts == {}


def test_peoples_pairs_come_last(context: IterationContext) -> None:
    before = list(load_training_rows(context))
    write_audit(context.files, withheld=[], human_pairs=[HUMAN])
    rows = load_training_rows(context)
    assert list(rows) == [*before, HUMAN]
    assert len(rows) == len(before) + 1
    assert rows.counts == {"withheld": 0, "human": 1, "human_offered": 1}


def test_a_kind_that_is_withheld_is_no_row_and_is_counted(context: IterationContext) -> None:
    actor = context.files.read("actor_pairs").to_pylist()
    left_out = context.files.read("judge_pairs").num_rows
    withheld = [WithheldPairs("judge", "people disagree")]
    write_audit(context.files, withheld=withheld, human_pairs=[HUMAN])
    rows = load_training_rows(context)
    assert list(rows) == actor
    assert rows.counts == {"withheld": left_out, "human": 0, "human_offered": 0}
