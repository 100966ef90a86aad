"""MT-Bench style: a judge grades each of two turns from 1 to 10; the score is the mean.

Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv
2306.05685; the public tool FastChat (`llm_judge`) for files and means.
Departs from FastChat: a judgment without a readable score (-1 in FastChat) is reported as unscored,
and so is a score outside 1 to 10, which FastChat averages; of several `[[n]]` in a text, the last
counts and not the first, which may be a quotation; if several `[n]` differ, none counts.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meta_reward_core.data.tabular_io import (
    NumberedRow,
    format_for_message,
    is_missing,
    read_rows,
    write_json_lines,
)
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.confidence_intervals import (
    Interval,
    compute_graded_mean_interval,
    enclose_intervals,
)
from meta_reward_core.evaluation.judge_hacking import ComparedResponse, find_judge_hacking
from meta_reward_core.evaluation.scorecard import (
    DataIssue,
    Metric,
    Scorecard,
    count_reasons,
    make_issue_if_any,
)

MIN_SCORE: Final = 1.0
MAX_SCORE: Final = 10.0
FEW_QUESTIONS: Final = 40

_TEMPLATES: Final = ("single-v1", "single-v1-multi-turn")
_FAILED_SCORE: Final = -1.0  # FastChat's value for a judgment without a score
_DOUBLE_MARK = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_SINGLE_MARK = re.compile(r"\[(\d+\.?\d*)\]")


@dataclass(frozen=True, slots=True)
class TurnJudgment:
    """Grade for one turn of a model's answer.

    Attributes:
        turn: 1 or 2.
        score: the grade in [1, 10]; None if the judge gave no readable grade.
        judgment: the judge's text, if the file contains it.
        `unread`: why there is no score.
    """

    question_id: str
    model: str
    judge: str
    turn: int
    score: float | None
    judgment: str | None = None
    unread: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question of two turns, its category, and reference answers if it has some."""

    question_id: str
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()


def parse_rating(judgment: str) -> float | None:
    """Parse the last `[[8]]`, else the only `[8]`, if it is in [1, 10].

    Single brackets can also be footnotes and list items: if two of them differ, neither counts as
    the score.

    Source: `one_score_pattern` and `one_score_pattern_backup` of FastChat's `llm_judge/common.py`,
    where the first of several marks counts.
    """
    marks = [float(mark) for mark in _DOUBLE_MARK.findall(judgment)[-1:]]
    marks = marks or sorted({float(mark) for mark in _SINGLE_MARK.findall(judgment)})
    return marks[0] if len(marks) == 1 and MIN_SCORE <= marks[0] <= MAX_SCORE else None


def read_turn_judgments(paths: Sequence[str | Path]) -> list[TurnJudgment]:
    """Read single-answer judgments of one judge.

    Raises:
        EvaluationFileError: a row is incomplete, a turn was judged twice, or there are several
            judges.
    """
    rows = [row for path in paths for row in read_rows(path)]
    found = [_parse_judgment(row) for row in rows]
    seen: dict[tuple[str, str, int], NumberedRow] = {}
    for row, judgment in zip(rows, found, strict=True):
        key = (judgment.model, judgment.question_id, judgment.turn)
        if key in seen:
            row.refuse(
                f"turn {judgment.turn} of question {judgment.question_id} by {judgment.model} "
                f"occurs twice (first at {seen[key].place}); keep one judgment."
            )
        seen[key] = row
    judges = sorted({judgment.judge for judgment in found})
    if len(judges) > 1:
        raise EvaluationFileError(
            f"the judgments are by {len(judges)} judges ({', '.join(judges)}); evaluate one judge "
            "at a time."
        )
    return found


def _parse_judgment(row: NumberedRow) -> TurnJudgment:
    turn = row.read_number("turn")
    if turn not in (1, 2):
        row.refuse("the turn must be 1 or 2.")
    text = row.read_optional_text("judgment")
    score, unread = _read_score(row, text)
    return TurnJudgment(
        question_id=row.read_name("question_id"),
        model=row.read_text("model"),
        judge=_read_judge(row),
        turn=int(turn),
        score=score,
        judgment=text,
        unread=unread,
    )


