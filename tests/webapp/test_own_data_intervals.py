"""Intervals of the metrics of generated data, from the tables, clustered by prompt."""

import random
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.evaluation.clustered_intervals import (
    compute_clustered_mean_interval,
    compute_clustered_share_interval,
)
from meta_reward_core.evaluation.iteration_metrics import measure_iteration
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.records import Battle, Dropped, Judgment, ResponseScore
from meta_reward_core.storage.schemas import build_table
from meta_reward_core.storage.shards import IterationFiles, StageOutput
from webapp.experiments.models import Experiment, Iteration
from webapp.experiments.own_data_intervals import read_own_data_intervals

pytestmark = pytest.mark.django_db

PROMPTS, RESPONSES, JUDGMENTS = 12, 3, 4


@pytest.fixture
def files(experiment: Experiment, iteration: Iteration, tmp_path: Path) -> IterationFiles:
    experiment.artifact_root = str(tmp_path)
    experiment.save()
    Iteration.objects.update(status="finished", model_out="c" * 64, metrics={"judge": {}})
    return IterationFiles(ArtifactStore(str(tmp_path)), "first/iteration-1")


def publish(files: IterationFiles, stage: str, made: dict[str, list[Any]]) -> None:
    parts = {(name, 0): build_table(name, rows) for name, rows in made.items()}
    files.publish(stage, 0, key=stage, work=StageOutput(parts), packages={})


def write_data(files: IterationFiles) -> tuple[list[Judgment], list[ResponseScore], list[Battle]]:
    """Judgments whose scores depend on the prompt; each first pair battles in both orders."""
    rng = random.Random(3)
    judgments, scores, battles = [], [], []
    for prompt in range(PROMPTS):
        for response in range(RESPONSES):
            name = f"p{prompt}.r{response}"
            own = [
                Judgment(f"p{prompt}", name, f"{name}.j{n}", n, "t" * rng.randint(5, 9), score,
                         None if score is not None else "no_score_line", 3)
                for n in range(JUDGMENTS)
                for score in [None if rng.random() < 0.1 else float((prompt + n) % 6)]
            ]  # fmt: skip
            judgments += own
            mean = float(prompt % 5 + response)
            scores.append(
                ResponseScore(f"p{prompt}", name, response, 4, mean, 0.5,
                              40 + 7 * prompt + rng.randint(0, 30), 9, "stop")
            )  # fmt: skip
            for first, second in ((own[0], own[1]), (own[1], own[0])):
                verdict = rng.choice(["A", "B", "tie", None])
                battles.append(
                    Battle(f"p{prompt}", name, first.judgment_id, second.judgment_id, "t",
                           verdict, None if verdict else "no_verdict", 3)  # type: ignore[arg-type]
                )  # fmt: skip
    publish(files, "judge", {"judgments": judgments, "scores": scores})
    publish(files, "meta_judge", {"battles": battles})
    return judgments, scores, battles


def test_intervals_lie_around_the_metrics_of_the_summary(
    iteration: Iteration, files: IterationFiles
) -> None:
    """Each interval has the metric in its middle, except shares, whose interval is Wilson's."""
    write_data(files)
    row = Iteration.objects.get()
    found = read_own_data_intervals(row.experiment, [row])[1]
    measured = measure_iteration(files, kinds=["judge"])
    assert measured.judge is not None
    assert measured.meta_judge is not None
    for path, value in {
        "response_chars": measured.response_chars,
        "score_length_correlation": measured.score_length_correlation,
        "judge.mean": measured.judge.mean,
        "judge.entropy_bits": measured.judge.entropy_bits,
    }.items():
        low, high = found[path].interval
        assert (low + high) / 2 == pytest.approx(value), path
        assert low < high
        assert found[path].prompts == PROMPTS
    for path, value in {
        "judge.parse_rate": measured.judge.parse_rate,
        "judge.share_at_max": measured.judge.share_at_max,
        "meta_judge.parse_rate": measured.meta_judge.parse_rate,
        "meta_judge.won_by_first": measured.meta_judge.won_by_first,
        "meta_judge.won_by_higher_score": measured.meta_judge.won_by_higher_score,
        "meta_judge.inconsistency": measured.meta_judge.inconsistency,
    }.items():
        assert value is not None, path
        low, high = found[path].interval
        assert 0 <= low < value < high <= 1, path


def test_intervals_are_those_of_the_prompts(iteration: Iteration, files: IterationFiles) -> None:
    judgments, scores, battles = write_data(files)
    row = Iteration.objects.get()
    found = read_own_data_intervals(row.experiment, [row])[1]
    sums = [0.0] * PROMPTS
    for one in scores:
        sums[int(one.prompt_id[1:])] += one.length_chars
    expected = compute_clustered_mean_interval(sums, [RESPONSES] * PROMPTS)
    assert found["response_chars"].interval == pytest.approx(expected)
    read = [float(one.score is not None) for one in judgments]
    assert found["judge.parse_rate"].interval == pytest.approx(
        compute_clustered_share_interval(read, [one.prompt_id for one in judgments])
    )
    known = [float(one.verdict is not None) for one in battles]
    assert found["meta_judge.parse_rate"].interval == pytest.approx(
        compute_clustered_share_interval(known, [one.prompt_id for one in battles])
    )


def test_pairs_have_intervals_of_their_lengths_and_yield(
    iteration: Iteration, files: IterationFiles
) -> None:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    pairs = [
        {"prompt": said("p"), "chosen": said("a" * (10 + n)), "rejected": said("b" * 9),
         "prompt_id": f"p{n}"}
        for n in range(3)
    ]  # fmt: skip
    dropped = [Dropped("p9", "actor", "equal_scores"), Dropped("p8", "judge", "equal_scores")]
    publish(files, "pair_actor", {"actor_pairs": pairs, "dropped": dropped})
    row = Iteration.objects.get()
    found = read_own_data_intervals(row.experiment, [row])[1]
    assert sum(found["pairs.actor.chosen_chars"].interval) / 2 == pytest.approx(11)
    expected = compute_clustered_mean_interval([1, 1, 1, 0], [1] * 4, is_share=True)
    assert found["pairs.actor.yield_rate"].interval == pytest.approx(expected)


def test_without_tables_there_are_no_intervals(iteration: Iteration, files: IterationFiles) -> None:
    row = Iteration.objects.get()
    assert read_own_data_intervals(row.experiment, [row]) == {1: {}}
    Iteration.objects.update(status="running")
    assert read_own_data_intervals(row.experiment, [Iteration.objects.get()]) == {}
