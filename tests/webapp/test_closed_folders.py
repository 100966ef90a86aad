"""Folders that the site may not read or write: pages say so, and none fails."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from tests.webapp import authorization
from tests.webapp.audit_fixtures import artifacts, draw, record
from webapp.experiments.models import Iteration

__all__ = ["artifacts"]

pytestmark = pytest.mark.django_db

NOBODY: Final = 65534
ROOTS: Final = ("ARTIFACT", "MODEL", "PUBLISH", "UPLOAD", "LOG", "EVALUATION", "SCRATCH")


@contextlib.contextmanager
def close_folders(folders: list[Path]) -> Iterator[None]:
    """Take every permission away; root, who has all of them, acts as somebody else meanwhile."""
    is_root = os.geteuid() == 0
    for folder in folders:
        folder.chmod(0)
    try:
        if is_root:
            os.seteuid(NOBODY)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for folder in folders:
            folder.chmod(0o700)


@pytest.fixture
def folders(tmp_path: Path, artifacts: Path, settings: Settings, alice: User) -> list[Path]:
    made = [tmp_path / name.lower() for name in ROOTS]
    for name, folder in zip(ROOTS, made, strict=True):
        folder.mkdir()
        setattr(settings, f"META_REWARD_{name}_ROOT", str(folder))
    shutil.copytree(artifacts / "scripted", made[0] / "scripted")
    row = record(made[0], owner=alice)
    Iteration.objects.filter(experiment=row).update(status="finished", model_out="c" * 64)
    draw(row, by=alice, auditors=[alice])
    return made


def test_no_page_fails_over_folders_without_permission(folders: list[Path], alice: User) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(alice)
    failed = {}
    with close_folders(folders):
        with pytest.raises(PermissionError):
            list(folders[0].iterdir())
        for address in authorization.every_address():
            path = address.path({"batch": 1, "job": 1})
            answer = client.get(path)
            if answer.status_code >= 500 and b"not permitted to access" not in answer.content:
                failed[path] = answer.status_code
        page = client.get("/experiments/scripted")
    assert failed == {}
    assert page.status_code == 503
    assert client.get("/experiments/scripted").status_code == 200
