"""Verifiable instructions: what is checked, how it is counted, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.context import PromptTemplates
from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.engines.scripted import ScriptedEngine
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.confidence_intervals import compute_wilson_interval
from meta_reward_core.recipes.prompt_templates import load_template
from meta_reward_core.tasks.ifeval import checkers
from meta_reward_core.tasks.ifeval.benchmark import (
    IfEval,
    check_responses,
    list_loose_forms,
    read_ifeval_items,
    read_responses,
    score_ifeval,
)
from meta_reward_core.tasks.protocol import BenchmarkRequest

ROWS: list[dict[str, Any]] = [
    {
        "key": 1,
        "prompt": "Describe the sea in at least 5 words, without commas.",
        "instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
        "kwargs": [{"relation": "at least", "num_words": 5, "letter": None}, {}],
    },
    {
        "key": 2,
        "prompt": "Say the word tide twice. Highlight one section.",
        "instruction_id_list": [
            "keywords:frequency",
            "detectable_format:number_highlighted_sections",
        ],
        "kwargs": [
            {"relation": "at least", "keyword": "tide", "frequency": 2},
            {"num_highlights": 1},
        ],
    },
    {
        "key": 3,
        "prompt": "Answer in German.",
        "instruction_id_list": ["language:response_language"],
        "kwargs": [{"language": "de"}],
    },
]
RESPONSES = [
    "The sea is wide and deep",  # both
    "Tide and *tide*, then",  # both
    "Here is my answer:\nDas Meer ist heute sehr ruhig und die Sonne scheint.\n",
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "input_data.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


def values(data: Path, responses: list[str]) -> dict[str, float | None]:
    found = score_ifeval(check_responses(read_ifeval_items(data), responses), model="m")
    return {metric.name: metric.value for metric in found.metrics}


def test_instructions_and_prompts_are_counted_strictly_and_loosely(data: Path) -> None:
    """Strictly the comma of the first one fails: 4 of 5 instructions, 2 of 3 prompts."""
    found = values(data, ["The sea, wide and deep", *RESPONSES[1:]])
    assert found["prompt_strict"] == pytest.approx(2 / 3)
    assert found["instruction_strict"] == pytest.approx(4 / 5)
    assert found["instruction_strict.punctuation"] == 0
    assert found["instruction_strict.keywords"] == 1
    assert found["prompt_loose"] == pytest.approx(2 / 3)


def test_loosely_a_first_line_a_last_line_and_asterisks_are_forgiven(data: Path) -> None:
    loose = ["Sure, here it is:\nThe sea is wide and deep", *RESPONSES[1:]]
    found = values(data, loose)
    assert found["prompt_strict"] == pytest.approx(2 / 3)
    assert found["prompt_loose"] == 1
    assert list_loose_forms("a\n*b*\nc") == [
        *("a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*"),
        *("a\nb\nc", "b\nc", "a\nb", "b"),
    ]


def test_an_empty_response_follows_nothing_in_either_way(data: Path) -> None:
    found = values(data, ["", " \n", ""])
    assert {name: value for name, value in found.items() if value != 0} == {}


def test_only_what_follows_closed_reasoning_is_checked(data: Path) -> None:
    hidden = "<think>commas, commas, commas</think>The sea is wide and deep"
    assert values(data, [hidden, *RESPONSES[1:]])["prompt_strict"] == 1
    unfinished = "<think>The sea is wide and deep"
    assert values(data, [unfinished, *RESPONSES[1:]])["prompt_loose"] == pytest.approx(2 / 3)


def test_intervals_take_a_prompt_as_one_observation(data: Path) -> None:
    """The same prompt thrice with the same response is one answer, not three."""
    items = read_ifeval_items(data)[:1] * 3
    card = score_ifeval(check_responses(items, RESPONSES[:1] * 3), model="m")
    found = card.get_metric("instruction_strict")
    assert (found.value, found.count) == (1.0, 6)
    assert (found.low, found.high) == pytest.approx(compute_wilson_interval(1.0, 1))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no list of checks": ({"instruction_id_list": []}, "must be a list of at least one string"),
    "a check without its object": (
        {"kwargs": []},
        "one object for each entry of instruction_id_list",
    ),
    "values that are no objects": ({"kwargs": [1]}, "must be a list of objects"),
    "an unknown check": ({"instruction_id_list": ["a:b"]}, "unknown check 'a:b'"),
    "a check without its value": ({"kwargs": [{}]}, "would otherwise be random"),
    "an unknown value": ({"kwargs": [{"num_words": 3, "colour": "red"}]}, "values are invalid"),
    "a relation that is none": (
        {"kwargs": [{"num_words": 3, "relation": "about"}]},
        "values are invalid",
    ),
}


@pytest.mark.parametrize("changes, words", WRONG.values(), ids=WRONG)
def test_data_that_would_check_something_else_is_refused_with_its_row(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    row = {
        "key": 1,
        "prompt": "p",
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"num_words": 3, "relation": "at least"}],
    }
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(row | changes)}\n")
    with pytest.raises(EvaluationFileError, match=r"data\.jsonl") as caught:
        read_ifeval_items(path)
    assert words in str(caught.value)


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n{json.dumps(ROWS[0])}\n")
    with pytest.raises(EvaluationFileError, match="the key 1 occurs twice"):
        read_ifeval_items(path)


def test_a_character_that_is_no_letter_is_counted_itself(tmp_path: Path) -> None:
    """The package would count a letter that it draws at random."""
    row = {
        "key": 1,
        "prompt": "Use # at least twice.",
        "instruction_id_list": ["keywords:letter_frequency"],
        "kwargs": [{"letter": "#", "let_frequency": 2, "let_relation": "at least"}],
    }
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(row)}\n")
    letters = "abcdefghijklmnopqrstuvwxyz" * 9
    for _ in range(20):
        assert values(path, [letters])["prompt_strict"] == 0
        assert values(path, ["# one # two"])["prompt_strict"] == 1


def test_responses_are_found_by_their_prompts_in_either_format(data: Path, tmp_path: Path) -> None:
    items = read_ifeval_items(data)
    path = tmp_path / "outputs.json"
    rows = [
        {"instruction": row["prompt"], "output": text}
        for row, text in zip(reversed(ROWS), reversed(RESPONSES), strict=True)
    ]
    path.write_text(json.dumps([*rows, {"instruction": "another prompt", "output": "x"}]))
    assert read_responses(path, items) == RESPONSES


@pytest.mark.parametrize(
    "rows, words",
    [
        ([{"prompt": ROWS[0]["prompt"], "response": "a"}], "2 of 3 prompts have no response"),
        (
            [{"prompt": "p", "response": "a"}, {"prompt": "p", "response": "b"}],
            "has a different response",
        ),
        ([{"prompt": "p", "answer": "a"}], "has no response"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    data: Path, tmp_path: Path, rows: list[dict[str, str]], words: str
) -> None:
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(EvaluationFileError, match=words):
        read_responses(path, read_ifeval_items(data))


def test_a_model_answers_each_prompt_once_and_greedily(data: Path) -> None:
    asked: list[str] = []

    def script(conversation: Conversation, sample: int, seed: int) -> str:
        asked.append(conversation[-1]["content"])
        place = [row["prompt"] for row in ROWS].index(asked[-1])
        return RESPONSES[place]

    engine = ScriptedEngine(script)
    sampling = SamplingParams(0.8, 0.95, 64)
    request = BenchmarkRequest(
        engine=engine,
        model="M1",
        actor=sampling,
        judge=sampling,
        meta_judge=sampling,
        judgments=5,
        score_readout="free",
        templates=PromptTemplates(load_template("judge"), load_template("meta_judge"), "r"),
        max_score=5.0,
        system_prompt=None,
        seed=1,
    )
    items = read_ifeval_items(data)
    results = IfEval().evaluate(request, [*items, *items])
    assert sorted(asked) == sorted(row["prompt"] for row in ROWS)
    card = IfEval().score(results, model="M1")
    assert (card.benchmark, card.get_metric("prompt_strict").count) == ("ifeval", 6)


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkers, "_PACKAGES", ("json", "no_such_package_here"))
    assert checkers.list_missing_packages() == ["no_such_package_here"]
    obstacle = IfEval().find_obstacle()
    assert obstacle is not None
    assert "no_such_package_here" in obstacle
    assert "meta-reward[ifeval]" in obstacle


def test_the_checks_run_without_a_network_and_without_pickles(data: Path, tmp_path: Path) -> None:
    """Sentences, words and a language, under a hook that refuses connections and pickles."""
    kinds = [
        ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2}),
        ("change_case:capital_word_frequency",
         {"capital_relation": "less than", "capital_frequency": 3}),
        ("language:response_language", {"language": "en"}),
    ]  # fmt: skip
    rows = [
        {"key": n, "prompt": f"p{n}", "instruction_id_list": [kind], "kwargs": [given]}
        for n, (kind, given) in enumerate(kinds)
    ]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    program = (
        "import sys\n"
        "def refuse(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'pickle.find_class'):\n"
        "        raise RuntimeError(event)\n"
        "sys.addaudithook(refuse)\n"
        "from pathlib import Path\n"
        "from meta_reward_core.tasks.ifeval.benchmark import *\n"
        f"items = read_ifeval_items(Path({str(data)!r}))\n"
        "text = 'Dr. Smith saw the sea. It was calm in the morning.'\n"
        "found = check_responses(items, [text] * 3)\n"
        "print(all(one.value == 1 for one in found), 'if_verifiable.ifbench' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )
    assert found.stdout.strip() == "True False", found.stderr
