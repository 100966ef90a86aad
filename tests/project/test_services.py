"""What a machine lacks for the tests is told, never skipped."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import services

SCRIPT = Path(__file__).parents[1] / "services.sh"


def test_a_server_that_is_missing_fails_the_test_and_says_how_to_install_it() -> None:
    with pytest.raises(AssertionError, match="apt-get install --yes postgresql"):
        services._program("no-such-program")


def test_the_script_is_quick_where_nothing_is_missing(postgres_url: str) -> None:
    done = subprocess.run([SCRIPT], env=os.environ, capture_output=True, timeout=5, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
