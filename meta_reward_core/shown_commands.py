"""Commands of ours that a message or a page tells somebody to type."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from meta_reward_core.errors import InputError

IN_CHECKOUT: Final = (Path(__file__).resolve().parent.parent / "manage.py").is_file()
"""Whether this is a copy of the repository, and not an installed package."""


def manage(*words: str) -> str:
    """A command of ours that works as it is printed, in the folder where it is printed."""
    program = [_interpreter(), "manage.py"] if IN_CHECKOUT else ["meta-reward"]
    return shlex.join([*program, *words])


def no_experiment(name: str, *, root: str | None = None) -> InputError:
    """What every command says of an experiment that is not there.

    Args:
        root: where its files were looked for; None where its rows were.
    """
    place = "" if root is None else f" under {root}"
    return InputError(f"there is no experiment {name!r}{place}: see {manage('list_experiments')}")


def _interpreter() -> str:
    """`python` where that is who runs this; else its path, from here if it lies below."""
    running, here = Path(sys.executable), Path.cwd()
    if shutil.which("python") == str(running):
        return "python"
    return str(running.relative_to(here) if running.is_relative_to(here) else running)
