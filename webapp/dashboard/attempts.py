"""Shards and their attempts: pages of shards, and the last failures with their messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from django.core.paginator import Page, Paginator
from django.db.models import Prefetch, QuerySet
from django.db.models.functions import Right

from webapp.experiments.error_text import ErrorText, split_error
from webapp.experiments.models import (
    Attempt,
    AttemptStatus,
    Experiment,
    Iteration,
    Shard,
    ShardStatus,
)

SHARDS_ON_A_PAGE: Final = 25
_FAILURES_SHOWN: Final = 3
_LINES_SHOWN: Final = 8
_CHARS_SHOWN: Final = 2000


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A failed or lost attempt."""

    pk: int
    number: int
    status_label: str
    when: datetime | None
    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Consecutive attempts at a shard that failed with the same error.

    Attributes:
        what: the stage and the shard.
        attempts: newest first.
    """

    what: str
    error: ErrorText
    attempts: Sequence[FailedAttempt]

    @property
    def last(self) -> FailedAttempt:
        """The newest attempt."""
        return self.attempts[0]


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt in the table of shards."""

    row: Attempt
    lines: str


@dataclass(frozen=True, slots=True)
class ShardView:
    """A shard with a description of its output, and its attempts."""

    row: Shard
    made: str
    tries: Sequence[AttemptView]


def select_attempts(experiment: Experiment, number: int) -> QuerySet[Attempt]:
    """Select the attempts at the shards of one iteration, with their experiment."""
    return Attempt.objects.select_related("shard__stage__iteration__experiment").filter(
        shard__stage__iteration__experiment=experiment,
        shard__stage__iteration__number=number,
    )


def list_last_failures(iteration: Iteration) -> list[Failure]:
    """Load the last failed or lost attempts, with long errors cut, grouped by shard and error."""
    rows = (
        _annotate_tails(Attempt.objects.filter(shard__stage__iteration=iteration))
        .filter(status__in=[AttemptStatus.FAILED, AttemptStatus.LOST])
        .select_related("shard__stage")
        .order_by("-pk")
    )
    return [
        Failure(what, error, [_make_failed_attempt(row) for row in group])
        for (what, error), group in groupby(rows[:_FAILURES_SHOWN], _describe_failure)
    ]


def _describe_failure(row: Attempt) -> tuple[str, ErrorText]:
    error = split_error(_get_tail(row))
    shown = ErrorText(_take_end(error.cause), _take_end(error.traceback))
    return f"{row.shard.stage.title}, shard {row.shard.index}", shown


def _make_failed_attempt(row: Attempt) -> FailedAttempt:
    status = row.get_status_display()
    return FailedAttempt(row.pk, row.number, status, row.finished, row.worker, row.pid)


def paginate_shards(
    iteration: Iteration, *, stage: str, status: str, page: str | None
) -> tuple[Page[Shard], list[ShardView]]:
    """Load a page of an iteration's shards with their attempts.

    Args:
        stage, status: filters; empty for all.
    """
    rows = Shard.objects.filter(stage__iteration=iteration).order_by("stage__position", "index")
    if stage:
        rows = rows.filter(stage__name=stage)
    if status in ShardStatus.values:
        rows = rows.filter(status=status)
    attempts = _annotate_tails(Attempt.objects.order_by("number"))
    rows = rows.select_related("stage").prefetch_related(Prefetch("attempts", attempts))
    found = Paginator(rows, SHARDS_ON_A_PAGE).get_page(page)
    return found, [_make_shard_view(row) for row in found.object_list]


def _make_shard_view(row: Shard) -> ShardView:
    made = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in row.counts.items())
    tries = [AttemptView(attempt, _get_last_lines(attempt)) for attempt in row.attempts.all()]
    return ShardView(row, made, tries)


def _annotate_tails(attempts: QuerySet[Attempt]) -> QuerySet[Attempt]:
    """Load only the end of the messages of attempts."""
    return attempts.annotate(tail=Right("error", _CHARS_SHOWN)).defer("error")


def _get_tail(attempt: Attempt) -> str:
    tail: str = attempt.tail  # type: ignore[attr-defined]
    return tail


def _get_last_lines(attempt: Attempt) -> str:
    return _take_end(_get_tail(attempt).strip())


def _take_end(text: str) -> str:
    return "\n".join(text.splitlines()[-_LINES_SHOWN:])
