"""Arena-Hard's files: questions, answers with their style, and judgments of two games.

Game 0 shows the baseline as assistant A, game 1 the model.

Source: the public tool `arena-hard-auto`, version 2.0 (`uid`, `messages`, `metadata`) and version
0.1 (`question_id`, `choices`, `conv_metadata`); both are read, version 2.0 is written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.files import (
    NumberedRow,
    is_missing,
    read_rows,
    shown,
    write_json_lines,
)
from meta_reward_core.parsing import read_mark

VERDICTS: Final = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
"""From the strongest for A to the strongest for B."""

_SPELLINGS: Final = {
    "A>>B": "A>>B", "B<<A": "A>>B",
    "A>B": "A>B", "B<A": "A>B",
    "A=B": "A=B", "B=A": "A=B",
    "B>A": "B>A", "A<B": "B>A",
    "B>>A": "B>>A", "A<<B": "B>>A",
}  # fmt: skip

STYLE_ELEMENTS: Final = ("token_len", "header_count", "list_count", "bold_count")

Style = tuple[float, float, float, float]
"""Tokens, headers, list items and bold passages of an answer, in the order of `STYLE_ELEMENTS`."""


@dataclass(frozen=True, slots=True)
class Game:
    """One order of two answers before the judge.

    Attributes:
        verdict: one of `VERDICTS`, or None where the judge gave none that can be read.
        judgment: the judge's text, where the file keeps it.
        prompt: what the judge was shown, where the file keeps it.
    """

    verdict: str | None
    judgment: str | None = None
    prompt: Any = None


@dataclass(frozen=True, slots=True)
class ArenaJudgment:
    """The two games of a model against the baseline on one question."""

    uid: str
    model: str
    baseline: str
    judge: str
    games: tuple[Game, Game]
    category: str | None = None


@dataclass(frozen=True, slots=True)
class ArenaAnswer:
    """A model's answer to a question, with its style where the file counts it."""

    uid: str
    model: str
    text: str
    style: Style | None = None


def read_verdict(judgment: str) -> str | None:
    """The last mark of a judgment, as one of `VERDICTS`; None without any (see `read_mark`).

    Departs from version 0.1, which gives no verdict to a judgment with several different marks.
    """
    return _SPELLINGS.get(read_mark(judgment) or "")


def read_judgments(
    paths: Sequence[str | Path], *, baseline: str | None = None
) -> list[ArenaJudgment]:
    """Read judgments of one or several models by one judge against one baseline.

    Args:
        paths: files of JSON lines.
        baseline: who it is, for files of version 0.1, which do not say.

    Raises:
        EvaluationFileError: a row lacks something, a question comes twice for a model, or there
            are several judges or baselines.
    """
    rows = [row for path in paths for row in read_rows(path)]
    found = [_judgment(row, baseline) for row in rows]
    _require_one(found, "judge", {judgment.judge for judgment in found})
    _require_one(found, "baseline", {judgment.baseline for judgment in found})
    seen: dict[tuple[str, str], NumberedRow] = {}
    for row, judgment in zip(rows, found, strict=True):
        key = (judgment.model, judgment.uid)
        if key in seen:
            row.refuse(
                f"question {judgment.uid} of {judgment.model} was there before "
                f"({seen[key].place}); keep one row of it."
            )
        if judgment.model == judgment.baseline:
            row.refuse(f"{judgment.model} plays against itself; remove these rows.")
        seen[key] = row
    return found


def _judgment(row: NumberedRow, baseline: str | None) -> ArenaJudgment:
    known = row.optional_text("baseline") or baseline
    if known is None:
        row.refuse("has no baseline; name it by --baseline (gpt-4-0314 in version 0.1).")
    games = row.values.get("games")
    if not isinstance(games, list) or len(games) != 2:
        row.refuse("needs two games, the second with the answers in the other order.")
    return ArenaJudgment(
        uid=_uid(row),
        model=row.text("model"),
        baseline=known,
        judge=row.text("judge"),
        games=(_game(row, games[0]), _game(row, games[1])),
        category=row.optional_text("category"),
    )


def _uid(row: NumberedRow) -> str:
    return row.name("uid" if "uid" in row.values else "question_id")


def _game(row: NumberedRow, game: object) -> Game:
    """A game; one that the tool wrote as null, or without a score, has no verdict."""
    if game is None:
        return Game(None)
    if not isinstance(game, dict):
        row.refuse(f"a game must be an object, not {shown(game)}.")
    text = _text_of(game.get("judgment"))
    prompt = game.get("prompt", game.get("user_prompt"))
    if "score" not in game:
        return Game(read_verdict(text or ""), text, prompt)
    score = game["score"]
    if is_missing(score):
        return Game(None, text, prompt)
    if score not in _SPELLINGS:
        row.refuse(f"the score {shown(score)} is none of {', '.join(VERDICTS)}, or null.")
    return Game(_SPELLINGS[score], text, prompt)


