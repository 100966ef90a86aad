"""Import answers from files: valid ones are stored, the others are counted by reason.

A file is refused as a whole if no part of it can be trusted or belongs to the batch: the batch is
closed, the file format is not supported (`answer_files.read_entries`), or no entry has an answer to
an item of this batch. All other faults concern single entries.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from meta_reward_core.errors import InputError
from webapp.activity.models import Action
from webapp.audit.annotation_queue import AnswerInput, get_answer_values, log_change
from webapp.audit.answer_files import Entry, LeftOut, read_entries
from webapp.audit.answer_formats import AnswerRow
from webapp.audit.forms import to_item_choice
from webapp.audit.models import (
    Answer,
    Batch,
    BatchStatus,
    Confidence,
    Item,
    ItemKind,
    PreferenceLabel,
    RepeatKind,
)

_MIN_MOST_ENTRIES: Final = 1000
_MAX_ENTRIES_PER_ITEM: Final = 20
_MAX_REASONS: Final = 20
_MAX_POSITIONS: Final = 10
_SHOWN_CHOICES: Final = ("A", "B", PreferenceLabel.TIE, PreferenceLabel.NEITHER)
_ANSWER: Final = ("choice", "points", "confidence", "tags", "comment")
"""Fields that must be equal for two answers to count as the same; durations are ignored."""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """An answer from a file, its item, and its position in the file."""

    where: str
    item: Item
    auditor: str
    given: AnswerInput

    def leave_out(self, reason: str) -> LeftOut:
        """Return the reason why this answer is not imported."""
        return LeftOut(self.where, self.item.number, reason)

    def is_same(self, auditor: str, values: Mapping[str, Any]) -> bool:
        """Whether this is the same answer by the same auditor."""
        given = self.given.to_columns()
        return self.auditor == auditor and all(values[name] == given[name] for name in _ANSWER)


Found = ParsedAnswer | LeftOut


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Result of importing a file.

    Attributes:
        added: number of answers written.
        known: number of answers that were already stored.
        left_out: answers and entries that were not imported, with their reasons.
    """

    added: int
    known: int
    left_out: Sequence[LeftOut] = ()

    def __str__(self) -> str:
        answers = "answer" if self.added == 1 else "answers"
        said = f"Imported {self.added:,} {answers}; {self.known:,} already imported"
        return f"{said}, {len(self.left_out):,} skipped."


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason why answers were not imported, their number, and the first positions."""

    text: str
    count: int
    positions: str


@dataclass(frozen=True, slots=True)
class _Target:
    """The batch that receives answers: its items by number, and repeats for other auditors."""

    batch: Batch
    by: User
    items: Mapping[int, Item]
    repeats: Mapping[int, Sequence[Item]]


def import_file(batch: Batch, name: str, content: bytes, *, by: User) -> ImportResult:
    """Import all valid answers of a file in one transaction.

    Importing the same file again adds nothing. Without any answer to import, nothing is written and
    `left_out` contains the reasons.

    Args:
        name: name of the file, for messages and for the history.

    Raises:
        InputError: the file as a whole is refused, and nothing was written.
    """
    if batch.status != BatchStatus.OPEN:
        raise InputError("the batch is closed and accepts no more answers")
    most = max(_MIN_MOST_ENTRIES, _MAX_ENTRIES_PER_ITEM * batch.items.count())
    entries = list(islice(read_entries(name, content), most + 1))
    if len(entries) > most:
        raise InputError(
            f"{name} has more than {most:,} entries, too many for the items of this batch: check "
            "that it is the right file, or split it"
        )
    if not entries:
        raise InputError(f"{name} contains no answers")
    _require_batch(batch, name, entries)
    target = _open_target(batch, by)
    found = list(_keep_one_each(one for entry in entries for one in _read_entry(target, entry)))
    with transaction.atomic():
        done = [
            _write_answer(one, name, by) if isinstance(one, ParsedAnswer) else one for one in found
        ]
    left_out = tuple(one for one in done if isinstance(one, LeftOut))
    return ImportResult(added=done.count(True), known=done.count(False), left_out=left_out)


def group_reasons(left_out: Iterable[LeftOut]) -> list[Reason]:
    """Group skipped answers by reason, most frequent first."""
    groups: defaultdict[str, list[LeftOut]] = defaultdict(list)
    for one in left_out:
        groups[one.reason].append(one)
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
    reasons = [
        Reason(text, len(ones), _format_positions(ones)) for text, ones in ranked[:_MAX_REASONS]
    ]
    rest = [one for _, ones in ranked[_MAX_REASONS:] for one in ones]
    return (
        [*reasons, Reason("other reasons", len(rest), _format_positions(rest))] if rest else reasons
    )


def _format_positions(ones: Sequence[LeftOut]) -> str:
    positions = [
        one.where if one.item is None else f"{one.where} (item {one.item})"
        for one in ones[:_MAX_POSITIONS]
    ]
    more = len(ones) - len(positions)
    return ", ".join(positions) + (f" and {more:,} more" if more else "")


def _require_batch(batch: Batch, name: str, entries: Sequence[Entry | LeftOut]) -> None:
    """Refuse a file of another batch.

    Raises:
        InputError: entries state their batch, and none states this batch.
    """
    named = {entry.place.batch for entry in entries if isinstance(entry, Entry)}
    if named and batch.pk not in named:
        raise InputError(f"{name} belongs to batch {min(named)}, but this is batch {batch.pk}")


def _open_target(batch: Batch, by: User) -> _Target:
    items = {item.number: item for item in batch.items.select_related("answer")}
    repeats: defaultdict[int, list[Item]] = defaultdict(list)
    for item in items.values():
        if item.original_id is not None and item.repeat_kind == RepeatKind.OTHER:
            repeats[item.original_id].append(item)
    return _Target(batch, by, items, repeats)


def _read_entry(target: _Target, entry: Entry | LeftOut) -> Iterator[Found]:
    if isinstance(entry, LeftOut):
        yield entry
        return
    yield from entry.left_out
    number = entry.place.item
    try:
        item = _find_item(target, entry)
    except InputError as error:
        yield from [LeftOut(entry.where, number, str(error)) for _ in entry.answers]
        return
    yield from _place_answers(target, entry, item)


def _find_item(target: _Target, entry: Entry) -> Item:
    if entry.place.batch != target.batch.pk:
        raise InputError(f"belongs to batch {entry.place.batch}")
    item = target.items.get(entry.place.item)
    if item is None:
        raise InputError("this batch has no such item")
    return item


def _place_answers(target: _Target, entry: Entry, item: Item) -> Iterator[Found]:
    read: list[tuple[str, AnswerInput]] = []
    for said in entry.answers:
        try:
            given = _parse_answer(target.batch, item, said)
        except InputError as error:
            yield LeftOut(entry.where, item.number, str(error))
        else:
            read.append((said.auditor or target.by.get_username(), given))
    try:
        positions = (
            [item] if entry.names_item else _match_items(target, item, [name for name, _ in read])
        )
    except InputError as error:
        yield from [LeftOut(entry.where, item.number, str(error)) for _ in read]
        return
    for place, (name, given) in zip(positions, read, strict=False):
        yield ParsedAnswer(entry.where, place, name, given)


def _match_items(target: _Target, item: Item, names: Sequence[str]) -> list[Item]:
    """Match each annotator of a task to the item or to its repeat for another auditor.

    Annotators who already answered the item or a repeat keep it; the others get the rest in
    order.

    Raises:
        InputError: it is ambiguous which of the answers count.
    """
    if len(set(names)) < len(names):
        raise InputError("has several answers by one auditor; keep one per auditor")
    free = [item, *target.repeats.get(item.pk, ())]
    if len(names) > len(free):
        raise InputError(
            f"has {len(names)} answers, but its item can have {len(free)}: remove answers, or "
            f"create a batch with more repeats for another auditor"
        )
    taken = {one.answer.auditor_name: one for one in free if hasattr(one, "answer")}
    found = {name: taken[name] for name in names if name in taken}
    left = [one for one in free if not hasattr(one, "answer")]
    left += [one for one in free if one not in left and one not in found.values()]
    for name in names:
        if name not in found:
            found[name] = left.pop(0)
    return [found[name] for name in names]


def _parse_answer(batch: Batch, item: Item, said: AnswerRow) -> AnswerInput:
    is_pairs = batch.kind == ItemKind.JUDGMENTS
    return AnswerInput(
        choice=_parse_choice(said, item) if is_pairs else "",
        points=None if is_pairs else _parse_score(said),
        confidence=_parse_confidence(said.confidence),
        tags=said.tags,
        comment=said.comment,
        seconds=said.seconds,
    )


def _parse_choice(said: AnswerRow, item: Item) -> str:
    """Parse a choice: by item name in our files, by displayed letter in those of other tools."""
    if said.shown is None:
        choice, known = said.answer, tuple(PreferenceLabel.values)
    else:
        choice, known = str(said.shown), _SHOWN_CHOICES
    if not choice:
        raise InputError("has no answer")
    if choice not in known:
        raise InputError(f"answer {choice[:40]!r} is unknown; use {', '.join(known)}")
    return choice if said.shown is None else to_item_choice(choice, item)


def _parse_score(said: AnswerRow) -> float:
    points = said.points if said.shown is None else said.shown
    if points is None:
        raise InputError("has no score")
    if isinstance(points, str) or not 0 <= points <= 5:
        raise InputError("the score is not a number from 0 to 5")
    return points


def _parse_confidence(value: float | None) -> int:
    if value is None:
        return int(Confidence.MEDIUM)
    if value not in Confidence.values:
        raise InputError(f"confidence {value:g} is unknown; use 1, 2 or 3")
    return int(value)


def _keep_one_each(found: Iterable[Found]) -> Iterator[Found]:
    """Drop duplicate answers of a file; conflicting answers are all dropped."""
    by_item: defaultdict[int, list[ParsedAnswer]] = defaultdict(list)
    for one in found:
        if isinstance(one, LeftOut):
            yield one
        else:
            by_item[one.item.number].append(one)
    for first, *others in by_item.values():
        values = first.given.to_columns()
        if all(other.is_same(first.auditor, values) for other in others):
            yield first
            yield from [one.leave_out("it repeats an earlier answer") for one in others]
        else:
            positions = " and ".join(one.where for one in (first, others[0]))
            reason = f"{positions} give different answers to this item: keep one"
            yield from [one.leave_out(reason) for one in (first, *others)]


def _write_answer(read: ParsedAnswer, name: str, by: User) -> bool | LeftOut:
    """Store an answer; False if the same answer is already stored."""
    item = read.item
    known = Answer.objects.filter(item=item).first()
    if known is not None:
        if read.is_same(known.auditor_name, get_answer_values(known)):
            return False
        return read.leave_out("its item already has a different answer")
    free = Item.objects.filter(Q(holder__isnull=True) | Q(lease_until__lt=Now()), pk=item.pk)
    if free.filter(is_answered=False).update(is_answered=True) != 1:
        return read.leave_out("the item is being answered now; import the file again later")
    auditor = item.batch.auditors.filter(username=read.auditor).first()
    Answer.objects.create(
        item=item,
        auditor=auditor,
        auditor_name=read.auditor,
        source=name[:200],
        **read.given.to_columns(),
    )
    log_change(
        item,
        Action.IMPORTED,
        by,
        {**read.given.to_columns(), "auditor": read.auditor, "file": name},
    )
    return True
