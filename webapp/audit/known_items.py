"""Items with known answers, which each auditor of a batch answers first.

They come from adjudicated items of earlier batches, or from a file. Their answers measure the
auditors and are excluded from all estimates.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from django.contrib.auth.models import User
from django.db.models import Max, Q, QuerySet
from pydantic import BaseModel, ConfigDict, ValidationError

from meta_reward_core.errors import InputError
from webapp.audit.answer_files import LeftOut, iter_rows
from webapp.audit.answer_formats import Number, Text, explain_validation_error
from webapp.audit.batch_sampling import KnownAnswer, SampledBatch
from webapp.audit.models import (
    Batch,
    HiddenVerdict,
    Item,
    ItemKind,
    KnownItem,
    PreferenceLabel,
    RepeatKind,
)
from webapp.experiments.models import Experiment

MAX_KNOWN_ITEMS: Final = 200
_STRATUM: Final = "known answers"
_LETTERS: Final = {"A": PreferenceLabel.FIRST, "B": PreferenceLabel.SECOND}


class _KnownRow(BaseModel):
    """A row of a file of known answers; an export of answers has these columns too."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instruction: Text
    response: Text
    first: Text = ""
    second: Text = ""
    answer: Text = ""
    adjudicated: Text = ""
    points: Number = None


def read_known_answers(
    name: str, content: bytes, kind: str
) -> tuple[list[KnownAnswer], list[LeftOut]]:
    """Read a file of items with known answers: CSV, JSON or JSON Lines.

    Args:
        kind: kind of the batch, an `ItemKind`.

    Returns:
        The items without duplicates, and the rows that cannot be used with their reasons.

    Raises:
        InputError: the file as a whole cannot be read, or contains too many items.
    """
    found: dict[KnownAnswer, None] = {}
    left_out: list[LeftOut] = []
    for where, row in iter_rows(name, content, columns=("instruction", "response")):
        try:
            if isinstance(row, str):
                raise InputError(row)
            found[_parse_known_row(row, kind)] = None
        except InputError as error:
            left_out.append(LeftOut(where, None, str(error)))
    if len(found) > MAX_KNOWN_ITEMS:
        raise InputError(
            f"{name} has {len(found):,} items with known answers; the maximum is {MAX_KNOWN_ITEMS}"
        )
    return list(found), left_out


def _parse_known_row(row: dict[str, Any], kind: str) -> KnownAnswer:
    try:
        read = _KnownRow.model_validate(row)
    except ValidationError as error:
        raise InputError(explain_validation_error(error)) from error
    if not (read.instruction.strip() and read.response.strip()):
        raise InputError("must have both an instruction and a response")
    if kind == ItemKind.RESPONSES:
        return KnownAnswer(read.instruction, read.response, "", "", _parse_score(read))
    if not (read.first.strip() and read.second.strip()):
        raise InputError("has no text in the columns first and second (the two judgments)")
    answer = read.adjudicated or read.answer
    answer = _LETTERS.get(answer, answer)
    if answer not in PreferenceLabel.values:
        known = ", ".join(PreferenceLabel.values)
        raise InputError(f"answer {answer[:40]!r} is unknown; use {known}")
    return KnownAnswer(read.instruction, read.response, read.first, read.second, str(answer))


def _parse_score(read: _KnownRow) -> str:
    given = read.adjudicated or (read.answer if read.points is None else read.points)
    try:
        score = float(given)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 5:
        raise InputError(f"the known score {str(given)[:40]!r} is not a number from 0 to 5")
    return f"{score:g}"


def save_known_items(batch: Batch, drawn: SampledBatch) -> None:
    """Write the known items of a new batch: those of the plan, then adjudicated ones."""
    plan = drawn.plan
    rows = [
        KnownItem(
            batch=batch,
            instruction=known.instruction,
            response=known.response,
            first=known.first,
            second=known.second,
            answer=known.answer,
        )
        for known in plan.known_answers
    ]
    keys = {item.key for item in drawn.sample.items}
    rows += [
        KnownItem(
            batch=batch,
            instruction=item.instruction,
            response=item.response,
            first=item.first,
            second=item.second,
            answer=item.adjudicated,
            source=item,
            facts=item.hidden_verdict.facts,
        )
        for item in _select_adjudicated(drawn.experiment, drawn.number, plan.kind, keys)[
            : plan.adjudicated_items
        ]
    ]
    for number, row in enumerate(rows, start=1):
        row.number = number
    KnownItem.objects.bulk_create(rows)


def _select_adjudicated(
    experiment: Experiment, number: int, kind: str, keys: Iterable[str]
) -> QuerySet[Item]:
    """Adjudicated items of an experiment, latest first, without those that are sampled again."""
    drawn_again = Q(batch__iteration=number, key__in=list(keys))
    items = Item.objects.filter(
        batch__experiment=experiment, batch__kind=kind, repeat_kind=RepeatKind.NO
    ).exclude(adjudicated="")
    ordered = items.exclude(drawn_again).order_by("-adjudicated_at", "pk")
    return ordered.select_related("hidden_verdict")


def copy_known_items(batch: Batch, auditors: Iterable[User]) -> None:
    """Give each auditor a copy of each known item that they do not have yet."""
    known = list(batch.known_items.all())
    if not known:
        return
    has = set(batch.items.filter(repeat_kind=RepeatKind.KNOWN).values_list("known", "reserved_for"))
    last = batch.items.aggregate(last=Max("number"))["last"] or 0
    wanted = [
        (one, auditor) for auditor in auditors for one in known if (one.pk, auditor.pk) not in has
    ]
    items = [
        _copy_known_item(batch, number, one, auditor)
        for number, (one, auditor) in enumerate(wanted, start=last + 1)
    ]
    Item.objects.bulk_create(items)
    HiddenVerdict.objects.bulk_create(
        HiddenVerdict(item=item, facts=one.facts)
        for item, (one, _) in zip(items, wanted, strict=True)
    )


def _copy_known_item(batch: Batch, number: int, known: KnownItem, auditor: User) -> Item:
    return Item(
        batch=batch,
        number=number,
        key=f"known {known.number}",
        stratum=_STRATUM,
        probability=1.0,
        instruction=known.instruction,
        response=known.response,
        first=known.first,
        second=known.second,
        is_swapped=(known.pk + auditor.pk) % 2 == 1,
        repeat_kind=RepeatKind.KNOWN,
        known=known,
        reserved_for=auditor,
    )


def iter_known_values(batch: Batch) -> Iterator[tuple[int, str]]:
    """Yield the primary keys of copies of known items with their known answers."""
    copies = batch.items.filter(known__isnull=False)
    yield from copies.values_list("pk", "known__answer")
