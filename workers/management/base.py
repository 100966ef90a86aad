"""Shared parts of commands: examples in help, exit codes, terminal output, security events."""

import argparse
import contextlib
import getpass
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
    OutputWrapper,
)
from django.db import DatabaseError, connection
from rich.console import Console

from meta_reward_core.cli.options import EXIT_INTERRUPTED
from meta_reward_core.cli.terminal import make_console
from meta_reward_core.errors import InputError, MetaRewardError, StorageFullError
from meta_reward_core.models.library_errors import explain_library_error
from meta_reward_core.system.command_hint import format_command
from meta_reward_core.system.signals import interrupt_on_signal
from webapp.accounts.security_log import log_event
from webapp.activity.models import Action
from webapp.experiments.models import Experiment
from webapp.server_errors import is_disk_full
from workers.ops.host import get_machine_name

_log = logging.getLogger(__name__)


class _HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Lists a command's own options first; keeps examples verbatim."""


class ExemplifiedCommand(BaseCommand):
    """A command whose help ends with verbatim examples."""

    examples = ""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the lines of the examples."""
        return super().create_parser(
            prog_name,
            subcommand,
            epilog=self.examples,
            formatter_class=_HelpFormatter,
            **kwargs,
        )


@contextlib.contextmanager
def handle_errors(*, go_on: str = "") -> Iterator[None]:
    """Convert our errors to one message and an exit code.

    Args:
        go_on: command that resumes the work; printed after an interruption.
    """
    with interrupt_on_signal(signal.SIGTERM):
        try:
            yield
        except MetaRewardError as error:
            raise CommandError(str(error), returncode=error.exit_code) from error
        except CommandError:
            raise
        except KeyboardInterrupt as error:
            raise CommandError(
                f"stopped; finished work is kept. {go_on}".strip(),
                returncode=EXIT_INTERRUPTED,
            ) from error
        except Exception as error:
            translated = _translate_foreign_error(error)
            if translated is None:
                raise
            raise translated from error


def _translate_foreign_error(error: Exception) -> CommandError | None:
    """Translate errors of libraries, the disk or the database; None if unknown."""
    if is_disk_full(error):
        return CommandError(
            f"no room left on the disk ({error}): free space and run the same command again",
            returncode=StorageFullError.exit_code,
        )
    message = explain_library_error(error)
    return None if message is None else CommandError(message)


def require_tables() -> None:
    """Require the database tables.

    Raises:
        InputError: they are missing; the message includes the command that creates them.
    """
    if Experiment._meta.db_table not in connection.introspection.table_names():
        raise InputError(f"the database has no tables yet: run `{format_command('migrate')}` first")


def open_console(stdout: OutputWrapper, *, no_color: bool) -> Console:
    """Open a console on a command's stdout, which otherwise adds a newline to every line."""
    stdout.ending = ""
    return make_console(stdout, color=not no_color)


def log_command(action: Action, subject: str, *, detail: str = "") -> None:
    """Record an action of a command, under the name of the shell user.

    Commands that need no database, such as exports, do not fail without one; the action is logged
    instead.
    """
    who = describe_shell_user()
    try:
        log_event(action, subject, detail=detail, by_name=who)
    except DatabaseError as error:
        _log.warning("not recorded: %s, %s, by %s: %s", action.label, subject, who, error)


def describe_shell_user() -> str:
    """Return the names of the shell user and this machine."""
    return f"{_get_user_name()} on {get_machine_name()}"


def _get_user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
