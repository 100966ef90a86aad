"""An iteration measured part by part is the iteration measured as a whole."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from meta_reward_core.evaluation.iteration_metrics import measure_iteration
from meta_reward_core.evaluation.judge_metrics import (
    JudgeTally,
    compute_score_length_correlation,
    measure_meta_judge,
)
from meta_reward_core.storage.records import Battle, Judgment, ResponseScore
from meta_reward_core.storage.schemas import SCHEMAS, TOKEN_COLUMNS, build_table, to_records
from meta_reward_core.storage.shards import IterationFiles, StageOutput
from tests.core import scripted_world


class Watched(IterationFiles):
    """Notes which table was asked for as a whole, and which columns of any part."""

    def __init__(self, files: IterationFiles) -> None:
        super().__init__(files.store, files.folder)
        self.whole: set[str] = set()
        self.columns: set[str] = set()

    def read(
        self, table: str, part: int | None = None, *, columns: Sequence[str] | None = None
    ) -> pa.Table:
        if part is None:
            self.whole.add(table)
        self.columns.update(SCHEMAS[table].names if columns is None else columns)
        return super().read(table, part, columns=columns)


@pytest.fixture
def files(tmp_path: Path) -> Watched:
    context = scripted_world.begin(tmp_path / "artifacts").build_context(1)
    scripted_world.run_before_training(context, scripted_world.make_scripted_resources(tmp_path))
    return Watched(context.files)


def test_parts_add_up_to_the_whole(files: Watched) -> None:
    measured = measure_iteration(files, kinds=["actor", "judge"])
    judgments = to_records(files.read("judgments"), Judgment)
    battles = to_records(files.read("battles"), Battle)
    scores = to_records(files.read("scores"), ResponseScore)
    judged = JudgeTally()
    judged.add(judgments)
    assert measured.judge == judged.compute_metrics()
    by_id = {judgment.judgment_id: judgment for judgment in judgments}
    assert measured.meta_judge == measure_meta_judge(battles, by_id)
    assert measured.meta_judge is not None
    assert measured.meta_judge.unequal_lengths > 0
    assert measured.score_length_correlation == compute_score_length_correlation(scores)


def test_lengths_of_pairs_are_characters_of_their_replies(tmp_path: Path) -> None:
    files = scripted_world.begin(tmp_path).build_context(1).files
    replies = [("Größe", "ok"), ("日本", "a bit longer")]
    pairs = [
        {"chosen": [{"role": "assistant", "content": good}],
         "rejected": [{"role": "assistant", "content": bad}]}
        for good, bad in replies
    ]  # fmt: skip
    work = StageOutput({("actor_pairs", 0): build_table("actor_pairs", pairs)})
    files.publish("pair_actor", 0, key="k", work=work, packages={})
    (actor,) = measure_iteration(files, kinds=["actor"]).pairs
    assert (actor.pairs, actor.chosen_chars, actor.rejected_chars) == (2, 3.5, 7.0)


def test_texts_are_read_a_part_at_a_time(files: Watched) -> None:
    """385,000 judgments and 518,000 battles of 5,000 prompts once took 1.4 GiB together."""
    assert len(files.list_partition_numbers("judgments")) > 1
    measure_iteration(files, kinds=["actor", "judge"])
    assert files.whole == {"actor_pairs", "judge_pairs", "dropped", "scores"}
    assert files.columns.isdisjoint(TOKEN_COLUMNS)


def test_an_iteration_that_has_not_begun_measures_as_nothing(tmp_path: Path) -> None:
    files = scripted_world.begin(tmp_path).build_context(1).files
    measured = measure_iteration(files, kinds=["judge"])
    assert measured.response_chars is None
    assert measured.meta_judge is not None
    assert (measured.meta_judge.battles, measured.meta_judge.parse_rate) == (0, None)
