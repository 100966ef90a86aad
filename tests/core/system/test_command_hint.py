"""A command that a message shows works where it is shown."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from meta_reward_core.system import command_hint
from meta_reward_core.system.command_hint import format_command

CHECKOUT = Path(__file__).parents[3]


def test_it_works_as_it_is_printed() -> None:
    """In the checkout, in a shell that knows no `python` of ours."""
    assert Path.cwd() == CHECKOUT
    shown = format_command("run_iteration", "--help")
    done = subprocess.run(
        shown, shell=True, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--experiment NAME" in done.stdout


def test_an_environment_that_is_active_is_called_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setattr(sys, "executable", str(Path(sys.executable).with_name("python")))
    assert format_command("migrate") == "python manage.py migrate"


def test_an_interpreter_is_named_from_here_where_it_lies_below(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my venv/bin/python"))
    monkeypatch.chdir(tmp_path)
    assert shlex.split(format_command("report", "a b")) == [
        "my venv/bin/python", "manage.py", "report", "a b",
    ]  # fmt: skip
    monkeypatch.chdir("/")
    assert shlex.split(format_command("report"))[0] == str(tmp_path / "my venv/bin/python").lstrip(
        "/"
    )


def test_an_installed_package_has_a_program_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_hint, "IN_CHECKOUT", False)
    assert format_command("report", "a b") == "meta-reward report 'a b'"
