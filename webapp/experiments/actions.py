"""Actions that users can request on an experiment, and jobs already requested."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django import forms
from django.utils import timezone

from webapp.experiments.jobs import PENDING
from webapp.experiments.models import (
    Driver,
    Experiment,
    Iteration,
    Job,
    JobKind,
    JobStatus,
    RunStatus,
)
from webapp.experiments.progress import get_latest_iteration, is_active
from webapp.experiments.statuses import is_held_at_gate

CONTROL_KINDS: Final = (
    JobKind.NEXT,
    JobKind.PAUSE,
    JobKind.CANCEL,
    JobKind.RESUME,
    JobKind.ACCEPT_PROBE,
)
SLOW_SECONDS: Final = 15.0
"""A job that is pending for longer is probably not being processed."""

_CANCELLABLE: Final = (RunStatus.PAUSED, RunStatus.INTERRUPTED, RunStatus.NEEDS_ATTENTION)
_JOBS_SHOWN: Final = 5
_PAUSE: Final = "Stops the running shards; completed ones are kept. Can be resumed."
_STOP: Final = "Also cancels the iterations after this one. Can be resumed."


class ActionForm(forms.Form):
    """A requested action; `iteration` is the number of the page to return to."""

    do = forms.ChoiceField(choices=[(kind.value, kind.label) for kind in CONTROL_KINDS])
    iteration = forms.IntegerField(required=False, min_value=1)


@dataclass(frozen=True, slots=True)
class ActionButton:
    """A button: its action, label and style.

    Attributes:
        explanation: what the action does, shown next to the button.
    """

    do: str
    label: str
    explanation: str = ""
    look: str = "quiet"


def list_jobs(experiment: Experiment) -> list[Job]:
    """List the latest jobs of an experiment, without playground turns."""
    jobs = experiment.jobs.exclude(kind=JobKind.CHAT).select_related("created_by")
    return list(jobs[:_JOBS_SHOWN])


def is_pending(job: Job) -> bool:
    """Whether the job is pending or running."""
    return job.status in PENDING


def is_stuck(jobs: Sequence[Job]) -> bool:
    """Whether a job has been pending for so long that nothing seems to process it."""
    long_ago = timezone.now() - timedelta(seconds=SLOW_SECONDS)
    return any(job.status == JobStatus.WAITING and job.created < long_ago for job in jobs)


def has_pending(experiment: Experiment, kind: JobKind) -> bool:
    """Whether an identical request is pending."""
    return experiment.jobs.filter(kind=kind, status__in=PENDING).exists()


def list_actions(experiment: Experiment, jobs: Sequence[Job]) -> list[ActionButton]:
    """List the actions that can be requested now; none while one is pending.

    The experiment's iterations should have been prefetched.
    """
    if any(job.kind in CONTROL_KINDS and is_pending(job) for job in jobs):
        return []
    latest = get_latest_iteration(experiment)
    if latest is None or latest.status == RunStatus.FINISHED:
        return (
            []
            if is_active(experiment)
            else [_make_next_action(1 if latest is None else latest.number + 1)]
        )
    return list(_iter_unfinished_actions(latest))


def can_request(iteration: Iteration, kind: JobKind) -> bool:
    """Whether an action can be requested on an iteration now: only on the latest one."""
    experiment = iteration.experiment
    if get_latest_iteration(experiment) != iteration:
        return False
    return any(found.do == kind for found in list_actions(experiment, list_jobs(experiment)))


def _make_next_action(number: int) -> ActionButton:
    explanation = f"The workers train M{number} from M{number - 1}."
    return ActionButton(JobKind.NEXT, f"Run iteration {number}", explanation, look="")


def _iter_unfinished_actions(iteration: Iteration) -> Iterator[ActionButton]:
    if iteration.status == RunStatus.RUNNING:
        yield from _iter_running_actions(iteration)
    elif iteration.status != RunStatus.NO_PAIRS:
        yield from _iter_stopped_actions(iteration)


def _iter_running_actions(iteration: Iteration) -> Iterator[ActionButton]:
    if iteration.driver != Driver.WORKERS or iteration.cancel_requested:
        return
    if iteration.pause_requested:
        yield ActionButton(JobKind.RESUME, "Cancel pause request", "The iteration keeps running.")
        yield _make_cancel_action()
    else:
        yield ActionButton(JobKind.PAUSE, "Pause", _PAUSE)
        yield ActionButton(JobKind.CANCEL, "Stop", _STOP, look="danger")


def _iter_stopped_actions(iteration: Iteration) -> Iterator[ActionButton]:
    is_held = is_held_at_gate(iteration)
    if is_held and iteration.driver == Driver.WORKERS:
        yield _make_cancel_action()  # it resumes by itself once the audit has passed
        return
    if iteration.status == RunStatus.NEEDS_ATTENTION and not is_held:
        yield ActionButton(
            JobKind.ACCEPT_PROBE,
            "Continue anyway",
            "Run the iteration despite the problem found in the judge probe or a finished shard.",
        )
    failed = iteration.status == RunStatus.FAILED
    label = "Retry" if failed else "Resume"
    again = " Failed shards are retried." if failed else ""
    yield ActionButton(JobKind.RESUME, label, f"Completed shards are kept.{again}", look="")
    if iteration.status in _CANCELLABLE:
        yield _make_cancel_action()


def _make_cancel_action() -> ActionButton:
    explanation = (
        "Stop within seconds and start no further iteration. Completed shards are kept: the "
        "iteration can be resumed at any time."
    )
    return ActionButton(JobKind.CANCEL, "Stop", explanation, look="danger")
