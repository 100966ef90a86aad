"""An SQLite database with every table and no row, made once and kept until code of it changes.

Its migrations take longer than most tests: processes and runs of one checkout share the file.
"""

import hashlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final

from filelock import FileLock

CHECKOUT: Final = Path(__file__).parents[1]
_FOLDER: Final = CHECKOUT / ".pytest_cache" / "databases"


@cache
def find_migrated_database() -> Path:
    """The shared file; copy it, do not write to it."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    path = _FOLDER / f"{_hash_sources()}.sqlite3"
    with FileLock(_FOLDER / ".lock"):
        if not path.exists():
            for earlier in _FOLDER.glob("*.sqlite3"):
                earlier.unlink()
            _migrate(path)
    return path


def load_migrated_database(connection: sqlite3.Connection) -> None:
    """Replace everything in a database by what stands in the shared file."""
    with closing(sqlite3.connect(f"{find_migrated_database().as_uri()}?mode=ro", uri=True)) as made:
        made.backup(connection)


def copy_database(source: Path, target: Path) -> None:
    """Replace everything in a database, which a server may have open, by what another holds."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


def _hash_sources() -> str:
    """Hash what its tables and rows come from: the code of the site and Django's own apps."""
    digest = hashlib.sha256((CHECKOUT / "constraints.txt").read_bytes())
    for source in sorted((CHECKOUT / "webapp").rglob("*.py")):
        digest.update(f"{source.relative_to(CHECKOUT)}\n".encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _migrate(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_FOLDER) as folder:
        made = Path(folder, "db.sqlite3")
        migrated = subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
            cwd=CHECKOUT,
            env=os.environ
            | {
                "META_REWARD_VAR": folder,
                "META_REWARD_SECRET_KEY": "for tests alone",
                "DATABASE_URL": f"sqlite:///{made}",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert migrated.returncode == 0, migrated.stdout + migrated.stderr
        made.replace(path)
