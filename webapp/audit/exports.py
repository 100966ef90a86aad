"""Answers, tasks and training rows of a batch, in the formats of other tools."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from django.db.models import Q, QuerySet

from meta_reward_core.data.csv_safety import format_csv
from webapp.audit.batch_report import iter_named_estimates, make_report
from webapp.audit.human_preference_pairs import build_pair_rows
from webapp.audit.item_presenter import format_answer_value
from webapp.audit.models import Answer, Batch, Confidence, Item, ItemKind
from webapp.audit.rendering import get_shown_judgments

Row = dict[str, Any]

COLUMNS: Final = (
    "batch", "item", "key", "again", "stratum", "probability", "auditor", "answer", "points",
    "confidence", "tags", "comment", "seconds", "given", "adjudicated", "is_swapped",
    "forward", "backward", "elo_first", "elo_second", "judge_mean",
    "instruction", "response", "first", "second",
    "answer_id", "item_id", "reviewed_item_id", "auditor_id", "answer_label", "confidence_label",
)  # fmt: skip
"""Columns of exported answers; `answer` is first, second, tie or neither.

`forward` and `backward` are the meta-judge's outcomes with the first or the second judgment shown
first, respectively. The ids and codes are stable. `reviewed_item_id` is the item that a repeat
repeats, otherwise the item itself: the `item_id` of the CSV file of items. Labels have the letters
that the auditor saw.
"""


_JUDGES: Final = ("forward", "backward", "elo_first", "elo_second")


@dataclass(frozen=True, slots=True)
class ExportFile:
    """A file to download."""

    name: str
    media_type: str
    content: bytes


def iter_answer_rows(batch: Batch) -> Iterator[Row]:
    """Yield one row per answer, repeats included, in batch order."""
    return iter_rows(Answer.objects.filter(item__batch=batch).order_by("item__number"))


def iter_rows(answers: QuerySet[Answer]) -> Iterator[Row]:
    """Yield one row per answer; see `COLUMNS`."""
    for answer in answers.select_related("item__batch", "item__hidden_verdict"):
        item, facts = answer.item, answer.item.hidden_verdict.facts
        yield {
            "batch": item.batch_id,
            "item": item.number,
            "key": item.key,
            "again": item.repeat_kind,
            "stratum": item.stratum,
            "probability": item.probability,
            "auditor": answer.auditor_name,
            "answer": answer.choice,
            "points": answer.points,
            "confidence": answer.confidence,
            "tags": answer.tags,
            "comment": answer.comment,
            "seconds": answer.seconds,
            "given": answer.submitted.isoformat(),
            "adjudicated": item.adjudicated,
            "is_swapped": item.is_swapped,
            **{name: facts.get(name) for name in _JUDGES},
            "judge_mean": facts.get("mean"),
            "instruction": item.instruction,
            "response": item.response,
            "first": item.first,
            "second": item.second,
            "answer_id": answer.pk,
            "item_id": item.pk,
            "reviewed_item_id": item.original_id or item.pk,
            "auditor_id": answer.auditor_id,
            "answer_label": format_answer_value(answer, item),
            "confidence_label": str(Confidence(answer.confidence).label),
        }


def export_answers(batches: Iterable[Batch]) -> bytes:
    """Export the answers of several batches as one CSV file; see `COLUMNS`."""
    return _format_rows(row for batch in batches for row in iter_answer_rows(batch))


def export_answers_to(items: Iterable[Item]) -> bytes:
    """Export the answers to items and their repeats as one CSV file; see `COLUMNS`."""
    keys = [item.pk for item in items]
    answers = Answer.objects.filter(Q(item__in=keys) | Q(item__original__in=keys))
    return export_given(answers.order_by("item__batch", "item__number"))


def export_given(answers: QuerySet[Answer]) -> bytes:
    """Export answers as a CSV file; see `COLUMNS`."""
    return _format_rows(iter_rows(answers))


def _format_rows(rows: Iterable[Row]) -> bytes:
    lines = (row | {"tags": "; ".join(row["tags"])} for row in rows)
    return format_csv([COLUMNS, *([line[name] for name in COLUMNS] for line in lines)]).encode()


def _export_csv(batch: Batch) -> bytes:
    return export_answers([batch])


def _export_estimates(batch: Batch) -> bytes:
    """Export every metric with its interval and number of items."""
    found = iter_named_estimates(make_report(batch))
    rows = ([part, name, one.value, one.low, one.high, one.count] for part, name, one in found)
    columns = ("part", "figure", "estimate", "low", "high", "items")
    return format_csv([columns, *rows]).encode()


def _encode_json_lines(rows: Iterable[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


_ANSWERS: Final = pa.schema(
    [
        (name, {
            "batch": pa.int64(), "item": pa.int64(), "probability": pa.float64(),
            "elo_first": pa.float64(), "elo_second": pa.float64(), "judge_mean": pa.float64(),
            "points": pa.float64(), "confidence": pa.int64(), "seconds": pa.float64(),
            "is_swapped": pa.bool_(), "tags": pa.list_(pa.string()),
            "answer_id": pa.int64(), "item_id": pa.int64(), "reviewed_item_id": pa.int64(),
            "auditor_id": pa.int64(),
        }.get(name, pa.string()))
        for name in COLUMNS
    ]
)  # fmt: skip


def _export_parquet(batch: Batch) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(iter_answer_rows(batch)), schema=_ANSWERS), sink)
    return sink.getvalue()


def _build_task(batch: Batch, item: Item) -> Row:
    """Build the task of an item without hidden verdicts."""
    shown: Row = {"instruction": item.instruction, "response": item.response}
    if batch.kind == ItemKind.JUDGMENTS:
        a, b = get_shown_judgments(
            item.first,
            item.second,
            is_swapped=item.is_swapped,
            hides_score_lines=batch.hides_score_lines,
        )
        shown |= {"judgment_a": a, "judgment_b": b}
    return shown


def _list_open_items(batch: Batch) -> Iterable[Item]:
    return batch.items.filter(is_answered=False, repeat_kind="")


def _export_label_studio(batch: Batch) -> bytes:
    """Export unanswered items as tasks; name the control `answer` in the labeling interface."""
    tasks = [
        {"data": {"batch": batch.pk, "item": item.number, **_build_task(batch, item)}}
        for item in _list_open_items(batch)
    ]
    return json.dumps(tasks, ensure_ascii=False, indent=1).encode()


def _export_argilla(batch: Batch) -> bytes:
    """Export unanswered items as records for a question named `answer`."""
    return _encode_json_lines(
        {
            "id": f"{batch.pk}-{item.number}",
            "fields": _build_task(batch, item),
            "metadata": {"batch": batch.pk, "item": item.number},
        }
        for item in _list_open_items(batch)
    )


def _export_assessments(batch: Batch) -> bytes:
    """Export one MLflow assessment per answer."""
    return _encode_json_lines(
        {
            "trace_id": row["key"],
            "assessment_name": "better_judgment" if row["answer"] else "response_quality",
            "source": {"source_type": "HUMAN", "source_id": row["auditor"]},
            "feedback": {"value": row["answer"] or row["points"]},
            "rationale": row["comment"] or None,
            "create_time": row["given"],
            "last_update_time": row["given"],
            "metadata": {"batch": str(batch.pk), "item": str(row["item"]),
                         "tags": "; ".join(row["tags"]), "confidence": str(row["confidence"])},
        }
        for row in iter_answer_rows(batch)
    )  # fmt: skip


def _export_eft(batch: Batch) -> bytes:
    """Export human-preferred judgments as training rows for the judge."""
    return _encode_json_lines(
        {"prompt": row["prompt"][0]["content"], "response": row["chosen"][0]["content"]}
        for row in build_pair_rows(batch)
    )


def _export_judge_pairs(batch: Batch) -> bytes:
    """Export human judge pairs as TRL rows with the columns of the table `human_pairs`."""
    return _encode_json_lines(build_pair_rows(batch))


FILE_CONTENTS: Final[Mapping[str, str]] = {
    "csv": "answers with the verdicts of the meta-judge, or the judge's mean",
    "jsonl": "the same, one JSON object per line",
    "parquet": "the same, as Parquet",
    "findings": "all estimates with their intervals, as CSV",
    "label-studio": "tasks for unanswered items",
    "argilla": "records for unanswered items",
    "mlflow": "assessments with a human source",
    "eft": "judgments that humans preferred, to fine-tune the judge",
    "judge-pairs": "preferred and other judgments, as TRL rows",
}
"""What each format of `FORMATS` contains, for the page of a batch."""

FORMATS: Final[Mapping[str, tuple[str, str, Callable[[Batch], bytes]]]] = {
    "csv": ("csv", "text/csv; charset=utf-8", _export_csv),
    "jsonl": (
        "jsonl",
        "application/jsonl",
        lambda batch: _encode_json_lines(iter_answer_rows(batch)),
    ),
    "parquet": ("parquet", "application/vnd.apache.parquet", _export_parquet),
    "findings": ("findings.csv", "text/csv; charset=utf-8", _export_estimates),
    "label-studio": ("label-studio.json", "application/json", _export_label_studio),
    "argilla": ("argilla.jsonl", "application/jsonl", _export_argilla),
    "mlflow": ("mlflow.jsonl", "application/jsonl", _export_assessments),
    "eft": ("eft.jsonl", "application/jsonl", _export_eft),
    "judge-pairs": ("judge-pairs.jsonl", "application/jsonl", _export_judge_pairs),
}
"""Suffix, media type and writer of each format."""


def export_batch(batch: Batch, form: str) -> ExportFile:
    """Export a batch in one format.

    Raises:
        InputError: the batch has nothing to export in this format.
    """
    ending, media_type, write = FORMATS[form]
    return ExportFile(f"audit-{batch.pk}.{ending}", media_type, write(batch))
