"""The tiers of the tests, and how long one test of each may take.

A test that takes longer fails with its name, so a tier stays as fast as CONTRIBUTING.md says. The
limits are several times what the slowest test of a tier takes on two quiet cores, because a machine
that runs other work is slow, not wrong.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

QUICK: Final = "quick"
LIMIT_SECONDS: Final = {QUICK: 600, "slow": 1800, "faults": 1800, "vllm": 900, "gpu": 900}
"""Longest time of one test with its fixtures, by tier; a test without a marker is quick."""

LONGEST_FIRST: Final = (
    *("ui/test_pages.py", "end_to_end/test_adjudication.py", "end_to_end/test_dashboard.py"),
    *("workers/test_queue.py", "faults/test_matrix.py", "end_to_end/test_serve.py"),
    *("project/test_postgresql.py", "end_to_end/test_audit_annotation.py"),
    *("core/engines/test_openai_iteration.py", "workers/test_scheduling.py"),
    *("workers/test_change_settings.py", "workers/test_audit_gate.py"),
    *("core/training/test_weighting.py", "upgrades/test_earlier_versions.py"),
    *("core/test_changed_settings.py", "webapp/test_adjudication.py"),
    *("webapp/test_audit_annotation.py", "webapp/test_authorization.py", "workers/test_prune.py"),
    *("core/engines/test_openai.py", "core/training", "workers/test_broker.py"),
    *("end_to_end", "project", "upgrades", "ui"),
)
"""Files and folders whose tests take longest, the longest first: processes share them well."""

TESTS: Final = Path(__file__).parent


def rank_by_duration(item: pytest.Item) -> int:
    """Give the place of a test's file among the longest; the others come after them."""
    path = item.path.relative_to(TESTS).as_posix() if TESTS in item.path.parents else ""
    return next(
        (place for place, name in enumerate(LONGEST_FIRST) if path.startswith(name)),
        len(LONGEST_FIRST),
    )


def tier_of(item: pytest.Item) -> str:
    """Find the tier of a test by its markers."""
    return next((tier for tier in LIMIT_SECONDS if item.get_closest_marker(tier)), QUICK)


def set_limits(items: Iterable[pytest.Item]) -> None:
    """Give every test the limit of its tier, unless its tier lets it have one of its own.

    Raises:
        pytest.UsageError: a quick test asks for a limit of its own; it belongs to another tier.
    """
    for item in items:
        tier, own = tier_of(item), item.get_closest_marker("timeout")
        if own is None:
            item.add_marker(pytest.mark.timeout(LIMIT_SECONDS[tier]))
        elif tier == QUICK:
            raise pytest.UsageError(
                f"{item.nodeid} sets its own time limit: mark it slow, or make it faster"
            )
