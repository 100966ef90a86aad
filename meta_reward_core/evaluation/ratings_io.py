"""Ratings of responses by a judge or a reference, from files.

A file has one of these forms:

- Scores, one row per judgment: `prompt_id, response_id, score`, as in an experiment's table
  `judgments`; or `rank` instead of `score`, where 1 is the best.
- Verdicts on pairs, one row per presentation order: `prompt_id, first_id, second_id, verdict` with
  the verdict A, B or tie, as in the table `battles`.
- The exported answers of a finished audit: scores of responses, or which of two judgments is
  better.

If judgments have a `text`, it is compared with their score.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal, cast

from meta_reward_core.data.tabular_io import NumberedRow, read_rows, write_json_lines
from meta_reward_core.errors import EvaluationFileError
from meta_reward_core.evaluation.audit_export_io import read_audit_rows
from meta_reward_core.evaluation.rationale_consistency import (
    parse_stated_points,
    parse_stated_preference,
)
from meta_reward_core.method.parsing import remove_verdict_lines
from meta_reward_core.storage.records import Verdict

EPSILON: Final = 1e-9
"""Mean scores that differ by less than this count as a tie."""

ResponseKey = tuple[str, str]
"""(prompt_id, response_id)"""

PairKey = tuple[str, str, str]
"""(prompt_id, one response_id, another), the two sorted."""

ShownPair = tuple[str, str, str]
"""(prompt_id, id shown first, id shown second)"""

PairPreference = Literal[-1, 0, 1]
"""1: the first id of a pair is better; -1: the second; 0: a tie, or two verdicts that differ."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings of a judge or a reference. Either `scores` or `verdicts` is filled.

    Attributes:
        name: name of the file.
        scores: scores of each response, one per judgment; higher is better.
        verdicts: verdicts on each presentation order, one per judgment.
        missing: number of judgments without a score, or of unreadable verdicts.
        has_scale: whether the scores are on a scale, as opposed to ranks.
        reasons: for each judgment with a text, whether its total, or its verdict, agrees with its
            reasons; None if the reasons contain nothing readable.
    """

    name: str
    scores: Mapping[ResponseKey, Sequence[float]]
    verdicts: Mapping[ShownPair, Sequence[Verdict]]
    missing: int
    has_scale: bool
    reasons: Sequence[bool | None] = ()


def read_ratings(path: str | Path) -> Ratings:
    """Read scores, ranks or verdicts.

    Raises:
        EvaluationFileError: a row has none of the known forms, forms are mixed, or no row is
            usable.
    """
    return parse_ratings(Path(path).name, read_rows(path))


def parse_ratings(name: str, rows: Sequence[NumberedRow]) -> Ratings:
    """Parse ratings from rows of one or several files.

    Args:
        name: name of the ratings, also used in messages.
        rows: rows that all have the same form.

    Raises:
        EvaluationFileError: see `read_ratings`.
    """
    rows = read_audit_rows(rows)
    forms = {_detect_form(row) for row in rows}
    if len(forms) > 1:
        raise EvaluationFileError(f"{name}: mixes {' and '.join(sorted(forms))}; split the file.")
    form = forms.pop()
    found = _parse_verdicts(name, rows) if form == "verdict" else _parse_scores(name, rows, form)
    if not found.scores and not found.verdicts:
        raise EvaluationFileError(f"{name}: no row has a readable {form}.")
    return found


def _detect_form(row: NumberedRow) -> str:
    forms = [column for column in ("verdict", "score", "rank") if column in row.values]
    if not forms:
        row.refuse("has neither score, rank nor verdict; add one of these columns.")
    return forms[0]


def _parse_scores(file: str, rows: Sequence[NumberedRow], form: str) -> Ratings:
    sign = -1.0 if form == "rank" else 1.0
    found: defaultdict[ResponseKey, list[float]] = defaultdict(list)
    seen: set[tuple[ResponseKey, str]] = set()
    missing = 0
    for row in rows:
        key = (row.read_name("prompt_id"), row.read_name("response_id"))
        name = row.values.get("judgment_id")
        if name is not None and (key, name) in seen:
            row.refuse(f"judgment {name} occurs twice; keep one row.")
        seen.add((key, str(name)))
        value = row.read_number(form)
        if value is None:
            missing += 1
        else:
            found[key].append(sign * value)
    return Ratings(
        file, dict(found), {}, missing, has_scale=form == "score", reasons=_check_rationales(rows)
    )


def _check_rationales(rows: Sequence[NumberedRow]) -> tuple[bool | None, ...]:
    """Check whether each score with a text equals the sum of the points in the text."""
    return tuple(
        parse_stated_points(text).agrees
        for row in rows
        if (text := row.values.get("text"))
        and isinstance(text, str)
        and row.read_number("score") is not None
    )


def _is_consistent_with_reasons(row: NumberedRow, verdict: str) -> bool | None:
    """Whether the winner of a verdict is the response that its reasons prefer."""
    text = row.values.get("text")
    stated = parse_stated_preference(remove_verdict_lines(text)) if isinstance(text, str) else None
    return None if stated is None else stated == verdict


def _parse_verdicts(file: str, rows: Sequence[NumberedRow]) -> Ratings:
    found: defaultdict[ShownPair, list[Verdict]] = defaultdict(list)
    reasons: list[bool | None] = []
    missing = 0
    for row in rows:
        verdict = row.read_optional_text("verdict")
        key = (
            row.read_name("prompt_id"),
            _read_shown_id(row, "first"),
            _read_shown_id(row, "second"),
        )
        if key[1] == key[2]:
            row.refuse(f"{key[1]} is compared with itself; remove the row.")
        if verdict not in (None, "A", "B", "tie"):
            row.refuse("the verdict must be A, B or tie, or null if there is none.")
        if verdict is None:
            missing += 1
        else:
            found[key].append(cast(Verdict, verdict))
            if row.values.get("text"):
                reasons.append(_is_consistent_with_reasons(row, verdict))
    return Ratings(file, {}, dict(found), missing, has_scale=False, reasons=tuple(reasons))


def _read_shown_id(row: NumberedRow, side: str) -> str:
    """Read the id of the displayed item: a response, or a judgment in the table `battles`."""
    battle = f"{side}_judgment_id"
    return row.read_name(battle if battle in row.values else f"{side}_id")


def write_verdicts(path: Path, verdicts: Iterable[tuple[ShownPair, Verdict | None]]) -> None:
    """Write verdicts in the format of `read_ratings`."""
    write_json_lines(path, (_to_verdict_row(shown, verdict) for shown, verdict in verdicts))


def _to_verdict_row(shown: ShownPair, verdict: Verdict | None) -> dict[str, Any]:
    prompt, first, second = shown
    return {"prompt_id": prompt, "first_id": first, "second_id": second, "verdict": verdict}


def compute_pair_preferences(opinions: Ratings) -> dict[PairKey, PairPreference]:
    """Compute for each pair of responses which one is preferred: 1, -1, or 0 for a tie.

    Scores: by their means. Verdicts: the common outcome of all verdicts on the pair, in either
    order; 0 if they differ.
    """
    if opinions.verdicts:
        return _compute_verdict_preferences(opinions.verdicts)
    by_prompt: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for (prompt, response), scores in opinions.scores.items():
        by_prompt[prompt][response] = sum(scores) / len(scores)
    return {
        (prompt, one, other): _compute_sign(means[one] - means[other])
        for prompt, means in by_prompt.items()
        for one, other in combinations(sorted(means), 2)
    }


def _compute_verdict_preferences(
    verdicts: Mapping[ShownPair, Sequence[Verdict]],
) -> dict[PairKey, PairPreference]:
    said: defaultdict[PairKey, set[PairPreference]] = defaultdict(set)
    for (prompt, first, second), given in verdicts.items():
        one, other = sorted((first, second))
        for verdict in given:
            better = {"A": first, "B": second}.get(verdict)
            preference: PairPreference = 0 if better is None else (1 if better == one else -1)
            said[prompt, one, other].add(preference)
    return {
        pair: preferences.pop() if len(preferences) == 1 else 0
        for pair, preferences in said.items()
    }


def _compute_sign(difference: float) -> PairPreference:
    if abs(difference) < EPSILON:
        return 0
    return 1 if difference > 0 else -1
