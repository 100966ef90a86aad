"""The site as `manage.py serve` starts it."""

import time
from pathlib import Path

import psutil
import pytest
from pytest_django.fixtures import Settings

from tests.services import free_port
from workers.ops.services import make_web_service


def test_there_are_as_many_web_processes_as_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.META_REWARD_WEB_CONCURRENCY = 3
    monkeypatch.setenv("META_REWARD_VAR", str(tmp_path))
    site = make_web_service("127.0.0.1", free_port()).start()
    assert site is not None
    with site:
        until = time.monotonic() + 30
        while count_children(site.pid) < 3 and time.monotonic() < until:
            time.sleep(0.1)
        found = count_children(site.pid)
        site.terminate()
        site.communicate(timeout=30)
    assert found == 3


def count_children(pid: int) -> int:
    return len(psutil.Process(pid).children())
