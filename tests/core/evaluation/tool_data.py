"""Files in the public tools' formats, made by arithmetic: the same rows here and in the tools.

`benchmarks/tool_roundtrip.py` takes these rows through arena-hard-auto's and FastChat's own code;
the tests compare with what that code printed.
"""

import random
from collections.abc import Sequence
from typing import Any, Final

from meta_reward_core.evaluation.arena_hard_io import Version

Row = dict[str, Any]

MODELS: Final = ("model-one", "model-two")
BASELINES: Final = {
    "hard_prompt": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
FIRST_BASELINE: Final = "gpt-4-0314"
JUDGE: Final = "judge"

_FIVE: Final = ["A>>B", "A>B", "A=B", "B>A", "B>>A"]
_SCORES: Final[dict[Version, list[Any]]] = {
    "0.1": [*3 * _FIVE, "A", "A>>>B", "", "A<B", "B=A", "B<<A", None, 3],
    "2.0": [*2 * _FIVE, "A<<B", "A<B", "B=A", "B<A", "B<<A", None],
}

ARENA_TEXTS: Final = (
    "So: [[A>>B]]",
    "[[A>B]] at first, but no: [[B>A]].",
    "[[A>B]], and again [[A>B]]",
    "[[B<<A]]",
    "[[A<B]]",
    "[[B=A]]",
    "[[a>b]]",
    "[A>B]",
    "[a=b] for now, then [B>>A]",
    "[[A]]",
    "[[A>B]] and last [[A]]",
    "[[A>>>B]]",
    "[[ A=B ]]",
    "[ A>B ]",
    "**[[B>>A]]**",
    "My final verdict is tie: [[A=B]]",
    "A>B",
    "[[]]",
    "",
)

MT_BENCH_TEXTS: Final = (
    "Rating: [[8]]",
    "Rating: [[2.5]]",
    "Rating: [[7.]]",
    "Rating: [7]",
    "Rating: [6.5]",
    "Rating: [[ 8 ]]",
    "See [1]. Rating: [[9]]",
    "Rating: [[6]], as said: [[6]]",
    "Rating: 8",
    "Rating: [8/10]",
    "[10]",
    "",
)
"""Texts that both read alike."""

STYLED_ANSWERS: Final = (
    "# Title\n\ntext **bold** and __bold__\n\n- one\n- two\n\n1. first\n2. second\n",
    "**__both__** and **a** **b**",
    "before\n```python\n# no header\n- no item\n```\n# Header\n",
    "```\nx = 1\n```# not at the start of a line\n",
    "###### six\n####### seven\n  * indented\n\n\n+ after blank lines\n",
    "say `- x`\n```- x\n```- x\n- x\n",
    "plain",
    "",
)


def arena_judgments(version: Version, *, size: int = 100) -> list[Row]:
    """Judgments of two models in the layout that a version publishes.

    Version 2.0: 60% hard prompts and 40% creative writing, each with its baseline, in one file.
    """
    draw = random.Random(18)
    rows: list[Row] = []
    for number in range(size):
        for model in MODELS:
            first, second = (_pick(draw, _SCORES[version]) for _ in range(2))
            rows.append(
                _first_row(number, model, first, second)
                if version == "0.1"
                else _second_row(number, model, _game(first), _game(second))
            )
    return rows


def _pick(draw: random.Random, among: Sequence[Any]) -> Any:
    return among[int(draw.random() * len(among))]


def _first_row(number: int, model: str, *scores: Any) -> Row:
    games = [{"user_prompt": "?", "judgment": "because", "score": score} for score in scores]
    return {"question_id": _uid(number), "model": model, "judge": JUDGE, "games": games}


def _second_row(number: int, model: str, *games: Any) -> Row:
    if number % 20 == 7:  # an answer of the judge that never came
        games = (None, games[1])
    return {
        "uid": _uid(number),
        "category": _category(number),
        "judge": JUDGE,
        "model": model,
        "baseline": BASELINES[_category(number)],
        "games": list(games),
    }


def _game(score: Any) -> Row:
    return {"score": score, "judgment": {"answer": "because"}, "prompt": []}


def _uid(number: int) -> str:
    return f"question-{number:03d}"


def _category(number: int) -> str:
    return "hard_prompt" if number % 5 < 3 else "creative_writing"


def arena_answers(*, size: int = 100) -> list[Row]:
    """Answers of both models and both baselines with their style, in the form of version 2.0."""
    draw = random.Random(81)
    return [
        {
            "uid": _uid(number),
            "model": model,
            "messages": [{"role": "assistant", "content": {"answer": f"{model} {number}"}}],
            "metadata": {
                "token_len": int(400 * draw.random()) + (0 if model in MODELS else 20),
                "header_count": {"h1": int(3 * draw.random()), "h2": int(4 * draw.random())},
                "list_count": {"ordered": 0, "unordered": int(9 * draw.random())},
                "bold_count": {"**": int(6 * draw.random()), "__": 0},
            },
        }
        for number in range(size)
        for model in (*MODELS, *BASELINES.values())
    ]


def mt_bench_judgments(*, size: int = 80) -> list[Row]:
    """Both turns of two models, in FastChat's form; about one judgment in eight is -1."""
    draw = random.Random(28)
    return [
        {
            "question_id": 81 + number,
            "model": model,
            "judge": ["gpt-4", "single-v1" if turn == 1 else "single-v1-multi-turn"],
            "user_prompt": "?",
            "judgment": "because",
            "score": _pick(draw, [*range(1, 11), 7.5, 8.5, -1, -1]),
            "turn": turn,
            "tstamp": 1.5,
        }
        for number in range(size)
        for turn in (1, 2)
        for model in MODELS
    ]
