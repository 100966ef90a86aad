"""Formats of imported answers: our export, MLflow, Label Studio and Argilla.

Files come from other users and tools, so every value is checked against a schema. A string instead
of an answer is the reason why it is skipped.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from meta_reward_core.data.csv_safety import is_plain_number
from meta_reward_core.system.untrusted_input import check_text
from webapp.audit.annotation_queue import TAGS

T = TypeVar("T")
_MAX_NAME: Final = 150
_MAX_COMMENT: Final = 4000
_MAX_NUMBER: Final = 1e9


# Values.


def _read_text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("is not text")
    check_text(value)
    return value


def _read_comment(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    comment = " ".join(map(_read_text, parts))
    if len(comment) > _MAX_COMMENT:
        raise ValueError(f"is longer than {_MAX_COMMENT} characters")
    return comment


def _read_name(value: Any) -> str | None:
    name = _read_text(value)
    if len(name) > _MAX_NAME:
        raise ValueError(f"is longer than {_MAX_NAME} characters")
    if not name.isprintable():
        raise ValueError("contains unprintable characters")
    return name or None


def _read_account(value: Any) -> str | None:
    """Read another tool's user name: text, a number, or an object with one of them."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
        if value is None:
            raise ValueError("has neither email nor id")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _read_name(value)


