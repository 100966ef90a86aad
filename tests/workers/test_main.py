"""`manage.py` before any command."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from webapp import private_folders
from webapp.private_folders import ForeignFolderError, close_to_others

CHECKOUT = Path(__file__).parents[2]


def run(var: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(CHECKOUT / "manage.py"), "version"]
    given = os.environ | {"META_REWARD_VAR": str(var), "TMPDIR": str(var.parent)} | environment
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_here_is_closed_to_others(tmp_path: Path) -> None:
    var = tmp_path / "new" / "var"
    assert run(var).returncode == 0
    assert mode_of(var) == 0o700


def test_what_was_open_is_closed_and_said(tmp_path: Path) -> None:
    """All at once, because each run of a command takes a second."""
    var, database = tmp_path / "var", tmp_path / "elsewhere.sqlite3"
    uploads = var / "uploads"
    uploads.mkdir(parents=True)
    files = [database, tmp_path / "elsewhere.sqlite3-wal", var / "secret_key"]
    for file in files:
        file.write_text("")
        file.chmod(0o664)
    for folder in (var, uploads):
        folder.chmod(0o755)
    done = run(var, DATABASE_URL=f"sqlite:///{database}")
    assert done.returncode == 0
    assert [mode_of(path) for path in (var, uploads)] == [0o700, 0o700]
    assert [mode_of(path) for path in files] == [0o600, 0o600, 0o600]
    for path in (var, uploads, *files):
        assert f"removed access to {path} for other users" in done.stderr


def test_files_that_this_process_makes_are_its_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o022)
    try:
        monkeypatch.setattr(private_folders, "VAR_ROOT", tmp_path / "var")
        monkeypatch.setattr(private_folders, "_iter_private_paths", lambda: iter(()))
        private_folders.close_private_folders()
        (tmp_path / "file").write_text("")
        assert mode_of(tmp_path / "file") == 0o600
    finally:
        os.umask(before)


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.private_folders.os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ForeignFolderError, match="belongs to another user"):
        close_to_others(tmp_path)


def test_a_folder_that_cannot_be_closed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)

    def refuse(*_: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(ForeignFolderError, match="could not be restricted"):
        close_to_others(tmp_path)


@pytest.mark.parametrize("below", ["var", "app/var"])
def test_a_folder_that_everybody_may_exchange_is_refused(tmp_path: Path, below: str) -> None:
    tmp_path.chmod(0o777)
    done = run(tmp_path / below, TMPDIR="/tmp")
    assert done.returncode == 1
    assert "is writable for all users" in done.stderr


def test_a_link_of_somebody_else_is_refused_and_what_it_leads_to_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.mkdir(mode=0o755)
    there.chmod(0o755)
    link.symlink_to(there)
    if os.geteuid() == 0:
        os.lchown(link, 54321, -1)
    else:
        monkeypatch.setattr("webapp.private_folders.os.geteuid", lambda: link.stat().st_uid + 1)
    with pytest.raises(ForeignFolderError, match="is a link of another user"):
        close_to_others(link)
    assert mode_of(there) == 0o755


def test_an_own_link_is_followed(tmp_path: Path) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.mkdir()
    there.chmod(0o755)
    link.symlink_to(there)
    assert "removed access to" in close_to_others(link)
    assert mode_of(there) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_command_says_whose_folder_it_does_not_use(tmp_path: Path) -> None:
    var = tmp_path / "var"
    var.mkdir()
    os.chown(var, 54321, -1)
    done = run(var)
    assert done.returncode == 1
    assert "uid 54321" in done.stderr
