"""Ten workers of hostile requests against the site as it is served: others notice nothing.

The number of seconds is `HOSTILE_LOAD_SECONDS`, 20 by default.
"""

import contextlib
import gzip
import http.client
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from tests.end_to_end.conftest import Site

WORKERS: Final = 10
SECONDS: Final = float(os.environ.get("HOSTILE_LOAD_SECONDS", "20"))
LIVEZ_LIMIT: Final = 1.0
CLIENT_TIMEOUT: Final = 30.0
CSRF: Final = "c" * 32

MAKE_TOKEN: Final = """
from django.contrib.auth.models import Group, User
from webapp.api.models import make_token
user = User.objects.create_user("mallory")
user.groups.add(Group.objects.get(name="operator"))
print("token", make_token(user, name="t", expires=None)[1])
from django.conf import settings
from django.test import Client
client = Client()
client.force_login(user)
cookie = client.cookies[settings.SESSION_COOKIE_NAME]
print("session", f"{cookie.key}={cookie.value}")
print("csrf", settings.CSRF_COOKIE_NAME)
from pathlib import Path
from tests.webapp import audit_fixtures
files = Path(settings.META_REWARD_ARTIFACT_ROOT)
audit_fixtures.write_files(files)
row = audit_fixtures.record(files, owner=user)
print("batch", audit_fixtures.draw(row, by=user, auditors=[user]).pk)
"""

Body = tuple[str, str, bytes]
"""Path, content type and body of a request."""


def make_multipart(name: str, content: bytes, *, file: str = "") -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
    head = f"--x\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
    return head + content + b"\r\n--x--\r\n"


def iter_hostile_imports(batch: int) -> Iterator[Body]:
    """Files of answers for a batch that the sender owns, in each format."""
    row = {"batch": batch, "item": 1, "auditor": "mallory", "answer": "first", "confidence": 3}
    entry = json.dumps(row).encode()
    head, cells = (b",".join(str(cell).encode() for cell in cells) for cells in (row, row.values()))
    for name, content in {
        "deep.json": b"[" * 100_000,
        "objects.json": b'{"a":' * 50_000,
        "cut.json": b"[" + entry + b",",
        "many.json": b"[" + b",".join([entry] * 20_000) + b"]",
        "digits.json": b"[" + entry.replace(b"3", b"9" * 100_000) + b"]",
        "surrogate.json": b"[" + entry.replace(b"mallory", rb"\ud800") + b"]",
        "shapes.json": b"[" + entry.replace(b"1,", b"[[1]],") + b", 1, null, [[]]]",
        "lines.jsonl": (entry + b"\n") * 20_000,
        "studio.json": b'[{"id": 1, "annotations": ' + b"[" * 3000 + b"]" * 3000 + b"}]",
        "wide.csv": b",".join(b"c%d" % n for n in range(50_000)) + b"\n" + b"1," * 50_000,
        "cell.csv": head + b'\n1,"' + b"x" * 1_000_000,
        "lines.csv": head + b"\n" + (cells + b"\n") * 50_000,
        "bytes.csv": b"\xff\x00" * 100_000,
        "zip.json": gzip.compress(b"[" * 1_000_000),
    }.items():
        multipart = make_multipart("file", content, file=name)
        yield f"/audits/{batch}/import", "multipart/form-data; boundary=x", multipart


def list_hostile_bodies(batch: int) -> list[Body]:
    """Deep, large and malformed requests: YAML, JSON, forms, multipart and imports."""
    api, form = "/api/v1/experiments", "/experiments/new"
    as_json, as_multipart = "application/json", "multipart/form-data; boundary=x"
    as_form = "application/x-www-form-urlencoded"
    recipes = (
        "[" * 3000,
        "[" * 20_000,
        "{" * 60_000,
        "- " * 30_000,
        "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a, *a, *a]\n" for n in range(200)),
        "sample: {prompts: " + "9" * 60_000 + "}",
        "\n".join(f"k{n}: 1" for n in range(6000)),
    )
    found: list[Body] = [
        (api, as_json, json.dumps({"name": "a", "recipe_text": text}).encode()) for text in recipes
    ]
    found += [(form, as_multipart, make_multipart("base_text", text.encode())) for text in recipes]
    found += [
        (api, as_json, body)
        for body in (
            b"[" * 1_000_000,
            b'{"a":' * 30_000,
            b'{"seed": ' + b"9" * 1_000_000 + b"}",
            b'{"name": "\\ud800"}',
            b"[" + b"1," * 300_000 + b"1]",
            b"\xff" * 500_000,
            b"\0",
        )
    ]
    found += [
        (form, as_form, b"&".join([b"a=1"] * 5000)),
        (form, as_form + "; charset=utf-16", b"name=a"),
        (form, as_multipart, make_multipart("a", b"1")[:-9] * 3000),
        (form, as_multipart, make_multipart("prompts_file", b"x" * 3_000_000, file="a.txt")),
        (form, as_multipart, b'--x\r\nContent-Disposition: form-data; name="a'),
        ("/account/login", as_form, b"username=a%00b&password=" + b"p" * 100_000),
        (
            "/experiments/new/prompts",
            as_multipart,
            make_multipart("prompts_file", gzip.compress(b"\0" * 30_000_000), file="a.jsonl.gz"),
        ),
        ("/" + "a" * 6000, as_form, b"a=1"),
        ("/experiments/%ff%00/iterations/99999999999999999999", as_form, b"a=1"),
    ]
    return [*found, *iter_hostile_imports(batch)]


