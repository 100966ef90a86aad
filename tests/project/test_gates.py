"""The gates that a person could forget to run: import contracts, lint, formatting, migrations."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

PACKAGES = ("meta_reward_core", "webapp", "workers")

GATES = {
    "import contracts": [str(BIN / "lint-imports")],
    "lint": [str(BIN / "ruff"), "check", "."],
    "formatting": [str(BIN / "ruff"), "format", "--check", "."],
    "security": [str(BIN / "bandit"), "-q", "-c", "pyproject.toml", "-r", *PACKAGES, "manage.py"],
    "types": [str(BIN / "mypy"), "."],
    "migrations": [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"],
    "django": [sys.executable, "manage.py", "check", "--fail-level", "WARNING"],
}


@pytest.mark.parametrize("command", GATES.values(), ids=GATES.keys())
def test_the_gate_is_open(command: list[str]) -> None:
    found = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
