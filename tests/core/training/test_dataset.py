"""Which rows an iteration trains on: its pairs in their order, then people's, less the withheld."""

from dataclasses import replace
from pathlib import Path

import pytest

from meta_reward_core.context import IterationContext
from meta_reward_core.engines.base import Completion, Conversation, pack_token_ids
from meta_reward_core.engines.scripted import make_fake_reply
from meta_reward_core.iteration import STAGES
from meta_reward_core.storage.shards import IterationFiles
from meta_reward_core.training.dataset import WithheldPairs, load_training_rows, write_audit
from tests.core import scripted_world

TRAIN = next(stage for stage in STAGES if stage.name == "train")
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
    context = begun.build_context(1)
    scripted_world.run_before_training(context, scripted_world.make_scripted_resources(tmp_path))
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


def spell(conversation: Conversation, sample: int, seed: int) -> Completion:
    """A script whose tokens are the characters of its text, and 0 at the end."""
    text = make_fake_reply(conversation, sample, seed)
    ids = [*map(ord, text), 0]
    return Completion(text, len(ids), "stop", token_ids=pack_token_ids(ids))


@pytest.fixture
def spelled(tmp_path: Path) -> IterationContext:
    begun = scripted_world.begin(tmp_path / "artifacts", audit={"human_pairs_share": 0.2})
    context = begun.build_context(1)
    scripted_world.run_before_training(
        context, scripted_world.make_scripted_resources(tmp_path, spell)
    )
    return context


def test_each_side_of_a_pair_has_the_tokens_of_its_own_completion(
    spelled: IterationContext,
) -> None:
    """Other samples of the same prompt have other tokens."""
    rows = list(load_training_rows(spelled))
    assert {row["kind"] for row in rows} == {"actor", "judge"}
    for row in rows:
        for side in ("chosen", "rejected"):
            sampled = row[f"{side}_drawn"]
            assert "".join(map(chr, sampled["token_ids"][:-1])) == row[side][0]["content"]
            assert sampled["finish_reason"] == "stop"


def test_peoples_pairs_have_the_tokens_of_the_iteration_that_drew_them(
    tmp_path: Path, spelled: IterationContext
) -> None:
    files = IterationFiles(spelled.files.store, "scripted/iteration-2")
    later = replace(spelled, number=2, files=files, earlier=(spelled.files,))
    pair = spelled.files.read("judge_pairs").to_pylist()[0]
    human = pair | {"kind": "human", "iteration": 1, "score_chosen": 1.0, "score_rejected": 0.0}
    unknown = HUMAN | {"iteration": 1}
    scripted_world.run_before_training(
        later, scripted_world.make_scripted_resources(tmp_path, spell)
    )
    write_audit(later.files, withheld=[], human_pairs=[human, unknown])
    rows = {
        row["chosen_judgment_id"]: row
        for row in load_training_rows(later)
        if row["kind"] == "human"
    }
    found = rows[pair["chosen_judgment_id"]]["chosen_drawn"]["token_ids"]
    assert "".join(map(chr, found[:-1])) == pair["chosen"][0]["content"]
    assert "chosen_drawn" not in rows["a"], "nobody knows how these judgments were drawn"


def test_a_training_depends_on_the_drawn_tokens(tmp_path: Path, spelled: IterationContext) -> None:
    """The same texts, spelled otherwise: other work, also where the pairs are the same."""

    def spell_otherwise(conversation: Conversation, sample: int, seed: int) -> Completion:
        done = spell(conversation, sample, seed)
        return replace(done, token_ids=pack_token_ids([1, *(done.token_ids or ())]))

    begun = scripted_world.begin(tmp_path / "other", audit={"human_pairs_share": 0.2})
    other = begun.build_context(1)
    resources = scripted_world.make_scripted_resources(tmp_path, spell_otherwise)
    scripted_world.run_before_training(other, resources)
    for kind in ("actor", "judge"):
        assert other.files.read(f"{kind}_pairs") == spelled.files.read(f"{kind}_pairs")
    assert TRAIN.compute_key(spelled, 0) != TRAIN.compute_key(other, 0)


def test_a_training_on_peoples_pairs_depends_on_the_judgments_of_earlier_iterations(
    spelled: IterationContext,
) -> None:
    files = IterationFiles(spelled.files.store, "scripted/iteration-2")
    later = replace(spelled, number=2, files=files, earlier=(spelled.files,))
    alone = replace(later, earlier=())
    assert TRAIN.compute_key(later, 0) == TRAIN.compute_key(alone, 0)
    write_audit(later.files, withheld=[], human_pairs=[HUMAN])
    assert TRAIN.compute_key(later, 0) != TRAIN.compute_key(alone, 0)
