"""Events of what was done by a command, which nobody had to sign in for."""

import getpass
import logging
import os

from django.db import DatabaseError

from webapp.people.events import note
from webapp.people.models import EventKind
from workers.machine import machine_name

_log = logging.getLogger(__name__)


def note_command(kind: EventKind, subject: str, *, detail: str = "") -> None:
    """Note what a command did, under the name that the shell's user has on this machine.

    What needs no database, such as an export, is not undone because there is none; it is logged.
    """
    who = f"{_user_name()} on {machine_name()}"
    try:
        note(kind, subject, detail=f"{detail}, by {who}" if detail else f"by {who}")
    except DatabaseError as error:
        _log.warning("not noted: %s, %s, by %s: %s", kind.label, subject, who, error)


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
