"""The web tests again, on a real PostgreSQL, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_the_web_tests_pass_on_postgresql(postgres_url: str) -> None:
    proof = "import webapp.settings as s; assert 'postgresql' in s.DATABASES['default']['ENGINE']"
    environment = os.environ | {"DATABASE_URL": postgres_url}
    for command in (["-c", proof], ["-m", "pytest", "--quiet", "tests/webapp"]):
        run = subprocess.run(
            [sys.executable, *command],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
