"""`manage.py evaluate run`: models answer and judge, files are written, a stopped run goes on."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError

from meta_reward_core.context import ModelRef
from meta_reward_core.engines.base import Conversation, Engine
from meta_reward_core.engines.scripted import Reply, ScriptedEngine, make_fake_reply
from meta_reward_core.errors import EngineError
from meta_reward_core.planning import engine_loading
from meta_reward_core.recipes.schema import EngineRecipe
from tests.core.engines.misbehaving_server import completion, misbehaving_server, saying
from tests.core.evaluation.rows import write_array, write_lines
from tests.core.tiny_model import make_model_folder
from tests.workers.installation import Installation, UseScript


def script(conversation: Conversation, sample: int, seed: int) -> Reply:
    """An actor that answers, and a judge that prefers what says `good`."""
    asked = conversation[-1]["content"]
    if "Better: A" in asked:
        return f"Better: {'A' if asked.index('good') < asked.index('plain') else 'B'}"
    if "[[A>>B]]" in asked:
        return f"[[{'A>B' if asked.index('good') < asked.index('plain') else 'B>>A'}]]"
    if "Rating: [[" in asked:
        return "Rating: [[8]]"
    if "Score:" in asked:
        points = 4 if "good" in asked else 2
        return f"It earns {points} points.\nScore: {points}"
    return f"good answer to: {asked}"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation.txt"
    path.write_text("".join(f"prompt {n}?\n" for n in range(12)))
    return path


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    rows = [
        {"instruction": f"prompt {n}?", "output": f"plain {n}", "generator": "base"}
        for n in range(12)
    ]
    return write_array(tmp_path / "base.json", rows)


def test_win_rates_on_ones_own_prompts_from_one_command(
    installation: Installation, use_script: UseScript, prompts: Path, baseline: Path, tmp_path: Path
) -> None:
    use_script(script)
    out = tmp_path / "out"
    shown = installation.run(
        "evaluate", "run", "alpaca", "--prompts", prompts, "--model", "stub",
        "--baseline-outputs", baseline, "--judge", "scripted", "--output", out,
    )  # fmt: skip
    assert "100.0000" in shown
    (card,) = json.loads((out / "scores.json").read_text())
    assert (card["win_rate"], card["n_total"], card["model"]) == (100, 12, "stub")
    metrics = {metric["name"]: metric["value"] for metric in card["figures"]}
    assert metrics["position_consistency"] == 100
    assert metrics["first_position_wins"] == 50
    outputs = json.loads((out / "model_outputs.json").read_text())
    assert outputs[3]["output"] == "good answer to: prompt 3?"
    again = installation.run("evaluate", "annotations", out / "annotations.json")
    assert "100.0000" in again


@pytest.mark.parametrize("source", ["prompts", "baseline", "model"])
def test_win_rates_by_category_fill_wherever_the_dataset_stands(
    installation: Installation, use_script: UseScript, tmp_path: Path, source: str
) -> None:
    """Of the prompts, or of either file of outputs while an engine is the other side."""
    use_script(script)
    out = tmp_path / "out"
    names = ["helpful_base" if n % 2 else "koala" for n in range(12)]
    base, own = (
        [{"instruction": f"prompt {n}?", "output": f"plain {n}", "generator": side}
         for n in range(12)]
        for side in ("base", "mine")
    )  # fmt: skip
    prompts = [{"prompt": f"prompt {n}?"} for n in range(12)]
    for row, name in zip({"prompts": prompts, "baseline": base, "model": own}[source], names,
                         strict=True):  # fmt: skip
        row["dataset"] = name
    of_base = ("--model", "stub", "--baseline-outputs", write_array(tmp_path / "b.json", base))
    sides = {
        "prompts": (*of_base, "--prompts", write_lines(tmp_path / "p.jsonl", prompts)),
        "baseline": of_base,
        "model": ("--model-outputs", write_array(tmp_path / "m.json", own), "--baseline", "stub"),
    }
    installation.run("evaluate", "run", "alpaca", *sides[source], "--judge", "scripted",
                     "--output", out)  # fmt: skip
    (card,) = json.loads((out / "scores.json").read_text())
    counts = {metric["name"]: metric["count"] for metric in card["figures"]}
    assert (counts["dataset_koala"], counts["dataset_helpful_base"]) == (6, 6)
    written = json.loads((out / "annotations.json").read_text())
    assert [row["dataset"] for row in written] == names


def test_a_run_that_was_stopped_goes_on_where_it_was(
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    prompts: Path,
    baseline: Path,
    tmp_path: Path,
) -> None:
    """12 prompts in shards of 4: the engine fails in the third; only that one is drawn again."""
    sampled: list[str] = []

    def failing(conversation: Conversation, sample: int, seed: int) -> Reply:
        sampled.append(conversation[-1]["content"])
        if len(sampled) == 9:
            raise EngineError("the power went")
        return script(conversation, sample, seed)

    def load(model: ModelRef, recipe: EngineRecipe) -> Engine:
        return ScriptedEngine(failing)

    monkeypatch.setattr(engine_loading, "load_engine", load)
    arguments = (
        "evaluate", "run", "alpaca", "--prompts", prompts, "--model", "stub",
        "--baseline-outputs", baseline, "--judge", "stub", "--output", tmp_path / "out",
        "--shard-size", 4,
    )  # fmt: skip
    with pytest.raises(CommandError, match="the power went"):
        installation.run(*arguments)
    assert sampled[:8] == [f"prompt {n}?" for n in range(8)]
    sampled.clear()
    sampled += ["not the ninth"] * 9
    installation.run(*arguments)
    asked = [text for text in sampled[9:] if text.startswith("prompt")]
    assert asked == [f"prompt {n}?" for n in range(8, 12)]
    sampled.clear()
    installation.run(*arguments)
    assert sampled == []


def test_another_seed_or_judge_is_asked_anew(
    installation: Installation, use_script: UseScript, prompts: Path, baseline: Path, tmp_path: Path
) -> None:
    use_script(script)
    out = tmp_path / "out"
    for seed in (1, 1, 2):
        installation.run(
            "evaluate", "run", "alpaca", "--prompts", prompts, "--model", "stub", "--seed", seed,
            "--baseline-outputs", baseline, "--judge", "scripted", "--output", out,
        )  # fmt: skip
    assert len(list((out / "kept").iterdir())) == 4  # answers and judgments of two seeds


def test_arena_games_are_played_and_scored(
    installation: Installation, use_script: UseScript, tmp_path: Path
) -> None:
    use_script(script)
    questions = write_lines(
        tmp_path / "question.jsonl",
        [{"uid": f"q{n}", "category": "c", "prompt": f"task {n}"} for n in range(6)],
    )
    answers = write_lines(
        tmp_path / "base.jsonl",
        [
            {"uid": f"q{n}", "model": "base",
             "messages": [{"role": "assistant", "content": {"answer": "plain"}}]}
            for n in range(6)
        ],
    )  # fmt: skip
    installation.run(
        "evaluate", "run", "arena", "--questions", questions, "--model", "stub",
        "--baseline-answers", answers, "--judge", "scripted", "--output", tmp_path / "out",
    )  # fmt: skip
    (card,) = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert card["benchmark"] == "arena_hard_0.1"
    judged = (tmp_path / "out" / "judgments.jsonl").read_text().splitlines()
    assert [game["score"] for game in json.loads(judged[0])["games"]] == ["B>>A", "A>B"]
    shown = installation.run("evaluate", "arena", tmp_path / "out" / "judgments.jsonl")
    assert "stub against base" in shown


def test_arena_categories_are_scored_apart_and_written_for_the_public_tool(
    installation: Installation, use_script: UseScript, tmp_path: Path
) -> None:
    """`show_result.py` of version 2.0 asks for uid, category, model, games, and whole counts."""
    use_script(script)
    categories = ["hard_prompt", "hard_prompt", "creative_writing"]
    questions = write_lines(
        tmp_path / "question.jsonl",
        [
            {"uid": f"q{n}", "category": category, "prompt": f"task {n}"}
            for n, category in enumerate(categories)
        ],
    )
    answers = write_lines(
        tmp_path / "base.jsonl",
        [{"uid": f"q{n}", "model": "base", "messages": [{"content": "plain"}]} for n in range(3)],
    )
    out = tmp_path / "out"
    installation.run(
        "evaluate", "run", "arena", "--questions", questions, "--model", "stub",
        "--baseline-answers", answers, "--judge", "scripted", "--version", "2.0", "--output", out,
    )  # fmt: skip
    cards = json.loads((out / "scores.json").read_text())
    assert [card["benchmark"] for card in cards] == [
        "arena_hard_2.0_creative_writing",
        "arena_hard_2.0_hard_prompt",
    ]
    rows = [json.loads(line) for line in (out / "judgments.jsonl").read_text().splitlines()]
    assert [row["category"] for row in rows] == categories
    (answer, *_) = (out / "model_answers.jsonl").read_text().splitlines()
    assert {type(count) for count in json.loads(answer)["metadata"].values()} == {int}
    shown = installation.run(
        "evaluate", "arena", out / "judgments.jsonl", "--version", "2.0", "--category",
        "hard_prompt",
    )  # fmt: skip
    assert "arena_hard_2.0_hard_prompt" in shown
    assert "creative_writing" not in shown


def test_an_answer_that_is_missing_is_told(
    installation: Installation, use_script: UseScript, tmp_path: Path
) -> None:
    use_script(script)
    question = {"question_id": 1, "category": "math", "turns": ["one", "two"]}
    questions = write_lines(tmp_path / "q.jsonl", [question, question | {"question_id": 2}])
    answers = write_lines(
        tmp_path / "a.jsonl",
        [{"question_id": 1, "model_id": "m", "choices": [{"index": 0, "turns": ["a", "b"]}]}],
    )
    with pytest.raises(CommandError, match=r"a\.jsonl: 1 of 2 questions have no answer, first 2"):
        installation.run(
            "evaluate", "run", "mt-bench", "--questions", questions, "--model-answers", answers,
            "--judge", "scripted", "--output", tmp_path / "out",
        )  # fmt: skip


def test_two_turns_are_answered_in_view_of_the_first_and_graded(
    installation: Installation, use_script: UseScript, tmp_path: Path
) -> None:
    talks: list[Conversation] = []

    def remember(conversation: Conversation, sample: int, seed: int) -> Reply:
        talks.append(conversation)
        return script(conversation, sample, seed)

    use_script(remember)
    rows = [{"question_id": n, "category": "math", "turns": ["one", "two"]} for n in (81, 82)]
    questions = write_lines(tmp_path / "q.jsonl", rows)
    installation.run(
        "evaluate", "run", "mt-bench", "--questions", questions, "--model", "stub",
        "--judge", "scripted", "--output", tmp_path / "out",
    )  # fmt: skip
    (card,) = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (card["all"], card["turn_2"]) == (8, 8)
    answer = json.loads((tmp_path / "out" / "model_answers.jsonl").read_text().splitlines()[0])
    assert answer["choices"][0]["turns"] == ["good answer to: one", "good answer to: two"]
    assert [message["content"] for message in talks[2]] == ["one", "good answer to: one", "two"]
    assert "Assistant: good answer to: one" in talks[-1][0]["content"]


@pytest.mark.parametrize("version", ["1", "2"])
def test_reward_bench_items_are_scored_by_the_loops_judge(
    installation: Installation, use_script: UseScript, tmp_path: Path, version: str
) -> None:
    use_script(script)
    row: dict[str, Any] = {"id": 1, "subset": "math-prm", "prompt": "why?"}
    if version == "1":
        row |= {"chosen": "good", "rejected": "plain"}
    else:
        row |= {"chosen": ["good"], "rejected": ["plain", "dull"], "num_correct": 1}
    items = write_lines(tmp_path / "items.jsonl", [row])
    installation.run(
        "evaluate", "run", "reward-bench", "--items", items, "--judge", "stub",
        "--output", tmp_path / "out", "--samples", 2,
    )  # fmt: skip
    (card,) = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert card["benchmark"] == f"reward_bench_{version}"
    assert card["math-prm"] == 100


def test_a_judge_is_asked_again_and_compared_with_people(
    installation: Installation, use_script: UseScript, tmp_path: Path
) -> None:
    use_script(script)
    responses = [
        {"instruction": f"why {n}?", "prompt_id": f"p{n}", "response_id": f"{n}.{text}",
         "response": text}
        for n in range(3) for text in ("good", "plain")
    ]  # fmt: skip
    people = [
        {"prompt_id": row["prompt_id"], "response_id": row["response_id"], "score": score}
        for row, score in zip(responses, [5, 3] * 3, strict=True)
    ]
    installation.run(
        "evaluate", "run", "judge", "--responses", write_lines(tmp_path / "r.jsonl", responses),
        "--reference", write_lines(tmp_path / "people.jsonl", people), "--judge", "stub",
        "--output", tmp_path / "out", "--samples", 3,
    )  # fmt: skip
    (card,) = json.loads((tmp_path / "out" / "scores.json").read_text())
    metrics = {metric["name"]: metric["value"] for metric in card["figures"]}
    assert card["benchmark"] == "judge_agreement"
    assert metrics["agreement"] == 100
    assert metrics["same_when_asked_again"] == 100
    assert metrics["agrees_with_own_reasons"] == 100
    assert metrics["mean_absolute_error"] == 1


@pytest.mark.parametrize("readout", ["forced", "expected"])
def test_forced_scores_of_responses_and_of_labelled_pairs_are_written(
    installation: Installation, use_script: UseScript, tmp_path: Path, readout: str
) -> None:
    use_script(make_fake_reply)
    responses = [{"instruction": "why?", "response_id": "a", "response": "because"}]
    pairs = [{"input": "why?", "output_1": "because", "output_2": "so", "label": 1}]
    files = {
        "judge": ("--responses", write_lines(tmp_path / "responses.jsonl", responses)),
        "labelled-pairs": ("--data", write_array(tmp_path / "pairs.json", pairs)),
    }
    for benchmark, given in files.items():
        installation.run(
            "evaluate", "run", benchmark, *given, "--judge", "scripted", "--score-readout", readout,
            "--samples", 2, "--output", tmp_path / benchmark,
        )  # fmt: skip
        lines = (tmp_path / benchmark / "judgments.jsonl").read_text().splitlines()
        judgments = [json.loads(line) for line in lines]
        assert len(judgments) in {2, 4}
        for judgment in judgments:
            assert judgment["readout"] == readout
            probabilities = [one["probability"] for one in judgment["probabilities"]]
            assert sum(probabilities) == pytest.approx(1)
            assert judgment["token_ids"] is judgment["injected_at"] is None


def test_each_iterations_own_responses_are_told_apart_from_a_fixed_set(
    installation: Installation, use_script: UseScript, tmp_path: Path
) -> None:
    use_script(make_fake_reply)
    installation.run_iteration()
    installation.run(
        "evaluate", "run", "judge", "--experiment", "mine", "--judge", "scripted",
        "--output", tmp_path / "strong", "--samples", 1,
    )  # fmt: skip
    (card,) = json.loads((tmp_path / "strong" / "scores.json").read_text())
    assert card["benchmark"] == "judge_agreement_on_own_responses"
    assert card["model"] == "mine, iteration 1 (M0)"
    fixed = [{"prompt_id": "p", "response_id": name, "score": n} for n, name in enumerate("abc")]
    shown = installation.run(
        "evaluate", "judge", write_lines(tmp_path / "judge.jsonl", fixed),
        "--reference", write_lines(tmp_path / "people.jsonl", fixed), "--experiment", "mine",
        "--own-reference", tmp_path / "strong" / "judgments.jsonl",
        "--output", tmp_path / "both.json",
    )  # fmt: skip
    cards = json.loads((tmp_path / "both.json").read_text())
    assert [card["benchmark"] for card in cards] == [
        "judge_agreement", "judge_agreement_on_own_responses",
    ]  # fmt: skip
    assert "iteration 1" in shown


def test_prompts_of_the_models_own_training_are_told(
    installation: Installation, use_script: UseScript, baseline: Path, tmp_path: Path
) -> None:
    use_script(make_fake_reply)
    installation.run_iteration()
    seen = tmp_path / "seen.txt"
    seen.write_text("question 3?\nsomething new\n")
    shown = installation.run(
        "evaluate", "run", "alpaca", "--prompts", seen, "--model", "experiment:mine/M1",
        "--baseline", "stub", "--judge", "scripted", "--output", tmp_path / "out",
    )  # fmt: skip
    assert "in the experiment's training pool: 1" in shown


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["judge", "--judge", "scripted"], "pass either --responses"),
        (["judge", "--judge", "scripted", "--experiment", "no"], "'no' under .* does not exist"),
        (["alpaca", "--model", "scripted", "--baseline", "scripted", "--judge", "scripted"],
         "no prompts to respond to"),
        (["alpaca", "--model", "experiment:no/M1", "--baseline", "scripted", "--judge", "scripted",
          "--prompts", "PROMPTS"], "'no' under .* does not exist"),
        (["alpaca", "--model", "endpoint:no", "--baseline", "scripted", "--judge", "scripted",
          "--prompts", "PROMPTS"], "unknown endpoint 'no'"),
        (["alpaca", "--model", "nothing", "--baseline", "scripted", "--judge", "scripted",
          "--prompts", "PROMPTS"], "no model folder 'nothing'"),
        (["alpaca", "--model", "stub", "--baseline", "scripted", "--judge", "scripted",
          "--prompts", "PROMPTS", "--set", "dtype=int3"], "dtype"),
    ],
)  # fmt: skip
def test_what_is_asked_for_wrongly_is_one_sentence(
    installation: Installation, prompts: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    given = [str(prompts) if word == "PROMPTS" else word for word in arguments]
    with pytest.raises(CommandError, match=message) as raised:
        installation.run("evaluate", "run", *given, "--output", tmp_path / "out")
    assert raised.value.returncode == 2
    assert not (tmp_path / "out").exists()


def test_a_real_model_answers_and_judges(
    installation: Installation, prompts: Path, baseline: Path, tmp_path: Path
) -> None:
    make_model_folder(tmp_path / "models" / "tiny")
    shown = installation.run(
        "evaluate", "run", "alpaca", "--prompts", prompts, "--model", "tiny",
        "--baseline-outputs", baseline, "--judge", "tiny", "--output", tmp_path / "out",
        "--max-new-tokens", 6, "--judge-max-new-tokens", 4, "--set", "threads=1", "--judge-set",
        "threads=1",
    )  # fmt: skip
    outputs = json.loads((tmp_path / "out" / "model_outputs.json").read_text())
    assert len(outputs) == 12
    assert any(row["output"] for row in outputs)
    assert "Rows without a preference: 12" in shown  # it knows no better than to babble


def test_an_endpoint_judges_with_log_probabilities(
    installation: Installation,
    use_script: UseScript,
    monkeypatch: pytest.MonkeyPatch,
    prompts: Path,
    baseline: Path,
    tmp_path: Path,
) -> None:
    """Always A with 0.75 against B with 0.25: 1.25 and 1.75 in the two orders, 1.5 in all."""
    use_script(script)
    alternatives = [{"token": t, "logprob": math.log(p)} for t, p in ((" A", 0.75), (" B", 0.25))]
    said = json.loads(completion(["Better: A"]))
    said["choices"][0]["logprobs"] = {
        "content": [
            {"token": "Better:", "top_logprobs": []},
            {"token": " A", "top_logprobs": alternatives},
        ]
    }
    with misbehaving_server() as server:
        server.usually = saying(json.dumps(said).encode())
        entry = {"base_url": server.url, "model": "strong"}
        monkeypatch.setenv("META_REWARD_ENDPOINTS", json.dumps({"judge": entry}))
        installation.run(
            "evaluate", "run", "alpaca", "--prompts", prompts, "--model", "stub",
            "--baseline-outputs", baseline, "--judge", "endpoint:judge",
            "--output", tmp_path / "out", "--log-probabilities", 5,
        )  # fmt: skip
        assert {request["top_logprobs"] for request in server.requests} == {5}
    rows = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [row["preference"] for row in rows] == pytest.approx([1.5] * 12)
    assert {row["annotator"] for row in rows} == {"judge"}
