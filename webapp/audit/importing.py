"""Answers that were given elsewhere: read whole, checked whole, written all or none."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from meta_reward_core.csv_safety import unguard_cell
from meta_reward_core.errors import InputError
from webapp.audit.desk import TAGS, Given, answer_values, note
from webapp.audit.forms import unswap
from webapp.audit.models import (
    Again,
    Answer,
    Batch,
    BatchStatus,
    Change,
    Choice,
    Confidence,
    Item,
    Kind,
)

MOST_BYTES: Final = 20_000_000
_MOST_FAULTS: Final = 10
_MOST_NAME: Final = 150


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """An answer from a file, and where it stood in it."""

    where: str
    item: int
    auditor: str
    given: Given


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file: answers written, and answers that were there already."""

    added: int
    known: int


def import_file(batch: Batch, name: str, content: bytes, *, by: User) -> Imported:
    """Write the answers of a file.

    The same file a second time adds nothing.

    Args:
        name: of the file, for messages and for the history.

    Raises:
        InputError: nothing was written; the message names the first lines at fault.
    """
    if batch.status != BatchStatus.OPEN:
        raise InputError("the batch is closed and takes no more answers")
    rows = list(_rows(name, content))
    if not rows:
        raise InputError(f"{name} holds no answer")
    items = {item.number: item for item in batch.items.select_related("answer")}
    faults: list[str] = []
    read: list[ReadAnswer] = []
    for where, row in rows:
        try:
            read += _read_row(batch, items, where, row, by)
        except InputError as error:
            faults.append(f"{where}: {error}")
    faults += _twice(read)
    if faults:
        more = f" ... and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise InputError("nothing was imported. " + "; ".join(faults[:_MOST_FAULTS]) + more)
    with transaction.atomic():
        added = sum(_write(items[one.item], one, name, by) for one in read)
    return Imported(added=added, known=len(read) - added)


