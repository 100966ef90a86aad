"""Every page in every state can be used: axe finds nothing serious, nothing is too wide."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import is_too_wide, launched_chromium, serious_violations
from tests.end_to_end.conftest import TINY
from tests.looks.pages import PAGES, every_route, example_of
from tests.looks.serving import People, Sites, served_sites

SEEN = {row.route for row in PAGES}
PHONE, DESK = (390, 844), (1440, 900)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    root = tmp_path_factory.mktemp("looks")
    recipe = root / "tiny.yaml"
    recipe.write_text(TINY, encoding="utf-8")
    with served_sites(root, recipe=str(recipe), iterations=2) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched_chromium() as chromium:
        yield chromium


def test_the_rows_are_of_addresses_that_exist() -> None:
    assert len({row.title for row in PAGES}) == len(PAGES)
    assert SEEN - {"admin:index"} <= {name for name, _ in every_route()}


def test_no_page_is_forgotten(sites: Sites, browser: Browser) -> None:
    """What has no row answers GET with a file, or not at all."""
    forgotten = {}
    people = People(browser, DESK, dark=False, sites=sites)
    page = people.open(next(row for row in PAGES if row.state == "all"))
    for name, route in every_route():
        if name not in SEEN:
            answer = page.request.get(
                f"{sites.filled}{example_of(route, sites.noted)}", max_redirects=0
            )
            is_page = "text/html" in answer.headers.get("content-type", "")
            if is_page and answer.status != 405:
                forgotten[name] = answer.status
    assert forgotten == {}


def look_at_all(people: People) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in PAGES:
        page = people.open(row)
        problems = serious_violations(page) + (["is too wide"] if is_too_wide(page) else [])
        if problems:
            found[row.title] = problems
    assert people.errors == []
    return found


@pytest.mark.parametrize("size, dark", [(PHONE, True), (DESK, False)])
def test_every_page_can_be_used_and_read(
    sites: Sites, browser: Browser, size: tuple[int, int], dark: bool
) -> None:
    assert look_at_all(People(browser, size, dark, sites)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("size, dark", [(PHONE, False), (DESK, True)])
def test_every_page_can_be_used_and_read_the_other_way(
    sites: Sites, browser: Browser, size: tuple[int, int], dark: bool
) -> None:
    assert look_at_all(People(browser, size, dark, sites)) == {}