def _read_judge(row: NumberedRow) -> str:
    """Read a name; FastChat writes [name, template], and the template depends on the category."""
    judge = row.values.get("judge")
    if isinstance(judge, list) and judge and isinstance(judge[0], str):
        return judge[0]
    return row.read_text("judge")


def _read_score(row: NumberedRow, text: str | None) -> tuple[float | None, str | None]:
    """Read the score, or None and the reason; from the text if the row has no score."""
    if "score" not in row.values:
        return score_of_text(text or "")
    value = row.values["score"]
    if is_missing(value):
        return None, "the score is null"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, f"the score {format_for_message(value)} is not a number"
    if value == _FAILED_SCORE:
        return None, "the score is -1"
    if not MIN_SCORE <= value <= MAX_SCORE:
        return None, f"the score {value:g} is outside 1 to 10"
    return float(value), None


def score_of_text(text: str) -> tuple[float | None, str | None]:
    """Parse the score from a judge's text, or None and the reason."""
    score = parse_rating(text)
    return score, "no score from 1 to 10 in the text" if score is None else None


def write_turn_judgments(path: Path, judgments: Iterable[TurnJudgment]) -> None:
    """Write judgments in FastChat's format, where a missing score is -1.

    FastChat's browser shows one judgment per question and template, so the two turns use different
    template names.
    """
    write_json_lines(
        path,
        (
            {
                "question_id": _to_number(judgment.question_id),
                "model": judgment.model,
                "judge": [judgment.judge, _TEMPLATES[judgment.turn > 1]],
                "judgment": judgment.judgment,
                "score": _FAILED_SCORE if judgment.score is None else judgment.score,
                "turn": judgment.turn,
            }
            for judgment in judgments
        ),
    )


def _to_number(name: str) -> int | str:
    return int(name) if name.isdecimal() else name


def read_questions(path: str | Path) -> dict[str, Question]:
    """Read the questions by id.

    Raises:
        EvaluationFileError: a row has no turns or category, or an id occurs twice.
    """
    found: dict[str, Question] = {}
    for row in read_rows(path):
        name, turns = row.read_name("question_id"), row.values.get("turns")
        if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            row.refuse("turns must be a list of strings.")
        if name in found:
            row.refuse(f"question {name} occurs twice; keep one row.")
        found[name] = Question(name, row.read_text("category"), tuple(turns), _read_reference(row))
    return found


def _read_reference(row: NumberedRow) -> tuple[str, ...]:
    """Read reference answers by turn; empty if the row has none."""
    texts = row.values.get("reference")
    if is_missing(texts):
        return ()
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        row.refuse("reference must be a list of strings, one for each turn.")
    return tuple(texts)


def write_answers(path: Path, model: str, answers: Mapping[str, Sequence[str]]) -> None:
    """Write one model's turns by question id in FastChat's format."""
    write_json_lines(
        path,
        (
            {
                "question_id": _to_number(name),
                "answer_id": f"{model}-{name}",
                "model_id": model,
                "choices": [{"index": 0, "turns": list(turns)}],
            }
            for name, turns in answers.items()
        ),
    )


