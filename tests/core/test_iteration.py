"""A shard is done when its manifest says so and its bytes agree; else it is made again."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from meta_reward_core.context import IterationContext
from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import make_fake_reply
from meta_reward_core.errors import DamagedArtifactError, InputError, NoPairsError
from meta_reward_core.experiment import Experiment
from meta_reward_core.iteration import STAGES
from tests.core.scripted_world import begin, make_scripted_resources, run_before_training


def bytes_below(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_stages_stand_in_the_papers_order() -> None:
    assert [stage.name for stage in STAGES] == [
        "sample",
        "generate",
        "judge",
        "pair_actor",
        "meta_judge",
        "pair_judge",
        "train",
        "evaluate",
    ]


def test_the_same_experiment_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        root = tmp_path / name
        run_before_training(begin(root).build_context(1), make_scripted_resources(root))
    # The probe's report holds seconds.
    shutil.rmtree(tmp_path / "one/scripted/iteration-1/probe")
    shutil.rmtree(tmp_path / "two/scripted/iteration-1/probe")
    one, two = (bytes_below(tmp_path / name / "scripted/iteration-1") for name in ("one", "two"))
    assert one == two
    assert len(one) > 20


def test_a_rubric_may_have_a_scale_of_its_own(tmp_path: Path) -> None:
    """The script's points, 0 to 5, are those of a scale up to 10 here: shares of 5 are half."""
    scores = {}
    for top in (5, 10):
        judge = {"samples": 6, "max_score": top}
        context = begin(tmp_path / str(top), judge=judge).build_context(1)
        run_before_training(context, make_scripted_resources(tmp_path))
        scores[top] = context.files.read("judgments")["score"].to_pylist()
    assert scores[10] == [score / 2 for score in scores[5]]
    assert max(scores[10]) == 2.5


def test_finished_shards_are_not_run_again(tmp_path: Path) -> None:
    experiment = begin(tmp_path)
    resources = make_scripted_resources(tmp_path)
    assert len(run_before_training(experiment.build_context(1), resources)) == 12
    assert run_before_training(experiment.build_context(1), resources) == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_part_is_found_by_its_hash_and_made_again(tmp_path: Path, damage: str) -> None:
    experiment = begin(tmp_path)
    resources = make_scripted_resources(tmp_path)
    run_before_training(experiment.build_context(1), resources)
    folder = tmp_path / "scripted/iteration-1"
    before = bytes_below(folder)
    part = folder / "judgments/part-00001.parquet"
    data = part.read_bytes()
    part.unlink()
    if damage == "truncate":
        part.write_bytes(data[:-100])
    if damage == "flip":
        part.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    assert run_before_training(experiment.build_context(1), resources) == [("judge", 1)]
    assert bytes_below(folder) == before


def test_a_damaged_part_is_never_read_as_if_it_were_whole(tmp_path: Path) -> None:
    context = begin(tmp_path).build_context(1)
    run_before_training(context, make_scripted_resources(tmp_path))
    part = tmp_path / "scripted/iteration-1/responses/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"X")
    with pytest.raises(DamagedArtifactError, match=r"responses/part-00000\.parquet"):
        context.files.read("responses", 0)


def test_a_part_without_a_manifest_was_never_finished(tmp_path: Path) -> None:
    """As if a process had been killed between a shard's parts and its manifest."""
    experiment = begin(tmp_path)
    resources = make_scripted_resources(tmp_path)
    run_before_training(experiment.build_context(1), resources)
    before = bytes_below(tmp_path)
    (tmp_path / "scripted/iteration-1/manifests/generate-00002.json").unlink()
    (tmp_path / "scripted/iteration-1/responses/part-00002.parquet").write_bytes(b"other bytes")
    assert run_before_training(experiment.build_context(1), resources) == [("generate", 2)]
    assert bytes_below(tmp_path) == before


def test_where_a_remade_shard_differs_all_that_was_made_from_it_is_made_again(
    tmp_path: Path,
) -> None:
    """On a GPU the same seed may give other tokens; here another script stands for it."""

    def other(conversation: Conversation, sample: int, seed: int) -> str:
        return make_fake_reply(conversation, sample, seed + 1)

    experiment = begin(tmp_path)
    run_before_training(experiment.build_context(1), make_scripted_resources(tmp_path))
    (tmp_path / "scripted/iteration-1/responses/part-00001.parquet").unlink()
    ran = run_before_training(experiment.build_context(1), make_scripted_resources(tmp_path, other))
    assert ran == [
        ("generate", 1),
        ("judge", 1),
        ("pair_actor", 0),
        ("meta_judge", 1),
        ("pair_judge", 0),
    ]


def second(experiment: Experiment) -> IterationContext:
    """Iteration 2 as far as its first step needs it: M1 is not made here."""
    first = experiment.build_context(1)
    return replace(
        first, number=2, files=experiment.get_files(2), earlier=(experiment.get_files(1),)
    )


def test_no_instruction_serves_in_two_iterations(tmp_path: Path) -> None:
    experiment = begin(tmp_path, prompts=40)
    resources = make_scripted_resources(tmp_path)
    sampled = []
    for context in (experiment.build_context(1), second(experiment)):
        STAGES[0].run_shard(context, 0, resources)
        sampled.append(set(context.files.read("prompts")["prompt_id"].to_pylist()))
    assert [len(ids) for ids in sampled] == [20, 20]
    assert not sampled[0] & sampled[1]


def test_a_pool_that_is_used_up_is_refused_unless_reuse_is_allowed(tmp_path: Path) -> None:
    experiment = begin(tmp_path, prompts=39)
    resources = make_scripted_resources(tmp_path)
    STAGES[0].run_shard(experiment.build_context(1), 0, resources)
    with pytest.raises(
        InputError, match="only 19 of the 39 prompts in the pool have not been used"
    ):
        STAGES[0].run_shard(second(experiment), 0, resources)
    reusing = begin(tmp_path / "b", prompts=39, sample={"prompts": 20, "allow_reuse": True})
    STAGES[0].run_shard(reusing.build_context(1), 0, resources)
    context = second(reusing)
    STAGES[0].run_shard(context, 0, resources)
    assert len(set(context.files.read("prompts")["prompt_id"].to_pylist())) == 20


def test_an_iteration_without_a_pair_ends_with_that_finding(tmp_path: Path) -> None:
    """A judge that gives every response 3 points leaves nothing to compare."""

    def indifferent(conversation: Conversation, sample: int, seed: int) -> str:
        asked = conversation[-1]["content"]
        return "Score: 3" if "Score:" in asked else f"answer {sample} {seed % 97}"

    context = begin(tmp_path, probe={"prompts": 0}).build_context(1)
    resources = make_scripted_resources(tmp_path, indifferent)
    run_before_training(context, resources)
    train = next(stage for stage in STAGES if stage.name == "train")
    with pytest.raises(NoPairsError) as error:
        train.run_shard(context, 0, resources)
    assert "actor: 20 prompts, equal_scores" in str(error.value)
    assert "judge: 20 prompts, zero_variance" in str(error.value)
    assert not context.files.checkpoint.list_files()
