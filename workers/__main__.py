"""Django's command line: `meta-reward`, `python -m workers`, and `manage.py` in a checkout."""

import os
import sys
from contextlib import AbstractContextManager
from typing import Final

from meta_reward_core.cli.renamed_options import show_deprecations_briefly
from meta_reward_core.errors import SettingsError
from meta_reward_core.system.settings import check_settings

_SERVICES: Final = ("serve", "worker", "reconcile", "runserver")


def main() -> None:
    """Run one command."""
    try:
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError:
        sys.exit(
            "the site's packages are not installed for this Python. In a checkout: make setup, "
            "then source .venv/bin/activate. Elsewhere: pip install 'meta-reward[web]', or use the "
            "core alone: meta-reward-core --help"
        )
    show_deprecations_briefly()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    _require_valid_settings()
    _close_private_folders()
    with _use_command_source():
        execute_from_command_line(sys.argv)


def _use_command_source() -> AbstractContextManager[None]:
    """Record actions of commands with source CLI, and actions of services with source system."""
    from webapp.activity.request_tracking import use_source

    is_service = len(sys.argv) > 1 and sys.argv[1] in _SERVICES
    return use_source("system" if is_service else "cli")


def _require_valid_settings() -> None:
    try:
        check_settings()
    except SettingsError as error:
        sys.exit(str(error))


def _close_private_folders() -> None:
    """Close private folders to other users, or explain why no command can run."""
    from django.core.exceptions import ImproperlyConfigured

    from webapp.private_folders import ForeignFolderError, close_private_folders

    try:
        for told in close_private_folders():
            sys.stderr.write(f"{told}\n")
    except ForeignFolderError as error:
        sys.exit(str(error))
    except ImproperlyConfigured:
        return


if __name__ == "__main__":
    main()