def _rows(name: str, content: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if len(content) > MOST_BYTES:
        raise InputError(f"{name} is larger than {MOST_BYTES // 1_000_000} MB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text") from error
    if name.lower().endswith(".csv"):
        yield from _csv_rows(name, text)
    elif text.lstrip().startswith("["):
        for index, task in enumerate(_list_of(name, text), start=1):
            yield f"entry {index}", task
    else:
        yield from _json_lines(name, text)


def _csv_rows(name: str, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            cells = {key: unguard_cell(cell or "") for key, cell in row.items() if key}
            tags = [tag.strip() for tag in cells.get("tags", "").split(";") if tag.strip()]
            yield f"line {reader.line_num}", cells | {"tags": tags}
    except csv.Error as error:
        raise InputError(f"{name} is not readable CSV: {error}") from error


def _json_lines(name: str, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number} is not JSON") from error


def _list_of(name: str, text: str) -> Sequence[Any]:
    try:
        found: Sequence[Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not readable JSON") from error
    return found


def _read_row(
    batch: Batch, items: Mapping[int, Item], where: str, row: Any, by: User
) -> list[ReadAnswer]:
    """Read one row, which holds one answer in our files and may hold several in other tools'."""
    if not isinstance(row, dict):
        raise InputError("is not an object with columns")
    is_ours, answers = _plain(row)
    item = _find_item(batch, items, answers[0])
    names = [str(one.get("auditor") or by.get_username())[:_MOST_NAME] for one in answers]
    places = [item] if is_ours else _places(item, items.values(), names)
    return [
        ReadAnswer(where, place.number, name, _given(batch, item, one))
        for place, name, one in zip(places, names, answers, strict=True)
    ]


def _find_item(batch: Batch, items: Mapping[int, Item], row: Mapping[str, Any]) -> Item:
    if str(row.get("batch")) != str(batch.pk):
        raise InputError(f"belongs to batch {row.get('batch')!r}, and this is {batch.pk}")
    number = _number(row.get("item"), "item")
    item = items.get(int(number))
    if item is None or item.number != number:
        raise InputError(f"there is no item {row.get('item')!r} in this batch")
    return item


def _places(item: Item, items: Iterable[Item], names: Sequence[str]) -> list[Item]:
    """Find for each annotator of a task the item, or its repeat for another auditor.

    Who has answered one of them already keeps it; the others take what is left, in order.
    """
    if len(set(names)) < len(names):
        raise InputError(f"has several annotations by {names[0]}, and one of each person is wanted")
    again = [one for one in items if one.original_id == item.pk and one.again == Again.OTHER]
    free = [item, *again]
    if len(names) > len(free):
        raise InputError(
            f"has {len(names)} annotations, and item {item.number} is asked {len(free)} times: "
            "take annotations out, or draw a batch in which more items come again to another "
            "auditor"
        )
    taken = {one.answer.auditor_name: one for one in free if hasattr(one, "answer")}
    found = {name: taken[name] for name in names if name in taken}
    left = [one for one in free if not hasattr(one, "answer")]
    left += [one for one in free if one not in left and one not in found.values()]
    for name in names:
        if name not in found:
            found[name] = left.pop(0)
    return [found[name] for name in names]


def _plain(row: Mapping[str, Any]) -> tuple[bool, list[Mapping[str, Any]]]:
    """Any known form as rows with the columns of our own export, and whether it is that one."""
    if isinstance(row.get("annotations"), list):
        return False, _from_label_studio(row)
    if isinstance(row.get("responses"), list | dict) and isinstance(row.get("metadata"), dict):
        return False, _from_argilla(row)
    return True, [row]


def _from_label_studio(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    data = row["data"] if isinstance(row.get("data"), dict) else {}
    done = [a for a in row["annotations"] if isinstance(a, dict) and not a.get("was_cancelled")]
    if not done:
        raise InputError("has no annotation, or cancelled ones alone")
    return [_from_annotation(data, annotation) for annotation in done]


def _from_annotation(data: Mapping[str, Any], annotation: Mapping[str, Any]) -> Mapping[str, Any]:
    values = {
        part.get("from_name"): part.get("value")
        for part in annotation.get("result") or ()
        if isinstance(part, dict) and isinstance(part.get("value"), dict)
    }
    answer = values.get("answer") or {}
    chosen = answer.get("choices") or [answer.get("rating", answer.get("number"))]
    who = annotation.get("completed_by")
    who = who.get("email") if isinstance(who, dict) else who
    comment = (values.get("comment") or {}).get("text") or ""
    return {
        "batch": data.get("batch"),
        "item": data.get("item"),
        "shown": chosen[0],
        "auditor": None if who is None else f"label-studio {who}",
        "comment": " ".join(comment) if isinstance(comment, list) else comment,
        "seconds": annotation.get("lead_time") or 0.0,
    }


def _from_argilla(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    responses = row["responses"]
    if isinstance(responses, dict):  # as its client exports them: question -> answers
        given = _responses_to(responses, "answer")
        comments = _responses_to(responses, "comment")
    else:
        submitted = [one for one in responses if isinstance(one, dict)
                     and one.get("status", "submitted") == "submitted"]  # fmt: skip
        given, comments = (
            [one | _value_of(one, question) for one in submitted]
            for question in ("answer", "comment")
        )
    if not given:
        raise InputError("has no submitted response")
    said = {str(one.get("user_id")): one.get("value") for one in comments}
    return [
        {
            **row["metadata"],
            "shown": one.get("value"),
            "comment": said.get(str(one.get("user_id"))),
            "auditor": None if one.get("user_id") is None else f"argilla {one['user_id']}",
        }
        for one in given
    ]


def _responses_to(responses: Mapping[str, Any], question: str) -> list[dict[str, Any]]:
    found = responses.get(question)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _value_of(response: Mapping[str, Any], question: str) -> dict[str, Any]:
    values = response.get("values")
    found = values.get(question) if isinstance(values, dict) else None
    return {"value": found.get("value") if isinstance(found, dict) else None}


def _given(batch: Batch, item: Item, row: Mapping[str, Any]) -> Given:
    shown = row.get("shown")
    is_pairs = batch.kind == Kind.JUDGMENTS
    return Given(
        choice=_choice(row.get("answer"), shown, item) if is_pairs else "",
        points=None if is_pairs else _points(row.get("points") if shown is None else shown),
        confidence=_confidence(row.get("confidence")),
        tags=_tags(row.get("tags")),
        comment=str(row.get("comment") or "")[:4000],
        seconds=_number(row.get("seconds") or 0.0, "seconds"),
    )


def _choice(answer: Any, shown: Any, item: Item) -> str:
    """Ours names judgments as the item does, other tools by the letters that they showed."""
    choice = str(answer) if shown is None else unswap(str(shown), item)
    if choice not in Choice.values:
        raise InputError(f"answer {answer if shown is None else shown!r} is none of the known ones")
    return choice


def _points(value: Any) -> float:
    points = _number(value, "points")
    if not 0 <= points <= 5:
        raise InputError(f"points {value!r} lie outside 0 to 5")
    return points


def _confidence(value: Any) -> int:
    if value in (None, ""):
        return int(Confidence.MEDIUM)
    number = _number(value, "confidence")
    if number not in Confidence.values:
        raise InputError(f"confidence {value!r} is none of 1, 2 and 3")
    return int(number)


def _tags(value: Any) -> tuple[str, ...]:
    tags = tuple(map(str, value)) if isinstance(value, list) else ()
    unknown = sorted(set(tags) - set(TAGS))
    if unknown:
        raise InputError(f"tag {unknown[0]!r} is not known")
    return tags


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} {value!r} is no number") from error
    if not abs(number) < 1e9:
        raise InputError(f"{name} {value!r} is no number")
    return number


def _twice(read: Sequence[ReadAnswer]) -> list[str]:
    seen: dict[int, str] = {}
    faults = []
    for one in read:
        if one.item in seen:
            faults.append(f"{one.where}: item {one.item} stands in {seen[one.item]} already")
        seen[one.item] = one.where
    return faults


def _write(item: Item, read: ReadAnswer, name: str, by: User) -> bool:
    """Write one answer; False if this very answer is there already.

    Raises:
        InputError: the item has another answer, or somebody is answering it now.
    """
    known = Answer.objects.filter(item=item).first()
    if known is not None:
        if _is_same(known, read):
            return False
        raise InputError(f"{read.where}: item {item.number} has another answer already")
    free = Item.objects.filter(Q(holder__isnull=True) | Q(lease_until__lt=Now()), pk=item.pk)
    if free.filter(is_answered=False).update(is_answered=True) != 1:
        raise InputError(f"{read.where}: somebody is answering item {item.number} now")
    auditor = item.batch.auditors.filter(username=read.auditor).first()
    Answer.objects.create(
        item=item,
        auditor=auditor,
        auditor_name=read.auditor,
        source=name[:200],
        **read.given.values(),
    )
    note(item, Change.IMPORTED, by, {**read.given.values(), "auditor": read.auditor, "file": name})
    return True


def _is_same(known: Answer, read: ReadAnswer) -> bool:
    values = answer_values(known)
    given = read.given.values()
    names = ("choice", "points", "confidence", "tags", "comment")
    return known.auditor_name == read.auditor and all(values[n] == given[n] for n in names)
