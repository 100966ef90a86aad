"""File formats of Arena-Hard: questions, answers with style, and judgments of two games.

Game 0 shows the baseline as assistant A, game 1 the model.

Source: the public tool `arena-hard-auto`, version 2.0 (`uid`, `messages`, `metadata`; commit
196f6b8) and version 0.1 (`question_id`, `choices`, `conv_metadata`; commit 0489bf3); both forms are
read and written. Which mark in a text counts, and which verdict a score stands for, depends on the
version used for scoring: see `find_mark` and `get_verdict_of_score`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from meta_reward_core.data.tabular_io import (
    NumberedRow,
    format_for_message,
    is_missing,
    read_rows,
    write_json_lines,
)
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.method.parsing import read_mark

Version = Literal["0.1", "2.0"]

VERDICTS: Final = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
"""Verdicts, from the strongest for A to the strongest for B."""

DEFAULT_CATEGORIES: Final[Mapping[Version, str]] = {
    "0.1": "arena-hard-v0.1",
    "2.0": "hard_prompt",
}
"""Category of questions without one: the default of the tool's `show_result.py`."""

_SCORES: Final[Mapping[Version, Mapping[str, str]]] = {
    "0.1": {verdict: verdict for verdict in VERDICTS},
    "2.0": {
        "A>>B": "A>>B", "B<<A": "A>>B",
        "A>B": "A>B", "B<A": "A>B",
        "A=B": "A=B", "B=A": "A=B",
        "B>A": "B>A", "A<B": "B>A",
        "B>>A": "B>>A", "A<<B": "B>>A",
    },
}  # fmt: skip

_DOUBLE_MARK = re.compile(r"\[\[([AB<>=]+)\]\]")
_SINGLE_MARK = re.compile(r"\[([AB<>=]+)\]")

STYLE_ELEMENTS: Final = ("token_len", "header_count", "list_count", "bold_count")

Style = tuple[int, int, int, int]
"""Tokens, headers, list items and bold passages of an answer, in the order of `STYLE_ELEMENTS`."""


@dataclass(frozen=True, slots=True)
class Game:
    """One game: two answers shown to the judge in one order.

    Attributes:
        verdict: one of `VERDICTS`; None if the version finds no verdict.
        judgment: the judge's text, if the file contains it.
        prompt: the judge's prompt, if the file contains it.
        `unread`: why there is no verdict.
    """

    verdict: str | None
    judgment: str | None = None
    prompt: Any = None
    unread: str | None = None


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
class ArenaQuestion:
    """A question's text, and its category if the file contains one."""

    text: str
    category: str | None = None


@dataclass(frozen=True, slots=True)
class ArenaAnswer:
    """A model's answer to a question, with its style if the file has it."""

    uid: str
    model: str
    text: str
    style: Style | None = None


def find_mark(judgment: str, *, version: Version) -> str | None:
    """Find the score that a version's `gen_judgment.py` writes for a text; None if it has no mark.

    Version 0.1: the mark in double brackets, in capitals; None if two marks differ. Version 2.0:
    the last mark in double brackets, otherwise the last mark in single brackets, ignoring case. The
    result may not be a verdict, such as `A` or `A>>>B`.

    Source: `get_score` and `regex_pattern(s)` of both versions.
    """
    if version == "0.1":
        marks = set(_DOUBLE_MARK.findall(judgment))
        return marks.pop() if len(marks) == 1 else None
    text = judgment.upper()
    found = _DOUBLE_MARK.findall(text) or _SINGLE_MARK.findall(text)
    return found[-1] if found else None


def get_verdict_of_score(score: object, *, version: Version) -> str | None:
    """Return the verdict, one of `VERDICTS`, that a version's `show_result.py` uses.

    Version 0.1 accepts only the five verdicts and excludes games with any other score, including
    `A<B` and `B=A`; version 2.0 also accepts their mirror images.
    """
    return _SCORES[version].get(score) if isinstance(score, str) else None


def parse_arena_verdict(judgment: str, *, version: Version) -> str | None:
    """Parse the verdict, one of `VERDICTS`, from a judge's text by a version's rules.

    Also None if the tool would use a mark that is not a verdict (`read_mark`): in an open reasoning
    block, or one of two alternatives ("[[A>>B]] or [[A=B]]").
    """
    verdict = get_verdict_of_score(find_mark(judgment, version=version), version=version)
    stated = get_verdict_of_score(read_mark(judgment), version="2.0")
    return verdict if verdict == stated else None


