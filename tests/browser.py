"""A real Chromium for tests that use the pages as a person does."""

import contextlib
import shutil
from collections.abc import Iterator

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

INSTALL_CHROMIUM = "apt-get install --yes chromium"
# Chromium refuses a sandbox to root; it looks for updates of its own at every start unless told.
_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def launched_chromium() -> Iterator[Browser]:
    """A browser of a test's own."""
    program = shutil.which("chromium")
    assert program, f"the test needs Chromium: {INSTALL_CHROMIUM}"
    expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def chromium() -> Iterator[BrowserContext]:
    """A browser without anybody's cookies; a script's error fails the test."""
    errors: list[str] = []
    with launched_chromium() as browser:
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.on("weberror", lambda error: errors.append(str(error.error)))
        yield context
    assert errors == []


def serious_violations(page: Page) -> list[str]:
    """What axe finds on a page that keeps somebody from using it."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def is_too_wide(page: Page) -> bool:
    """Whether a person has to scroll sideways to read the page."""
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))
