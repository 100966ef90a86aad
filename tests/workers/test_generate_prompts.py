"""`manage.py generate_prompts` and `build_eft`: files in, files that the next command reads out."""

import json
from pathlib import Path

import pytest
from django.core.management import CommandError

from meta_reward_core.data.prompt_files import read_prompts
from meta_reward_core.data.sft_dataset import read_sft_rows
from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import Reply
from tests.core.evaluation.rows import write_lines
from tests.workers.installation import Installation, UseScript

SUBJECTS = ["rivers", "trains", "poems", "numbers", "bread", "maps", "clouds", "chess", "soil"]
VERBS = ["Describe", "Compare", "Draw", "Translate", "Summarise", "Invent", "Correct", "Rank"]


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.txt"
    path.write_text("".join(f"Explain to a child what {s} are made for.\n" for s in SUBJECTS))
    return path


def writer(conversation: Conversation, sample: int, seed: int) -> Reply:
    """Tasks of the request and the sample alone, some of them repeated, some in German."""
    number = seed % 97 + sample
    if number % 5 == 0:
        return "<task>Schreibe bitte ein kurzes Gedicht über das Meer.</task>"
    verb, subject = VERBS[number % 8], SUBJECTS[(number * 7) % 9]
    return f"<task>{verb} the {subject} of {seed % 1009} and {sample} in your own words.</task>"


def test_prompts_are_made_split_counted_and_go_on(
    installation: Installation, use_script: UseScript, seeds: Path, tmp_path: Path
) -> None:
    use_script(writer)
    held = tmp_path / "benchmark.txt"
    held.write_text("Name the longest river of Asia.\n")
    arguments = (
        "generate_prompts", "--seed-prompts", seeds, "--engine", "scripted", "--count", 12,
        "--num-held-out", 3, "--held-out", held, "--output", tmp_path / "out",
        "--rouge-threshold", 0.95,
    )  # fmt: skip
    shown = installation.run(*arguments)
    made = read_prompts(tmp_path / "out" / "prompts.jsonl").prompts
    kept = read_prompts(tmp_path / "out" / "held_out.jsonl").prompts
    assert (len(made), len(kept)) == (9, 3)
    assert {p.prompt_id for p in made}.isdisjoint(p.prompt_id for p in kept)
    left = [
        json.loads(line) for line in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    ]
    assert {row["reason"] for row in left} >= {"other_language"}
    assert "left out: other_language" in shown
    assert "sample.held_out=" in shown

    def nobody(conversation: Conversation, sample: int, seed: int) -> Reply:
        raise AssertionError("everything is kept already")

    use_script(nobody)
    before = (tmp_path / "out" / "prompts.jsonl").read_text()
    installation.run(*arguments)
    assert (tmp_path / "out" / "prompts.jsonl").read_text() == before


def test_a_model_that_has_no_more_to_give_is_told(
    installation: Installation, use_script: UseScript, seeds: Path, tmp_path: Path
) -> None:
    use_script(lambda conversation, sample, seed: "<task>Always the same task, please.</task>")
    shown = installation.run(
        "generate_prompts", "--seed-prompts", seeds, "--engine", "scripted", "--count", 5,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert "only 1 of 5" in shown
    assert "left out: near_duplicate" in shown
    assert "next: " in shown


def test_without_a_prompt_nothing_follows(
    installation: Installation, use_script: UseScript, seeds: Path, tmp_path: Path
) -> None:
    use_script(lambda conversation, sample, seed: "I would rather not.")
    shown = installation.run(
        "generate_prompts", "--seed-prompts", seeds, "--engine", "scripted", "--count", 5,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert "only 0 of 5" in shown
    assert "next: " not in shown


@pytest.mark.parametrize(
    "more, message",
    [
        (["--num-held-out", "5"], "--num-held-out must be smaller"),
        (["--language", "xx"], "unknown language xx"),
        (["--rouge-threshold", "0"], "must be above 0"),
        (["--samples", "0"], "counts from 1"),
        (["--temperature", "-1"], "must be between 0 and 5"),
        (["--generated-shots", "-1"], "--generated-shots must be 0 or more"),
        (["--template", "judge"], "not a known placeholder; use {examples}"),
        (["--shots", "20"], "only 9 seed prompts"),
    ],
)
def test_what_is_wrong_is_told_before_the_work(
    installation: Installation, seeds: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        installation.run(
            "generate_prompts", "--seed-prompts", seeds, "--engine", "scripted", "--count", 5,
            "--output", tmp_path / "out", *more,
        )  # fmt: skip
    assert not (tmp_path / "out" / "prompts.jsonl").exists()


def test_held_out_prompts_never_enter_an_experiment(
    installation: Installation, tmp_path: Path
) -> None:
    """20 prompts of which 2 are held out, one of them in another case."""
    held = tmp_path / "held.txt"
    held.write_text("question 3?\nQUESTION  7?\nsomething else\n")
    shown = installation.run_iteration("--set", f"sample.held_out={held}")
    assert "2 prompt(s) of the pool left out: held out for evaluation" in shown
    manifest = json.loads((installation.artifacts / "mine/iteration-0/manifests/pool-00000.json")
                          .read_text())  # fmt: skip
    assert manifest["counts"] == {"prompts": 18, "held_out": 2}


def test_a_pool_that_is_held_out_whole_is_refused(
    installation: Installation, tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="every prompt of the pool is held out"):
        installation.run_iteration("--set", f"sample.held_out={installation.prompts}")
    assert not (installation.artifacts / "mine" / "experiment.json").exists()


def points_by_answer(conversation: Conversation, sample: int, seed: int) -> Reply:
    shown = conversation[0]["content"]
    points = 4 if "good" in shown else 1
    return f"As it is.\nScore: {points if sample == 0 else 5 - points}"


def test_judgments_that_agree_with_people_become_data_for_a_seed(
    installation: Installation, use_script: UseScript, tmp_path: Path
) -> None:
    use_script(points_by_answer)
    ranked = [
        {"instruction": f"why {n}?", "response": text, "rank": rank}
        for n in range(4) for rank, text in enumerate(("good", "poor"), start=1)
    ]  # fmt: skip
    held = tmp_path / "held.txt"
    held.write_text("why 3?\n")
    output = tmp_path / "eft.jsonl"
    shown = installation.run(
        "build_eft", "--ranked", write_lines(tmp_path / "ranked.jsonl", ranked),
        "--judge", "scripted", "--output", output, "--samples", 2, "--held-out", held,
    )  # fmt: skip
    found = read_sft_rows(output)
    assert len(found.rows) == 6  # three prompts, two answers, the first of two times
    assert "not kept: order_differs" in shown
    assert "prompts left out: held_out" in shown
    assert len({row["prompt_id"] for row in found.rows}) == 3


def test_a_judge_that_never_agrees_writes_nothing(
    installation: Installation, use_script: UseScript, tmp_path: Path
) -> None:
    use_script(lambda conversation, sample, seed: "Score: 3")
    row = {"prompt": "why?", "responses": ["good", "poor"], "ranks": [1, 2]}
    with pytest.raises(CommandError, match="no judgment ranks the responses"):
        installation.run(
            "build_eft", "--ranked", write_lines(tmp_path / "ranked.jsonl", [row]),
            "--judge", "scripted", "--output", tmp_path / "eft.jsonl",
        )  # fmt: skip
    assert not (tmp_path / "eft.jsonl").exists()
