"""Commands that messages and pages tell users to type."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from meta_reward_core.errors import InputError

IN_CHECKOUT: Final = (Path(__file__).resolve().parents[2] / "manage.py").is_file()
"""Whether this is a copy of the repository, and not an installed package."""


def format_command(*words: str) -> str:
    """Format a command that works as printed, in the current folder."""
    program = [_get_interpreter(), "manage.py"] if IN_CHECKOUT else ["meta-reward"]
    return shlex.join([*program, *words])


def make_missing_experiment_error(name: str, *, root: str | None = None) -> InputError:
    """Build the error for an experiment that does not exist.

    Args:
        root: folder that was searched for its files; None if the database was searched.
    """
    place = "" if root is None else f" under {root}"
    return InputError(
        f"experiment {name!r}{place} does not exist: see {format_command('list_experiments')}"
    )


def _get_interpreter() -> str:
    """Return `python` if it runs this process, else the path of the interpreter."""
    running, here = Path(sys.executable), Path.cwd()
    if shutil.which("python") == str(running):
        return "python"
    return str(running.relative_to(here) if running.is_relative_to(here) else running)
