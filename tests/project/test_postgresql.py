"""Tests of rows again, on a real PostgreSQL, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

CHECKOUT = Path(__file__).parents[2]

DIFFERENT = (
    "tests/webapp/test_models.py",  # JSON, dates, constraints
    "tests/webapp/test_activity_log.py::test_source_and_days_narrow_the_log",  # order of times
    "tests/webapp/test_activity_log.py::test_the_first_and_the_last_day_of_the_calendar_are_days",
    "tests/workers/test_transitions.py",  # conditional updates
    "tests/workers/test_fair_queue.py",  # claims of shards
    "tests/workers/test_jobs.py",  # claims of jobs
    "tests/workers/test_leases.py::test_concurrent_claims_give_no_duplicate[2-100]",
)
"""Tests of what the databases do differently."""
EVERYTHING = {
    "the pages": ("tests/webapp",),
    "the workers": (
        "tests/workers/test_leases.py",
        *("tests/workers/test_audit_gate.py", "tests/workers/test_create_experiment.py"),
        *("tests/workers/test_send_notifications.py", "tests/workers/test_prune.py"),
        *("tests/workers/test_run_iteration.py", "tests/workers/test_scheduling.py"),
    ),
}


PROGRAM = """
import sys, pytest, webapp.settings
assert "postgresql" in webapp.settings.DATABASES["default"]["ENGINE"]
sys.exit(pytest.main(sys.argv[1:]))
"""


def run_tests(database_url: str, name: str, *tests: str) -> None:
    """Run tests in an empty database of their own, which is their template, too."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    environment = os.environ | {"DATABASE_URL": f"{database_url.rpartition('/')[0]}/{name}"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--quiet", *tests],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_what_the_databases_do_differently_works_on_postgresql(postgres_url: str) -> None:
    run_tests(postgres_url, "different", *DIFFERENT)


@pytest.mark.slow
@pytest.mark.parametrize("tests", EVERYTHING.values(), ids=EVERYTHING)
def test_everything_with_rows_works_on_postgresql(
    postgres_url: str, tests: tuple[str, ...]
) -> None:
    run_tests(postgres_url, f"everything_{len(tests)}", *tests)