@dataclass
class Tally:
    """What clients saw.

    Attributes:
        statuses: answers of hostile requests by status.
        imports: answers of hostile imports by status.
        livez: seconds of each answer of `/livez`.
        failed: what went wrong with `/livez`.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    imports: Counter[int] = field(default_factory=Counter)
    livez: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Credentials:
    """Of an operator: a token for the API, cookies of a session for forms, an audit batch."""

    token: str
    cookies: str
    batch: int

    def make_headers(self, path: str) -> dict[str, str]:
        if path.startswith("/api/"):
            return {"Authorization": f"Bearer {self.token}"}
        return {"Cookie": self.cookies, "X-CSRFToken": CSRF}


def send_body(port: int, who: Credentials, body: Body, tally: Tally) -> None:
    path, kind, data = body
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CLIENT_TIMEOUT)
    headers = {"Content-Type": kind, "Host": "localhost"} | who.make_headers(path)
    # The server may answer and close before it has read all of a large body.
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", path, data, headers)
        status = connection.getresponse().status
        tally.statuses[status] += 1
        tally.imports[status] += path.endswith("/import")
    connection.close()


def send_slowly(port: int, token: str, until: float) -> None:
    """Begin a request, or its body, and send a byte now and then."""
    head = (
        "POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: 5000\r\n\r\n"
    ).encode()
    cut = random.choice((20, len(head)))
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sent:
        sent.sendall(head[:cut])
        while time.monotonic() < until:
            sent.sendall(b"[")
            time.sleep(0.5)


def attack(number: int, port: int, who: Credentials, until: float, tally: Tally) -> None:
    bodies = list_hostile_bodies(who.batch)
    chosen = random.Random(number)
    while time.monotonic() < until:
        if number < 2:
            send_slowly(port, who.token, min(until, time.monotonic() + 5))
        else:
            send_body(port, who, chosen.choice(bodies), tally)


def ask_livez(port: int, until: float, tally: Tally) -> None:
    while time.monotonic() < until:
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CLIENT_TIMEOUT)
        try:
            connection.request("GET", "/livez", headers={"Host": "localhost"})
            status = connection.getresponse().status
            if status != 200:
                tally.failed.append(str(status))
        except (OSError, http.client.HTTPException) as error:
            tally.failed.append(repr(error))
        finally:
            connection.close()
        tally.livez.append(time.monotonic() - begin)
        time.sleep(0.1)


def run_together(*runs: Callable[[], None]) -> None:
    threads = [threading.Thread(target=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(site: Site) -> Iterator[int]:
    """Serve a site as `make serve` does, but without a worker."""
    port = find_free_port()
    server = site.start("manage.py", "serve", "--without-worker", "--port", str(port))
    said: list[str] = []
    assert server.stdout is not None
    reading = threading.Thread(target=said.extend, args=(server.stdout,))
    reading.start()
    try:
        wait_until_up(port, said)
        yield port
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
        reading.join(timeout=60)
        server.stdout.close()


def wait_until_up(port: int, said: list[str]) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        tally = Tally()
        ask_livez(port, time.monotonic() + 0.01, tally)
        if tally.livez and not tally.failed:
            return
        time.sleep(0.5)
    pytest.fail("the site did not start:\n" + "".join(said))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_workers_of_hostile_requests_keep_nobody_waiting(site: Site) -> None:
    made = site.manage("shell", "-c", MAKE_TOKEN)
    found = re.search(r"token (\S+)\nsession (\S+)\ncsrf (\S+)\nbatch (\d+)", made.stdout)
    assert found is not None, made.stdout
    who = Credentials(found[1], f"{found[2]}; {found[3]}={CSRF}", int(found[4]))
    tally = Tally()
    with serve(site) as port:
        until = time.monotonic() + SECONDS
        run_together(
            *(lambda n=n: attack(n, port, who, until, tally) for n in range(WORKERS)),
            lambda: ask_livez(port, until, tally),
        )
    times = sorted(tally.livez)
    p99 = times[int(0.99 * (len(times) - 1))]
    told = (
        f"{SECONDS:g} s, {sum(tally.statuses.values())} hostile answers "
        f"{dict(sorted(tally.statuses.items()))}, of imports "
        f"{dict(sorted(tally.imports.items()))}; /livez: {len(times)} answers, "
        f"median {times[len(times) // 2]:.3f} s, 99th percentile {p99:.3f} s, "
        f"longest {times[-1]:.3f} s; failed: {tally.failed[:5]}"
    )
    print(told)  # noqa: T201 shown with -s, and when the test fails
    assert sum(tally.statuses.values()) > 10 * SECONDS / 20, told
    assert tally.imports[422] > 0, told
    assert not tally.failed, told
    assert not [status for status in tally.statuses if status >= 500], told
    assert p99 < LIVEZ_LIMIT, told