def read_answers(paths: Sequence[str | Path]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Read the turns of the first choice by (model, question id).

    Raises:
        EvaluationFileError: a row has no turns, or a model answers a question twice.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in (row for path in paths for row in read_rows(path)):
        key = (row.read_text("model_id"), row.read_name("question_id"))
        if key in found:
            row.refuse(f"{key[0]} answers question {key[1]} twice; keep one answer.")
        found[key] = _read_turns(row)
    return found


def _read_turns(row: NumberedRow) -> tuple[str, ...]:
    choices = row.values.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    turns = choice.get("turns") if isinstance(choice, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        row.refuse("has no choices with a list of turns; generate the answer again.")
    return tuple(turns)


def score_mt_bench(
    judgments: Sequence[TurnJudgment],
    *,
    questions: Mapping[str, Question] | None = None,
    answers: Mapping[tuple[str, str], tuple[str, ...]] | None = None,
) -> list[Scorecard]:
    """Build a scorecard per model, best first: mean of all turns, of turn 1, of turn 2.

    Args:
        judgments: judgments by one judge.
        questions: questions by id; if given, each category has a metric, and questions that were
            not judged are reported.
        answers: turns by (model, question id), for the detection of gaming.
    """
    by_model = defaultdict(list)
    for judgment in judgments:
        by_model[judgment.model].append(judgment)
    cards = [_make_scorecard(own, questions or {}, answers or {}) for own in by_model.values()]
    return sorted(cards, key=lambda card: -(card.get_metric("all").value or 0.0))


def _make_scorecard(
    own: Sequence[TurnJudgment],
    questions: Mapping[str, Question],
    answers: Mapping[tuple[str, str], tuple[str, ...]],
) -> Scorecard:
    groups: dict[str, list[TurnJudgment]] = {
        "all": list(own),
        "turn_1": [j for j in own if j.turn == 1],
        "turn_2": [j for j in own if j.turn == 2],
    }
    for judgment in own:
        if (question := questions.get(judgment.question_id)) is not None:
            groups.setdefault(f"category_{question.category}", []).append(judgment)
    metrics = [_make_metric(name, group) for name, group in groups.items()]
    return Scorecard(
        benchmark="mt_bench",
        model=own[0].model,
        baseline=None,
        judge=own[0].judge,
        metrics=tuple(metrics),
        issues=tuple(_find_issues(own, questions, answers)),
        columns={"model": own[0].model} | {metric.name: metric.value for metric in metrics[:3]},
    )


def _make_metric(name: str, group: Sequence[TurnJudgment]) -> Metric:
    """Compute the mean grade of a group; the interval treats the turns of a question as one."""
    scores_by_question = defaultdict(list)
    for judgment in group:
        if judgment.score is not None:
            scores_by_question[judgment.question_id].append(judgment.score)
    scores = [score for one in scores_by_question.values() for score in one]
    if not scores:
        return Metric(name, None, 0, absent="no judgment has a score")
    mean = math.fsum(scores) / len(scores)
    of_questions = compute_graded_mean_interval(
        [math.fsum(one) / len(one) for one in scores_by_question.values()],
        lowest=MIN_SCORE,
        highest=MAX_SCORE,
        missing=len({judgment.question_id for judgment in group} - scores_by_question.keys()),
    )
    ends = enclose_intervals(of_questions, Interval(mean, mean))
    return Metric(name, mean, len(scores), ends.low, ends.high)


def _find_issues(
    own: Sequence[TurnJudgment],
    questions: Mapping[str, Question],
    answers: Mapping[tuple[str, str], tuple[str, ...]],
) -> list[DataIssue]:
    unread = [j.unread for j in own if j.score is None]
    judged = {(j.question_id, j.turn) for j in own}
    names = {j.question_id for j in own}
    expected = {
        (name, turn)
        for name in questions or names
        for turn in range(1, len(questions[name].turns) + 1 if questions else 3)
    }
    given = [
        ComparedResponse(_get_turn(questions, name, turn), text)
        for name in sorted(names)
        for turn, text in enumerate(answers.get((own[0].model, name), ()))
    ]
    return [
        *make_issue_if_any(
            unread,
            "judgments_without_points",
            f"Judgments without a score from 1 to 10: {{rows}}{count_reasons(unread)}.",
            "Means exclude them, and the intervals allow for any score. FastChat excludes only -1: "
            "its means include other scores outside 1 to 10. Judge them again.",
        ),
        *make_issue_if_any(
            expected - judged,
            "turns_not_judged",
            "Turns that were not judged: {rows}.",
            "The mean is over an incomplete set of turns. Judge these turns, too.",
        ),
        *make_issue_if_any(
            names if len(names) < FEW_QUESTIONS else [],
            "few_questions",
            "Small sample: {rows}.",
            "Rely on the interval, not the score.",
        ),
        *find_judge_hacking(given),
    ]


def _get_turn(questions: Mapping[str, Question], name: str, turn: int) -> str:
    turns = questions[name].turns if name in questions else ()
    return turns[turn] if turn < len(turns) else ""