def _read_number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and is_plain_number(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is not a number")
    if not -_MAX_NUMBER < value < _MAX_NUMBER:
        raise ValueError("is not a finite number")
    return float(value)


def _read_whole_number(value: Any) -> int:
    number = _read_number(value)
    if number is None:
        raise ValueError("is missing")
    if number != int(number):
        raise ValueError("is not a whole number")
    return int(number)


def _read_seconds(value: Any) -> float:
    seconds = _read_number(value) or 0.0
    if seconds < 0:
        raise ValueError("is below 0")
    return seconds


def _read_shown(value: Any) -> str | float | None:
    """Read a choice as another tool shows it, or a score."""
    if isinstance(value, dict | list):
        raise ValueError("is neither a choice nor a number")
    return (_read_text(value) or None) if isinstance(value, str) else _read_number(value)


def _read_tags(value: Any) -> tuple[str, ...]:
    if value is None or isinstance(value, str):
        value = (value or "").split(";")
    if not isinstance(value, list):
        raise ValueError("is not a list")
    tags = tuple(tag for tag in (_read_text(part).strip() for part in value) if tag)
    unknown = sorted(set(tags) - set(TAGS))
    if unknown:
        raise ValueError(f"{unknown[0][:40]!r} is unknown; use {', '.join(TAGS)}")
    return tags


Text = Annotated[str, BeforeValidator(_read_text)]
Number = Annotated[float | None, BeforeValidator(_read_number)]
WholeNumber = Annotated[int, BeforeValidator(_read_whole_number)]
Account = Annotated[str | None, BeforeValidator(_read_account)]


# Contents of entries.


class _Schema(BaseModel):
    """An object of which only the declared values are read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Place(_Schema):
    """Which item an entry is about."""

    batch: WholeNumber
    item: WholeNumber


class AnswerRow(_Schema):
    """An answer with the columns of our export.

    Attributes:
        auditor: None if the file does not name one.
        answer: the choice, in our own names of the judgments.
        shown: the letters or the score that another tool shows; None in our own files.
    """

    auditor: Annotated[str | None, BeforeValidator(_read_name)] = None
    answer: Text = ""
    shown: Annotated[str | float | None, BeforeValidator(_read_shown)] = None
    points: Number = None
    confidence: Number = None
    tags: Annotated[tuple[str, ...], BeforeValidator(_read_tags)] = ()
    comment: Annotated[str, BeforeValidator(_read_comment)] = ""
    seconds: Annotated[float, BeforeValidator(_read_seconds)] = 0.0


class _Control(_Schema):
    """Value of one Label Studio control."""

    from_name: Text = ""
    value: Any = None


class _ControlValue(_Schema):
    choices: list[Text] | None = None
    rating: Number = None
    number: Number = None
    text: Any = None


class _Annotation(_Schema):
    """One user's annotation of a Label Studio task."""

    was_cancelled: bool | None = None
    completed_by: Account = None
    result: list[_Control] | None = None
    lead_time: Any = None


class _Task(_Schema):
    """A Label Studio task."""

    data: dict[Any, Any] | None = None
    annotations: Any = None


class _Value(_Schema):
    """One user's answer to one Argilla question."""

    value: Any = None
    user_id: Account = None
    status: Text = ""


class _Response(_Schema):
    """One user's answers to all Argilla questions."""

    values: dict[Any, Any] | None = None
    user_id: Account = None
    status: Text = ""


class _Record(_Schema):
    """An Argilla record: its client groups responses by question, its server by user."""

    metadata: dict[Any, Any] | None = None
    responses: Any = None


class _Source(_Schema):
    source_id: Account = None


class _Feedback(_Schema):
    value: Any = None


class _Assessment(_Schema):
    """An MLflow assessment as we export it."""

    metadata: dict[Any, Any]
    feedback: _Feedback
    source: _Source = _Source()
    rationale: Any = None


Columns = Mapping[str, Any]


def detect_format(row: Mapping[str, Any]) -> tuple[Columns, list[Columns | str], bool]:
    """Detect which tool wrote a row, and convert its answers to the columns of our export.

    Returns:
        The columns that identify its batch and item; its answers, each of which may be the reason
        why it is skipped; and whether the row identifies the exact item that it answers.

    Raises:
        ValidationError: the row does not have the shape of that tool's rows.
    """
    if "annotations" in row or isinstance(row.get("data"), dict):
        task = _Task.model_validate(row)
        return task.data or {}, _iter_each(_convert_annotation, task.annotations), False
    if "feedback" in row:
        assessment = _Assessment.model_validate(row)
        return assessment.metadata, [_convert_assessment(assessment)], True
    if "responses" in row or isinstance(row.get("metadata"), dict):
        record = _Record.model_validate(row)
        return record.metadata or {}, _convert_responses(record.responses), False
    return row, [row], True


def _convert_assessment(found: _Assessment) -> Columns:
    value = found.feedback.value
    return {
        "answer" if isinstance(value, str) else "points": value,
        "auditor": found.source.source_id,
        "comment": found.rationale,
        "confidence": found.metadata.get("confidence"),
        "tags": found.metadata.get("tags"),
    }


def parse_answer_row(said: Columns | str) -> AnswerRow | str:
    """Validate an answer; a string is the reason why it is not imported."""
    if isinstance(said, str):
        return said
    try:
        return AnswerRow.model_validate(said)
    except ValidationError as error:
        return explain_validation_error(error)


def _convert_annotation(found: Any) -> Columns | str:
    try:
        annotation = _Annotation.model_validate(found)
        controls = {one.from_name: one.value for one in annotation.result or ()}
        answer = _ControlValue.model_validate(controls.get("answer") or {})
        comment = _ControlValue.model_validate(controls.get("comment") or {})
    except ValidationError as error:
        return explain_validation_error(error)
    if annotation.was_cancelled:
        return "was skipped by the annotator"
    choices = answer.choices or []
    if len(choices) > 1:
        return "chooses several answers"
    who = annotation.completed_by
    return {
        "shown": _get_first_of(*choices, answer.rating, answer.number),
        "auditor": None if who is None else f"label-studio {who}",
        "comment": comment.text,
        "seconds": annotation.lead_time,
    }


def _iter_each(read: Callable[[Any], T | str], found: Any) -> list[T | str]:
    """Yield the parts of a list; a string instead of a list is the reason why there are none."""
    if not isinstance(found, list | None):
        return ["has answers that are not a list"]
    return list(map(read, found or ()))


def _convert_responses(responses: Any) -> list[Columns | str]:
    if isinstance(responses, dict):
        return _convert_questions(responses)
    return _iter_each(_convert_response, responses)


def _convert_questions(responses: Mapping[Any, Any]) -> list[Columns | str]:
    """Convert responses grouped by question, as written by Argilla's client."""
    answers, comments = (
        _iter_each(_read_value, responses.get(name)) for name in ("answer", "comment")
    )
    said = {one.user_id: one.value for one in comments if isinstance(one, _Value)}
    return [
        one if isinstance(one, str) else _convert_value(one, said.get(one.user_id))
        for one in answers
    ]


def _read_value(found: Any) -> _Value | str:
    try:
        return _Value.model_validate(found)
    except ValidationError as error:
        return explain_validation_error(error)


def _convert_response(found: Any) -> Columns | str:
    """Convert one user's answers, as written by Argilla's server."""
    try:
        response = _Response.model_validate(found)
        values = response.values or {}
        answer, comment = (
            _Value.model_validate(values.get(name) or {}) for name in ("answer", "comment")
        )
    except ValidationError as error:
        return explain_validation_error(error)
    one = _Value(value=answer.value, user_id=response.user_id, status=response.status)
    return _convert_value(one, comment.value)


def _convert_value(one: _Value, comment: Any) -> Columns | str:
    if one.status not in ("", "submitted"):
        return "has not been submitted" if one.status in ("draft", "pending") else "was discarded"
    who = one.user_id
    return {
        "shown": one.value,
        "auditor": None if who is None else f"argilla {who}",
        "comment": comment,
    }


def _get_first_of(*values: str | float | None) -> str | float | None:
    return next((value for value in values if value is not None), None)


def explain_validation_error(error: ValidationError) -> str:
    """Explain in one line which value is wrong and how; safe to display."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = ".".join(map(str, first["loc"])) or "the entry"
    said = _REASONS.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{path[:100]} {said}".encode(errors="backslashreplace").decode()


_REASONS: Final = {
    "missing": "is missing",
    "model_type": "is not an object",
    "dict_type": "is not an object",
    "list_type": "is not a list",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
}
"""Messages for pydantic's error types."""
