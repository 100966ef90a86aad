"""Exported answers of an audit as human ratings.

Exports identify an item, which is a response or two judgments, by `key`. If an item was
adjudicated, the adjudicated decision counts; a repeated item counts once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.data.tabular_io import NumberedRow, is_missing

_COLUMNS: Final = frozenset({"batch", "item", "key", "answer", "points", "instruction"})
_VERDICTS: Final = {"first": "A", "second": "B", "tie": "tie", "neither": "tie"}


def read_audit_rows(rows: Sequence[NumberedRow]) -> list[NumberedRow]:
    """Convert rows of an audit export to scores or verdicts; other rows are unchanged.

    Raises:
        EvaluationFileError: a row has a key or an answer that no audit writes.
    """
    if not rows or not rows[0].values.keys() >= _COLUMNS:
        return list(rows)
    return [
        NumberedRow(row.place, _to_rating_row(row))
        for row in rows
        if not row.read_optional_text("again")
    ]


def _to_rating_row(row: NumberedRow) -> Mapping[str, Any]:
    prompt_id = compute_prompt_id(row.read_text("instruction"))
    names = row.read_text("key").split()
    if len(names) == 2:
        first, second = names
        return {
            "prompt_id": prompt_id,
            "first_id": first,
            "second_id": second,
            "verdict": _read_verdict(row),
        }
    return {"prompt_id": prompt_id, "response_id": row.read_text("key"), "score": _read_score(row)}


def _read_verdict(row: NumberedRow) -> str | None:
    """Return A, B or tie; "neither is acceptable" counts as a tie."""
    answer = row.read_optional_text("adjudicated") or row.read_optional_text("answer")
    if answer is not None and answer not in _VERDICTS:
        row.refuse(f"the answer must be one of {', '.join(_VERDICTS)}.")
    return None if answer is None else _VERDICTS[answer]


def _read_score(row: NumberedRow) -> float | None:
    decided = row.values.get("adjudicated")
    if is_missing(decided) or decided == "":
        return row.read_number("points")
    try:
        return float(str(decided))
    except ValueError:
        row.refuse("adjudicated must be a score.")
