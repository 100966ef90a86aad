"""Folders that the site may not read or write: pages say so, and none fails."""

import contextlib
import ctypes
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

CAPABILITY_VERSION: Final = 0x20080522
READ_AND_WRITE_ANY_FILE: Final = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
ROOTS: Final = ("ARTIFACT", "MODEL", "PUBLISH", "UPLOAD", "LOG", "EVALUATION", "SCRATCH")


@contextlib.contextmanager
def obey_file_permissions() -> Iterator[None]:
    """Give up root's right to ignore file permissions, in this thread; see capset(2).

    Acting as another user would also hide a checkout that only root can read.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    if libc.capget(header, before) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    reduced = type(before)(*before)
    reduced[0] &= ~READ_AND_WRITE_ANY_FILE
    if libc.capset(header, reduced) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        libc.capset(header, before)


@contextlib.contextmanager
def close_folders(folders: list[Path]) -> Iterator[None]:
    """Take every permission on the folders away, from root too."""
    for folder in folders:
        folder.chmod(0)
    try:
        with obey_file_permissions():
            yield
    finally:
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
