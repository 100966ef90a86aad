"""The tiers of the tests, and the guard that keeps them fast."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiers import LIMIT_SECONDS, LONGEST_FIRST, QUICK, TESTS, tier_of

CHECKOUT = Path(__file__).parents[2]

ONE_SECOND = """
from tests import tiers

tiers.LIMIT_SECONDS["quick"] = 1


def pytest_collection_modifyitems(items):
    tiers.set_limits(items)
"""


def run_pytest(folder: Path, tests: str) -> "subprocess.CompletedProcess[str]":
    """Run tests in a process whose quick tests may take one second."""
    (folder / "conftest.py").write_text(ONE_SECOND)
    (folder / "test_some.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_timeout"]
    return subprocess.run(
        [*command, "-c", "/dev/null", "--rootdir", str(folder), str(folder)],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_test_over_the_limit_of_its_tier_fails_with_its_name(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        "import time\n"
        "def test_that_is_quick(): pass\n"
        "def test_that_takes_too_long(): time.sleep(20)\n",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Timeout (>1.0s)" in done.stdout
    assert "::test_that_takes_too_long" in done.stdout.partition("short test summary")[2]
    assert "1 failed, 1 passed" in done.stdout


def test_a_slow_set_up_counts_too(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        "import pytest, time\n"
        "@pytest.fixture\n"
        "def slow(): time.sleep(20)\n"
        "def test_that_waits(slow): pass\n",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_that_waits" in done.stdout
    assert "Timeout (>1.0s)" in done.stdout


def test_a_quick_test_cannot_set_its_own_limit(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "import pytest\n@pytest.mark.timeout(60)\ndef test_long(): pass\n")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert "test_long sets its own time limit: mark it slow" in done.stdout + done.stderr


def test_the_longest_files_exist() -> None:
    assert [name for name in LONGEST_FIRST if not (TESTS / name).exists()] == []


def test_every_test_of_this_run_has_a_limit(request: pytest.FixtureRequest) -> None:
    limits = {
        item.nodeid: (tier_of(item), item.get_closest_marker("timeout"))
        for item in request.session.items
    }
    assert all(marker is not None for _, marker in limits.values())
    quick = {marker.args[0] for tier, marker in limits.values() if marker and tier == QUICK}
    assert quick == {LIMIT_SECONDS[QUICK]}
