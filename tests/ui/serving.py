"""Two sites on this machine, one filled by the cast and one on which nothing was ever done."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, StorageState, expect

from tests.end_to_end.conftest import Site, make_site
from tests.end_to_end.serving import serving_pages
from tests.ui.names import NAMES, OTHER, name_experiments
from tests.ui.pages import NOBODY, read_notes
from tests.ui.pages import Page as Row

PASSWORD = "correct horse"


@dataclass(frozen=True, slots=True)
class Sites:
    """Addresses of both, and what the cast noted of the filled one.

    Attributes:
        signed_in: cookies of those who signed in, by site and name: hashing passwords takes long.
    """

    filled: str
    empty: str
    noted: Mapping[str, str]
    signed_in: dict[tuple[str, str], StorageState] = field(default_factory=dict)

    def url_of(self, row: Row) -> str:
        """On which of the two a page is looked at."""
        return self.empty if row.is_empty else self.filled

    def address(self, row: Row) -> str:
        """Where a page is."""
        return f"{self.url_of(row)}{name_experiments(row.path.format_map(self.noted))}"


@contextlib.contextmanager
def served_sites(root: Path, *, recipe: str, iterations: int, other: str = "") -> Iterator[Sites]:
    """Make both sites, unless they are there already, and serve them.

    The real experiment takes as long as its recipe does.

    Args:
        other: recipe of a second real experiment, which is compared with the first.
    """
    empty, filled, notes = Site(root / "empty"), Site(root / "filled"), root / "notes.json"
    if not notes.exists():
        _make_sites(empty, filled, notes, recipe=recipe, iterations=iterations, other=other)
    with serving_pages(empty) as empty_url, serving_pages(filled) as filled_url:
        yield Sites(filled_url, empty_url, read_notes(notes))


def _make_sites(
    empty: Site, filled: Site, notes: Path, *, recipe: str, iterations: int, other: str
) -> None:
    make_site(empty.root)
    _shell(empty, "from tests.ui.fixtures import add_people; add_people()")
    shutil.copytree(empty.root, filled.root)
    if other:
        _run(filled, OTHER, other, max(1, iterations - 1))
    _run(filled, NAMES["finished"], recipe, iterations)
    _shell(filled, f"from pathlib import Path; from tests.ui.fixtures import fill; "
                   f"fill(Path({str(notes)!r}))")  # fmt: skip


def _run(site: Site, name: str, recipe: str, iterations: int) -> None:
    running = site.start("manage.py", "run_iteration", "--experiment", name, "--recipe", recipe,
                         "--iterations", str(iterations))  # fmt: skip
    output, _ = running.communicate()  # as long as it takes: four iterations on a busy machine
    assert running.returncode == 0, output


def _shell(site: Site, code: str) -> None:
    done = site.manage("shell", "-v", "0", "-c", code)
    assert done.returncode == 0, done.stdout


@dataclass(slots=True)
class People:
    """Everybody's browser, of one size in pixels and one theme; opened when first needed.

    Attributes:
        errors: what scripts of pages have complained of.
    """

    browser: Browser
    size: tuple[int, int]
    dark: bool
    sites: Sites
    errors: list[str] = field(default_factory=list)
    _contexts: dict[tuple[str, bool], BrowserContext] = field(default_factory=dict)

    def open(self, row: Row) -> Page:
        """Go to a page as the person it is for."""
        key = row.person, row.is_empty  # sites on one host share cookies, so each has a browser
        if key not in self._contexts:
            self._contexts[key] = self._browser_of(row)
        page = self._contexts[key].pages[0]
        page.set_viewport_size({"width": self.size[0], "height": self.size[1]})
        answer = page.goto(self.sites.address(row))
        assert answer is not None
        assert answer.ok, f"{row.title} answers {answer.status}"
        return page

    def _browser_of(self, row: Row) -> BrowserContext:
        key = self.sites.url_of(row), row.person
        context = self.browser.new_context(
            viewport={"width": self.size[0], "height": self.size[1]},
            color_scheme="dark" if self.dark else "light",
            storage_state=self.sites.signed_in.get(key),
        )
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        page = context.new_page()
        if row.person != NOBODY and key not in self.sites.signed_in:
            page.goto(f"{key[0]}/account/login")
            page.get_by_label("Username").fill(row.person)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in").click()
            expect(page.locator("form.person button")).to_be_attached()
            self.sites.signed_in[key] = context.storage_state()
        return context

    def close(self) -> None:
        """Close all browsers."""
        for context in self._contexts.values():
            context.close()
