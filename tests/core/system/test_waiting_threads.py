"""Threads of torch do not spin for long: said to libgomp before torch is loaded, once."""

import os
import subprocess
import sys

import pytest

_TELL = (
    "import sys, meta_reward_core, os; assert 'torch' not in sys.modules;"
    "print(os.environ.get('GOMP_SPINCOUNT'))"
)


def _told(**settings: str) -> str:
    unset = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    child = subprocess.run(
        [sys.executable, "-c", _TELL],
        env=environment | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return child.stdout.strip()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "20000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_the_wait_is_short_unless_somebody_has_said_otherwise(
    settings: dict[str, str], told: str
) -> None:
    assert _told(**settings) == told
