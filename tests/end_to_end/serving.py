"""A `manage.py serve` of a test's own, and a census of all that it started; or the pages alone."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.databases import find_migrated_database
from tests.end_to_end.conftest import Site
from tests.services import free_port, short_folder

_CSRF_FIELD = r'name="csrfmiddlewaretoken" value="(\w+)"'
_TOKEN = r'(?<=name="csrfmiddlewaretoken" value=")\w+|(?<="X-CSRFToken": ")\w+'

CHECKOUT = Path(__file__).parents[2]

PARTS = {
    "broker": "valkey-server",
    "web": "-m gunicorn",
    "reconciler": "-m workers reconcile",
    "worker": "-m celery",
}


class Browser:
    """Keeps the cookies of one person, whatever site it asks on this machine."""

    def __init__(self) -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

    def get(self, port: int, path: str) -> str | None:
        """Read a page; None if nobody answers. What differs at every answer is left out."""
        try:
            return re.sub(_TOKEN, "", self._open(port, path))
        except OSError:  # refused, reset or late
            return None

    def sign_in(self, port: int, name: str, password: str) -> None:
        """Fill in the form."""
        values = {"username": name, "password": password}
        assert "Sign out" in self.submit(port, "/account/login", values)

    def submit(self, port: int, path: str, values: dict[str, str]) -> str:
        """Send the form of a page; give the page that follows."""
        token = re.search(_CSRF_FIELD, self._open(port, path, seconds=60))
        assert token
        given = {"csrfmiddlewaretoken": token[1], **values}
        return self._open(port, path, given, seconds=60)

    def _open(
        self, port: int, path: str, values: dict[str, str] | None = None, *, seconds: float = 5
    ) -> str:
        data = urllib.parse.urlencode(values).encode() if values else None
        address = f"http://127.0.0.1:{port}{path}"
        with self._opener.open(address, data=data, timeout=seconds) as page:
            return str(page.read().decode())


@dataclass
class Server:
    """One installation in a folder of its own."""

    root: Path
    extra: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    browser: "Browser" = field(default_factory=lambda: Browser())

    @property
    def environment(self) -> dict[str, str]:
        mine = {"META_REWARD_VAR": str(self.root), "META_REWARD_SECRET_KEY": "for tests alone"}
        given = {"DATABASE_URL", "CELERY_BROKER_URL"} | mine.keys()
        inherited = {name: value for name, value in os.environ.items() if name not in given}
        return inherited | mine | self.extra

    def manage(self, *arguments: str, log: str) -> "subprocess.Popen[bytes]":
        """Start a command in a session of its own, as a terminal would; its words go to a file."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self.log(log).open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=CHECKOUT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> "subprocess.Popen[bytes]":
        self.port = free_port()
        self.process = self.manage("serve", "--port", str(self.port), log="serve")
        return self.process

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def said(self, name: str = "serve") -> str:
        return self.log(name).read_text(errors="replace")

    def get(self, path: str = "/healthz") -> str | None:
        """Ask the site; None if nobody answers."""
        return self.browser.get(self.port, path)

    def wait_until_up(self) -> None:
        """Wait for every part, and sign in as a newcomer does."""
        wait(lambda: self.get() == "ok" and "ready." in self.said(), explain=self.said)
        password = re.search(r"sign in as admin with the password (\S+)", self.said())
        if password:
            self.browser.sign_in(self.port, "admin", password[1])

    def processes(self) -> list[psutil.Process]:
        """Everything that runs with this installation's environment."""
        mine = f"META_REWARD_VAR={self.root}"
        return [process for process in psutil.process_iter() if mine in _environment(process)]

    def pids(self, part: str) -> set[int]:
        """Processes that are a part, with the forks that share its command line."""
        return {one.pid for one in self.processes() if PARTS[part] in " ".join(_command(one))}

    def part(self, name: str) -> psutil.Process:
        """The process that the supervisor itself started as this part."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        found = [one for one in children if one.pid in self.pids(name)]
        assert len(found) == 1, self.said()
        return found[0]

    def wait_until_replaced(self, name: str, *, killed: int) -> None:
        wait(
            lambda: self.pids(name) - {killed} and killed not in self.pids(name), explain=self.said
        )

    def stop(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        for process in self.processes():
            process.kill()


@contextlib.contextmanager
def own_server(*, migrated: bool = False, **extra: str) -> Iterator[Server]:
    """An installation in a folder of its own, of which nothing is left.

    Args:
        migrated: whether its database has its tables already; the first start makes them.
    """
    with short_folder() as folder:
        made = Server(folder / "var", {"TMPDIR": str(folder), **extra})
        if migrated:
            made.root.mkdir()
            shutil.copy(find_migrated_database(), made.root / "db.sqlite3")
        try:
            yield made
        finally:
            made.stop()


def _environment(process: psutil.Process) -> list[str]:
    try:
        return [f"{name}={value}" for name, value in process.environ().items()]
    except (psutil.Error, OSError):
        return []


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def wait(
    come_true: Callable[[], object], *, explain: Callable[[], object] = str, seconds: float = 150
) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not come_true():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)


@contextlib.contextmanager
def serving_pages(site: Site) -> Iterator[str]:
    """Serve the pages of a site without broker, reconciler and workers; give its address."""
    url = f"http://127.0.0.1:{free_port()}"
    server = site.start("-m", "gunicorn", "--bind", url.removeprefix("http://"), "--threads", "4",
                        "--log-level", "error", "webapp.wsgi")  # fmt: skip
    try:
        wait(lambda: _answers(url), explain=lambda: f"{url} did not come up", seconds=60)
        yield url
    finally:
        server.terminate()
        server.communicate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz"):
            return True
    except OSError:
        return False
