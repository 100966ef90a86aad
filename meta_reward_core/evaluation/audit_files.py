"""Answers of a finished audit, as its pages export them, read as opinions of people.

Exports name an item by `key`: a response, or two judgments. Where an item was adjudicated, that
is the answer that counts; an item that was shown again, to see how steady its auditor is, counts
once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from meta_reward_core.evaluation.files import NumberedRow, is_missing
from meta_reward_core.prompt_files import prompt_id_of

_COLUMNS: Final = frozenset({"batch", "item", "key", "answer", "points", "instruction"})
_VERDICTS: Final = {"first": "A", "second": "B", "tie": "tie", "neither": "tie"}


def read_audit_rows(rows: Sequence[NumberedRow]) -> list[NumberedRow]:
    """Rows of an audit's export as scores or verdicts; rows of another form as they are.

    Raises:
        EvaluationFileError: a row's key or answer is none that an audit writes.
    """
    if not rows or not rows[0].values.keys() >= _COLUMNS:
        return list(rows)
    return [NumberedRow(row.place, _opinion(row)) for row in rows if not row.optional_text("again")]


def _opinion(row: NumberedRow) -> Mapping[str, Any]:
    prompt_id = prompt_id_of(row.text("instruction"))
    names = row.text("key").split()
    if len(names) == 2:
        first, second = names
        return {
            "prompt_id": prompt_id,
            "first_id": first,
            "second_id": second,
            "verdict": _verdict(row),
        }
    return {"prompt_id": prompt_id, "response_id": row.text("key"), "score": _points(row)}


def _verdict(row: NumberedRow) -> str | None:
    """A, B or tie; "neither is acceptable" does not say which is better, so it is a tie."""
    answer = row.optional_text("adjudicated") or row.optional_text("answer")
    if answer is not None and answer not in _VERDICTS:
        row.refuse(f"the answer must be one of {', '.join(_VERDICTS)}.")
    return None if answer is None else _VERDICTS[answer]


def _points(row: NumberedRow) -> float | None:
    decided = row.values.get("adjudicated")
    if is_missing(decided) or decided == "":
        return row.number("points")
    try:
        return float(str(decided))
    except ValueError:
        row.refuse("adjudicated must be a number of points.")