def _text_of(value: object) -> str | None:
    """A text, or the `answer` of an object, as version 2.0 writes it."""
    if isinstance(value, dict):
        value = value.get("answer")
    return value if isinstance(value, str) else None


def _require_one(found: Sequence[ArenaJudgment], what: str, names: set[str]) -> None:
    if len(names) > 1:
        raise EvaluationFileError(
            f"the {len(found)} judgments have {len(names)} {what}s ({', '.join(sorted(names))}); "
            f"evaluate one {what} at a time."
        )


def write_judgments(path: Path, judgments: Iterable[ArenaJudgment]) -> None:
    """Write judgments in the form of version 2.0."""
    write_json_lines(path, map(_judgment_row, judgments))


def _judgment_row(judgment: ArenaJudgment) -> dict[str, Any]:
    row: dict[str, Any] = {"uid": judgment.uid}
    if judgment.category is not None:
        row["category"] = judgment.category
    return row | {
        "judge": judgment.judge,
        "model": judgment.model,
        "baseline": judgment.baseline,
        "games": [
            {"score": game.verdict, "judgment": {"answer": game.judgment}, "prompt": game.prompt}
            for game in judgment.games
        ],
    }


def read_answers(paths: Sequence[str | Path]) -> dict[tuple[str, str], ArenaAnswer]:
    """Read answers by (model, uid).

    Raises:
        EvaluationFileError: a row has no answer, or a model answers a question twice.
    """
    found: dict[tuple[str, str], ArenaAnswer] = {}
    for row in (row for path in paths for row in read_rows(path)):
        answer = _answer(row)
        if (answer.model, answer.uid) in found:
            row.refuse(f"{answer.model} answers question {answer.uid} twice; keep one answer.")
        found[answer.model, answer.uid] = answer
    return found


def _answer(row: NumberedRow) -> ArenaAnswer:
    text = _last_text(row.values)
    if text is None:
        row.refuse("has no answer in its last message or first choice; generate it again.")
    return ArenaAnswer(
        uid=_uid(row),
        model=row.text("model" if "model" in row.values else "model_id"),
        text=text,
        style=_style(row),
    )


def _last_text(values: Mapping[str, Any]) -> str | None:
    """The answer of version 2.0 (last message) or 0.1 (first turn of the first choice)."""
    try:
        if "messages" in values:
            return _text_of(values["messages"][-1]["content"])
        return _text_of(values["choices"][0]["turns"][0]["content"])
    except (KeyError, IndexError, TypeError):
        return None


def _style(row: NumberedRow) -> Style | None:
    counts = row.values.get("metadata") or row.values.get("conv_metadata")
    if not isinstance(counts, dict):
        return None
    tokens, headers, items, bold = (_count(row, counts.get(name)) for name in STYLE_ELEMENTS)
    return tokens, headers, items, bold


def _count(row: NumberedRow, value: object) -> float:
    """A number, or the sum of an object of numbers (headers by level, list items by kind)."""
    parts = list(value.values()) if isinstance(value, dict) else [value]
    numbers = [float(part) for part in parts if isinstance(part, int | float)]
    if len(numbers) < len(parts):
        row.refuse(f"metadata must hold the numbers {', '.join(STYLE_ELEMENTS)}.")
    return sum(numbers)


def write_answers(path: Path, answers: Iterable[ArenaAnswer]) -> None:
    """Write answers in the form of version 2.0, without identifiers and times of a run."""
    write_json_lines(path, map(_answer_row, answers))


def _answer_row(answer: ArenaAnswer) -> dict[str, Any]:
    row: dict[str, Any] = {
        "uid": answer.uid,
        "model": answer.model,
        "messages": [{"role": "assistant", "content": {"answer": answer.text}}],
    }
    if answer.style is not None:
        row["metadata"] = dict(zip(STYLE_ELEMENTS, answer.style, strict=True))
    return row


def read_questions(path: str | Path) -> dict[str, str]:
    """The questions' texts by uid, in the order of the file.

    Raises:
        EvaluationFileError: a row has no text, or a uid comes twice.
    """
    found: dict[str, str] = {}
    for row in read_rows(path):
        uid = _uid(row)
        if uid in found:
            row.refuse(f"question {uid} was there before; keep one row of it.")
        found[uid] = row.text("prompt") if "prompt" in row.values else _first_turn(row)
    return found


def _first_turn(row: NumberedRow) -> str:
    turns = row.values.get("turns")
    if not isinstance(turns, list) or not turns or (text := _turn_text(turns[0])) is None:
        row.refuse("has neither a prompt nor turns; add one of them.")
    return text


def _turn_text(turn: object) -> str | None:
    if isinstance(turn, dict):
        turn = turn.get("content")
    return turn if isinstance(turn, str) else None
