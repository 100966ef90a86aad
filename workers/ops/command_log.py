"""Events of what was done by a command, which nobody had to sign in for."""

import getpass
import logging
import os

from django.db import DatabaseError

from webapp.accounts.models import EventKind
from webapp.accounts.security_log import log_event
from workers.ops.host import get_machine_name

_log = logging.getLogger(__name__)


def log_command(kind: EventKind, subject: str, *, detail: str = "") -> None:
    """Note what a command did, under the name that the shell's user has on this machine.

    What needs no database, such as an export, is not undone because there is none; it is logged.
    """
    who = f"{_get_user_name()} on {get_machine_name()}"
    try:
        log_event(kind, subject, detail=f"{detail}, by {who}" if detail else f"by {who}")
    except DatabaseError as error:
        _log.warning("not noted: %s, %s, by %s: %s", kind.label, subject, who, error)


def _get_user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
