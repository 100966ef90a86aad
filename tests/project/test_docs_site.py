"""The documentation site is built without warnings, and the dashboard can serve it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.test import Client
from playwright.sync_api import Page, Route, ViewportSize
from pytest_django.fixtures import Settings

from tests.browser import chromium, is_too_wide, serious_violations
from tests.project.test_docs import CHECKOUT

PHONE: Final[ViewportSize] = {"width": 390, "height": 844}
DESK: Final[ViewportSize] = {"width": 1440, "height": 900}
HOST = "http://testserver"


@pytest.fixture(scope="session")
def public_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make docs` fills, built again."""
    root = tmp_path_factory.mktemp("public")
    recipe = re.search(
        r"^docs:.*\n\t\$\(BIN\)/python (-m sphinx .*)$", (CHECKOUT / "Makefile").read_text(), re.M
    )
    assert recipe is not None
    arguments = recipe[1].replace("var/public/docs", str(root / "docs")).split()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def client(public_root: Path, settings: Settings) -> Client:
    """The dashboard with the documentation, without a signed-in user."""
    settings.WHITENOISE_ROOT = str(public_root)
    settings.ALLOWED_HOSTS = ["testserver"]
    return Client()


class InlineCode(HTMLParser):
    """Collects what a strict content security policy forbids, and addresses of other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in values):
            self.found.append(f"<{tag}>")
        self.found += [name for name in values if name == "style" or name.startswith("on")]
        loaded = values.get("src" if tag != "link" else "href") or ""
        if re.match(r"(https?:)?//", loaded):
            self.found.append(loaded)


@pytest.mark.slow
def test_the_pages_have_no_inline_code_and_load_nothing_from_other_hosts(public_root: Path) -> None:
    pages = sorted(public_root.rglob("*.html"))
    assert len(pages) > 45
    for page in pages:
        parser = InlineCode()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found == [], page.name
    for style in public_root.rglob("*.css"):
        assert not re.search(r"@import|url\(\W*(https?:)?//", style.read_text(encoding="utf-8"))


def read_body(answer: HttpResponseBase) -> bytes:
    """Read a response of the test client to its end, which closes it.

    `close()` would also close the database connection that earlier tests of this process opened,
    which a test without a database may not touch.
    """
    if isinstance(answer, StreamingHttpResponse):
        return answer.getvalue()
    assert isinstance(answer, HttpResponse)
    return answer.content


@pytest.mark.slow
def test_the_dashboard_serves_the_documentation_under_its_security_policy(client: Client) -> None:
    answer = client.get("/docs/")
    assert b"<h1>" in read_body(answer)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy
    assert "style-src 'self'" in policy
    assert client.get("/docs").headers["Location"] == "docs/"
    assert client.get("/docs/absent.html").status_code != 200
    assert client.get("/docs/../db.sqlite3").status_code != 200


def iter_pages(public_root: Path) -> Iterator[str]:
    """Yield the address of each page but two generated ones of thousands of table cells."""
    for page in sorted(public_root.rglob("*.html")):
        if page.stem in {"authorization", "miniature_paper"}:
            continue
        yield f"/{page.relative_to(public_root)}".replace("/index.html", "/")


@pytest.mark.slow
def test_every_page_can_be_used_and_searched(client: Client, public_root: Path) -> None:
    """In a browser that enforces the policy: axe, the width of a phone, and the search."""

    def answer(route: Route) -> None:
        found = client.get(route.request.url.removeprefix(HOST))
        body = read_body(found)
        route.fulfill(status=found.status_code, headers=dict(found.headers), body=body)

    def find_problems(page: Page, path: str) -> list[str]:
        page.set_viewport_size(DESK)
        page.goto(f"{HOST}{path}")
        found = serious_violations(page)
        page.set_viewport_size(PHONE)
        return found + (["is wider than a phone"] if is_too_wide(page) else [])

    with chromium() as context:
        context.route("**/*", answer)
        page = context.new_page()
        logged: list[str] = []
        page.on("console", lambda message: logged.append(message.text))
        problems = {path: find_problems(page, path) for path in iter_pages(public_root)}
        assert {path: found for path, found in problems.items() if found} == {}
        page.set_viewport_size(DESK)
        page.goto(f"{HOST}/docs/")
        page.get_by_placeholder("Search").fill("install vLLM")
        page.keyboard.press("Enter")
        page.locator("#search-results a", has_text="Engines").first.wait_for()
        assert [text for text in logged if "Content Security" in text] == []
