"""Statuses as users see them: the same names on pages, in URLs, the API and messages."""

from typing import Final, Protocol

from django.db.models import TextChoices

from webapp.experiments.models import Iteration, RunStatus


class HasStatus(Protocol):
    """A row with a status."""

    status: str

    def get_status_display(self) -> str:
        """Status as users see it."""


def get_public_status(row: HasStatus) -> str:
    """Return the status of a row for URLs and the API, such as `needs_attention`."""
    return write_public_status(row.get_status_display())


def write_public_status(label: str) -> str:
    """Convert a displayed status to a single word."""
    return label.replace(" ", "_")


def _list_choices(choices: type[TextChoices]) -> tuple[tuple[str, str], ...]:
    return tuple({write_public_status(label): label for label in choices.labels}.items())


RUN_STATUSES: Final = _list_choices(RunStatus)
"""Each status of an experiment or iteration, with its public name and its label for users."""


HELD_AT_GATE: Final = "waits before training: "
"""Prefix of the message of an iteration that the audit gate blocks before training."""


def is_held_at_gate(iteration: Iteration) -> bool:
    """Whether an iteration needs attention because of the audit gate."""
    return iteration.status == RunStatus.NEEDS_ATTENTION and iteration.message.startswith(
        HELD_AT_GATE
    )


def find_run_statuses(word: str) -> list[RunStatus]:
    """Return the stored statuses of a public status.

    Args:
        word: a public status, or a stored one, which earlier versions used in URLs.
    """
    return [
        status
        for status in RunStatus
        if word in (status.value, write_public_status(status.label), status.label)
    ]