def read_judgments(
    paths: Sequence[str | Path],
    *,
    version: Version,
    baseline: str | None = None,
    categories: Sequence[str] = (),
) -> list[ArenaJudgment]:
    """Read judgments of one or several models by one judge, one baseline per category.

    A game whose score the version cannot read has no verdict; `unread` is the reason.

    Args:
        paths: files of JSON Lines, in the form of either version.
        version: version whose rules apply.
        baseline: name of the baseline, for files of version 0.1, which do not contain it.
        categories: categories to read; empty: all of them.

    Raises:
        EvaluationFileError: a row is incomplete; a question occurs twice for a model; a category
            has no row (in version 0.1, rows have no category); or there are several judges, or
            several baselines in one category.
    """
    every_row = [row for path in paths for row in read_rows(path)]
    rows = _choose_categories(every_row, categories)
    found = [_parse_judgment(row, version, baseline) for row in rows]
    judges = {judgment.judge for judgment in found}
    _require_one(found, "judge", judges, advice="evaluate one judge at a time.")
    for group in group_by_category(found, version=version).values():
        _require_one(
            group,
            "baseline",
            {judgment.baseline for judgment in group},
            advice="evaluate one baseline at a time; version 2.0 allows one per category.",
        )
    seen: dict[tuple[str, str], NumberedRow] = {}
    for row, judgment in zip(rows, found, strict=True):
        key = (judgment.model, judgment.uid)
        if key in seen:
            row.refuse(
                f"question {judgment.uid} of {judgment.model} occurs twice (first "
                f"at {seen[key].place}); keep one row."
            )
        if judgment.model == judgment.baseline:
            row.refuse(f"{judgment.model} is compared with itself; remove these rows.")
        seen[key] = row
    return found


def _choose_categories(
    rows: Sequence[NumberedRow], categories: Sequence[str]
) -> Sequence[NumberedRow]:
    known = {str(row.values.get("category")) for row in rows}
    if unknown := set(categories) - known:
        raise EvaluationFileError(
            f"no judgment has the category {min(unknown)}; choose one of "
            f"{', '.join(sorted(known))}."
        )
    return [row for row in rows if not categories or row.values.get("category") in categories]


def group_by_category(
    judgments: Iterable[ArenaJudgment], *, version: Version
) -> dict[str | None, list[ArenaJudgment]]:
    """Group judgments by category, sorted; version 0.1 is one group, None."""
    found: defaultdict[str | None, list[ArenaJudgment]] = defaultdict(list)
    for judgment in judgments:
        found[judgment.category if version == "2.0" else None].append(judgment)
    return {category: found[category] for category in sorted(found, key=lambda name: name or "")}


def _parse_judgment(row: NumberedRow, version: Version, baseline: str | None) -> ArenaJudgment:
    known = row.read_optional_text("baseline") or baseline
    if known is None:
        row.refuse("has no baseline; specify it with --baseline (gpt-4-0314 in version 0.1).")
    games = row.values.get("games")
    if not isinstance(games, list) or len(games) != 2:
        row.refuse("must contain two games, the second with the answers in reverse order.")
    return ArenaJudgment(
        uid=_read_uid(row),
        model=row.read_text("model"),
        baseline=known,
        judge=row.read_text("judge"),
        games=(_parse_game(row, games[0], version), _parse_game(row, games[1], version)),
        category=row.read_optional_text("category"),
    )


def _read_uid(row: NumberedRow) -> str:
    return row.read_name("uid" if "uid" in row.values else "question_id")


def _parse_game(row: NumberedRow, game: object, version: Version) -> Game:
    """Parse a game by its score, or by its text if the row has no score."""
    if game is None:
        return Game(None, unread="the game is null")
    if not isinstance(game, dict):
        row.refuse(f"a game must be an object, not {format_for_message(game)}.")
    text = _extract_text(game.get("judgment"))
    prompt = game.get("prompt", game.get("user_prompt"))
    if "score" not in game:
        return make_game(text or "", prompt, version=version)
    score = game["score"]
    if is_missing(score):
        return Game(None, text, prompt, unread="the score is null")
    verdict = get_verdict_of_score(score, version=version)
    unread = (
        None
        if verdict
        else f"the score {format_for_message(score)} is not valid in version {version}"
    )
    return Game(verdict, text, prompt, unread)


def make_game(text: str, prompt: Any, *, version: Version) -> Game:
    """Build a game from a judge's text."""
    verdict = parse_arena_verdict(text, version=version)
    unread = None if verdict else f"the text contains no verdict in the format of version {version}"
    return Game(verdict, text, prompt, unread)


def _extract_text(value: object) -> str | None:
    """Return a text, or the `answer` of an object, as in version 2.0."""
    if isinstance(value, dict):
        value = value.get("answer")
    return value if isinstance(value, str) else None


def _require_one(
    found: Sequence[ArenaJudgment], what: str, names: set[str], *, advice: str
) -> None:
    if len(names) > 1:
        raise EvaluationFileError(
            f"the {len(found)} judgments have {len(names)} {what}s ({', '.join(sorted(names))}); "
            f"{advice}"
        )


def write_judgments(path: Path, judgments: Iterable[ArenaJudgment], *, version: Version) -> None:
    """Write judgments in the format of a version's `show_result.py`.

    Version 2.0 requires a category; version 0.1 ignores baseline and category.
    """
    write_json_lines(path, (_to_judgment_row(judgment, version) for judgment in judgments))


