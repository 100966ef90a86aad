"""The session signing key, generated once and stored in a file if the settings have none."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

from django.utils.functional import lazystr


def read_or_make_key(path: Path) -> str:
    """Read the session signing key from its file; generate one if there is none.

    Only the owner can read the file. It is written atomically, so if several processes start at
    once, one of them generates the key for all.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(64))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
    return path.read_text().strip()


class LocalKey:
    """The key as a string that is read or generated on first use, not at import."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: str | None = None

    def __str__(self) -> str:
        if self._key is None:
            self._key = read_or_make_key(self._path)
        return self._key


def make_lazy_key(path: Path) -> Any:
    """Represent the key in `path` without accessing the file system yet."""
    return lazystr(LocalKey(path))
