"""Actions on several experiments selected in the run table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from django.contrib.auth.models import User

from webapp.accounts.permissions import can_control, get_visible_experiments
from webapp.experiments.actions import list_actions, list_jobs
from webapp.experiments.details import StillRunningError, archive_experiment, restore_experiment
from webapp.experiments.jobs import enqueue_job
from webapp.experiments.models import Experiment, JobKind

ARCHIVE: Final = "archive"
RESTORE: Final = "restore"
BULK_ACTIONS: Final = {
    JobKind.PAUSE.value: "Pause",
    JobKind.CANCEL.value: "Stop",
    ARCHIVE: "Archive",
    RESTORE: "Restore",
}
MAX_CHOSEN: Final = 200

_PAST: Final = {
    JobKind.PAUSE.value: "Pause requested",
    JobKind.CANCEL.value: "Stop requested",
    ARCHIVE: "Archived",
    RESTORE: "Restored",
}


@dataclass(slots=True)
class BulkResult:
    """Result of a bulk action.

    Attributes:
        done: names of the changed experiments.
        skipped: reasons for the skipped experiments, each with the experiment's name.
    """

    kind: str
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """Summary of what was done."""
        if not self.done:
            return ""
        count = len(self.done)
        return f"{_PAST[self.kind]}: {self.done[0] if count == 1 else f'{count} experiments'}."


def find_chosen(user: User, names: Sequence[str]) -> list[Experiment]:
    """Return the visible experiments with these names, in the order of the names."""
    rows = get_visible_experiments(user).filter(name__in=names[:MAX_CHOSEN])
    found = {row.name: row for row in rows.prefetch_related("iterations")}
    return [found[name] for name in dict.fromkeys(names) if name in found]


def apply_to_all(kind: str, rows: Sequence[Experiment], *, by: User) -> BulkResult:
    """Apply an action to each experiment that allows it, and explain why others do not."""
    result = BulkResult(kind)
    for row in rows:
        why = _apply(kind, row, by)
        if why:
            result.skipped.append(f"{row}: {why}")
        else:
            result.done.append(row.name)
    return result


def _apply(kind: str, row: Experiment, by: User) -> str:
    """Apply the action; return why it failed, or an empty text."""
    if not can_control(by, row):
        return "owned by another user"
    if kind == ARCHIVE:
        try:
            return "" if archive_experiment(row, by=by) else "already archived"
        except StillRunningError:
            return "running; pause or stop it first"
    if kind == RESTORE:
        return "" if restore_experiment(row, by=by) else "not archived"
    if not any(button.do == kind for button in list_actions(row, list_jobs(row))):
        return f"cannot {BULK_ACTIONS[kind].lower()} ({row.get_status_display()})"
    enqueue_job(JobKind(kind), by=by, experiment=row)
    return ""