def _to_judgment_row(judgment: ArenaJudgment, version: Version) -> dict[str, Any]:
    return {
        "question_id" if version == "0.1" else "uid": judgment.uid,
        "category": judgment.category or DEFAULT_CATEGORIES[version],
        "judge": judgment.judge,
        "model": judgment.model,
        "baseline": judgment.baseline,
        "games": [_to_game_row(game, version) for game in judgment.games],
    }


def _to_game_row(game: Game, version: Version) -> dict[str, Any]:
    if version == "0.1":
        return {"user_prompt": game.prompt, "judgment": game.judgment, "score": game.verdict}
    return {"score": game.verdict, "judgment": {"answer": game.judgment}, "prompt": game.prompt}


def read_answers(paths: Sequence[str | Path]) -> dict[tuple[str, str], ArenaAnswer]:
    """Read answers by (model, uid).

    Raises:
        EvaluationFileError: a row has no answer, or a model answers a question twice.
    """
    found: dict[tuple[str, str], ArenaAnswer] = {}
    for row in (row for path in paths for row in read_rows(path)):
        answer = _parse_answer(row)
        if (answer.model, answer.uid) in found:
            row.refuse(f"{answer.model} answers question {answer.uid} twice; keep one answer.")
        found[answer.model, answer.uid] = answer
    return found


def _parse_answer(row: NumberedRow) -> ArenaAnswer:
    text = _extract_last_text(row.values)
    if text is None:
        row.refuse("has no answer in its last message or first choice; generate it again.")
    return ArenaAnswer(
        uid=_read_uid(row),
        model=row.read_text("model" if "model" in row.values else "model_id"),
        text=text,
        style=_read_style(row),
    )


def _extract_last_text(values: Mapping[str, Any]) -> str | None:
    """Return the answer of version 2.0 (last message) or 0.1 (first turn of first choice)."""
    try:
        if "messages" in values:
            return _extract_text(values["messages"][-1]["content"])
        return _extract_text(values["choices"][0]["turns"][0]["content"])
    except (KeyError, IndexError, TypeError):
        return None


def _read_style(row: NumberedRow) -> Style | None:
    counts = row.values.get("metadata") or row.values.get("conv_metadata")
    if not isinstance(counts, dict):
        return None
    tokens, headers, items, bold = (_read_count(row, counts.get(name)) for name in STYLE_ELEMENTS)
    return tokens, headers, items, bold


def _read_count(row: NumberedRow, value: object) -> int:
    """Read a number, or the sum of an object of numbers (headers by level, list items by kind)."""
    parts = list(value.values()) if isinstance(value, dict) else [value]
    numbers = [part for part in parts if isinstance(part, int | float) and part == part // 1]
    if len(numbers) < len(parts):
        row.refuse(f"metadata must contain the integers {', '.join(STYLE_ELEMENTS)}.")
    return int(sum(numbers))


def write_answers(path: Path, answers: Iterable[ArenaAnswer], *, version: Version) -> None:
    """Write answers in a version's format, without identifiers and times of a run."""
    write_json_lines(path, (_to_answer_row(answer, version) for answer in answers))


def _to_answer_row(answer: ArenaAnswer, version: Version) -> dict[str, Any]:
    row: dict[str, Any]
    if version == "0.1":
        choice = {"index": 0, "turns": [{"content": answer.text}]}
        row = {"question_id": answer.uid, "model_id": answer.model, "choices": [choice]}
    else:
        message = {"role": "assistant", "content": {"answer": answer.text}}
        row = {"uid": answer.uid, "model": answer.model, "messages": [message]}
    if answer.style is not None:
        name = "conv_metadata" if version == "0.1" else "metadata"
        row[name] = dict(zip(STYLE_ELEMENTS, answer.style, strict=True))
    return row


def read_questions(path: str | Path) -> dict[str, ArenaQuestion]:
    """Read the questions by uid, in file order.

    Raises:
        EvaluationFileError: a row has no text, or a uid occurs twice.
    """
    found: dict[str, ArenaQuestion] = {}
    for row in read_rows(path):
        uid = _read_uid(row)
        if uid in found:
            row.refuse(f"question {uid} occurs twice; keep one row.")
        text = row.read_text("prompt") if "prompt" in row.values else _read_first_turn(row)
        found[uid] = ArenaQuestion(text, row.read_optional_text("category"))
    return found


def _read_first_turn(row: NumberedRow) -> str:
    turns = row.values.get("turns")
    if not isinstance(turns, list) or not turns or (text := _extract_turn_text(turns[0])) is None:
        row.refuse("has neither a prompt nor turns; add one of them.")
    return text


def _extract_turn_text(turn: object) -> str | None:
    if isinstance(turn, dict):
        turn = turn.get("content")
    return turn if isinstance(turn, str) else None
