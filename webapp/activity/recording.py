"""Record actions. All rows of the activity log are created here."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, Protocol

from django.contrib.auth.models import User
from django.http import HttpRequest

from meta_reward_core.errors import InputError
from webapp.activity.models import (
    REASON_REQUIRED,
    SECURITY_ACTIONS,
    Action,
    Activity,
    ObjectType,
    Source,
    Values,
)
from webapp.activity.request_tracking import get_client_address, get_current_request, get_source

BY_A_COMMAND: Final = "a command"
BY_THE_SYSTEM: Final = "the system"
BY_A_VISITOR: Final = "an anonymous visitor"

_NAME_CHARS: Final = 150
_OBJECT_CHARS: Final = 255
_EXPERIMENT_CHARS: Final = 64
_is_recording: ContextVar[bool] = ContextVar("is_recording", default=True)


class NamedRow(Protocol):
    """The parts of an experiment that a record needs."""

    @property
    def pk(self) -> Any:
        """Its primary key."""

    @property
    def name(self) -> Any:
        """Its name."""


@contextlib.contextmanager
def mute_activity() -> Iterator[None]:
    """Record nothing in this context: a restore includes its own activity rows."""
    token = _is_recording.set(False)
    try:
        yield
    finally:
        _is_recording.reset(token)


def record_activity(
    action: Action,
    *,
    object_type: ObjectType,
    object_id: int | None = None,
    object_name: str = "",
    experiment: NamedRow | None = None,
    experiment_name: str = "",
    iteration: int | None = None,
    job_id: int | None = None,
    by: User | None = None,
    by_name: str = "",
    reason: str = "",
    before: Values | None = None,
    after: Values | None = None,
    details: str = "",
    request: HttpRequest | None = None,
    source: Source | None = None,
) -> None:
    """Add a row to the activity log, in the current transaction.

    Args:
        object_name: what the object is called; by default the name of the experiment.
        experiment: the experiment that the action is about; decides who sees the row.
        experiment_name: name of an experiment that has no row yet, or no longer has one.
        by: the user who did it, if not the user of the current request.
        by_name: name of what did it, if it was not an account, such as "the gate".
        request: the request, if not the current one.
        source: how the action was requested; by default, the current source.

    Raises:
        InputError: the action requires a reason and none was given.
    """
    if not _is_recording.get():
        return
    if action in REASON_REQUIRED and not reason.strip():
        raise InputError(f"give a reason: it is required to record {action.label!r}")
    request = request or get_current_request()
    found = source or Source(get_source(request))
    actor = by or getattr(request, "user", None)
    user = actor if isinstance(actor, User) and actor.pk else None
    name = experiment.name if experiment is not None else experiment_name
    Activity.objects.create(
        actor=user,
        actor_name=(user.get_username() if user else by_name or _name_nobody(request, found))[
            :_NAME_CHARS
        ],
        source=found,
        action=action,
        object_type=object_type,
        object_id=object_id,
        object_name=(object_name or name)[:_OBJECT_CHARS],
        experiment_id=experiment.pk if experiment is not None else None,
        experiment_name=name[:_EXPERIMENT_CHARS],
        iteration=iteration,
        job_id=job_id,
        reason=reason.strip(),
        before=dict(before or {}),
        after=dict(after or {}),
        details=details,
        address=get_client_address(request),
    )


def _name_nobody(request: HttpRequest | None, source: Source) -> str:
    if request is not None:
        return BY_A_VISITOR
    return BY_A_COMMAND if source == Source.CLI else BY_THE_SYSTEM


def prune_account_activity(since: datetime) -> int:
    """Delete security events older than `since`; rows are deleted in no other way.

    Returns:
        The number of rows deleted.
    """
    old = Activity._base_manager.filter(created__lt=since, action__in=SECURITY_ACTIONS)
    return old.delete()[0]
