"""At startup, close this installation's data to the other users of the machine.

The database contains password hashes, session keys and second-factor secrets; prompts, uploads and
backups may be private. A folder may have existed before, with any mode and any owner, so existing
folders and files are checked: open ones are closed, and those of another user, who could open them
again at any time, are refused.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from webapp.paths import VAR_ROOT, get_runtime_folder

_UMASK: Final = 0o077
_OTHERS: Final = 0o077
_SQLITE: Final = "django.db.backends.sqlite3"
_SQLITE_FILES: Final = ("", "-wal", "-shm", "-journal")


class ForeignFolderError(ImproperlyConfigured):
    """A folder or file with secrets belongs to another user, or cannot be closed."""


def close_private_folders() -> list[str]:
    """Create the installation's folder, and remove other users' access to everything in it.

    From now on this process and its children create files that only their owner can read.

    Returns:
        One sentence for each closed path.

    Raises:
        ForeignFolderError: something belongs to another user, or cannot be closed.
    """
    os.umask(_UMASK)
    VAR_ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_fixed_place(VAR_ROOT)
    return [told for path in _iter_private_paths() if (told := close_to_others(path))]


def close_to_others(path: Path) -> str:
    """Remove the permissions of other users; return a sentence about it, empty if unchanged.

    Raises:
        ForeignFolderError: it belongs to another user, or cannot be closed.
    """
    try:
        _require_own_link(path)
        found = path.stat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ForeignFolderError(f"{path} cannot be inspected: {error}") from error
    if found.st_uid != os.geteuid():
        raise ForeignFolderError(
            f"{path} belongs to another user (uid {found.st_uid}, and this is uid {os.geteuid()}), "
            "who could read the secrets in it: run this as that user, change the owner "
            "(chown), or choose another folder (META_REWARD_VAR)"
        )
    mode = stat.S_IMODE(found.st_mode)
    if not mode & _OTHERS:
        return ""
    try:
        path.chmod(mode & ~_OTHERS)
    except OSError as error:
        raise ForeignFolderError(
            f"{path} is accessible to other users (mode {mode:04o}), and its permissions could not "
            f"be restricted: {error}"
        ) from error
    return f"removed access to {path} for other users of this machine (its mode was {mode:04o})"


def _require_own_link(path: Path) -> None:
    """Refuse a link of another user, who can point it elsewhere at any time.

    Raises:
        ForeignFolderError: the path is such a link.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in {0, os.geteuid()}:
        raise ForeignFolderError(
            f"{path} is a link of another user (uid {found.st_uid}), who could point it elsewhere: "
            "remove it, or choose another folder (META_REWARD_VAR, TMPDIR)"
        )


def _require_fixed_place(folder: Path) -> None:
    """Refuse a folder that other users could replace.

    Raises:
        ForeignFolderError: all users may rename entries of a folder on its path.
    """
    for parent in folder.resolve().parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ForeignFolderError(
                f"{parent} is writable for all users (mode {mode:04o}), who could replace "
                f"{folder}: remove that permission (chmod o-w), or use another folder "
                f"(META_REWARD_VAR)"
            )


def _iter_private_paths() -> Iterator[Path]:
    yield VAR_ROOT
    yield get_runtime_folder()
    yield VAR_ROOT / "secret_key"
    for root in (
        settings.META_REWARD_UPLOAD_ROOT,
        settings.META_REWARD_BROKER_ROOT,
        settings.META_REWARD_SCRATCH_ROOT,
        settings.META_REWARD_LOG_ROOT,
    ):
        yield Path(root)
    database = settings.DATABASES["default"]
    if database["ENGINE"] == _SQLITE:
        yield from (Path(f"{database['NAME']}{end}") for end in _SQLITE_FILES)
