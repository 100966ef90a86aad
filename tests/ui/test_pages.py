"""Every page in every state can be used: axe finds nothing serious, nothing is too wide.

The quick tests look at a quarter of the pages: one eighth on a phone in light colors, another on a
desktop in dark ones.
"""

from collections.abc import Iterator, Sequence

import pytest
from playwright.sync_api import Browser

from tests.browser import is_too_wide, serious_violations
from tests.ui.pages import PAGES, every_route, example_of
from tests.ui.pages import Page as Row
from tests.ui.serving import People, Sites

SEEN = {row.route for row in PAGES}
PHONE, DESK = (390, 844), (1440, 900)
LOOKS = ((PHONE, False), (PHONE, True), (DESK, False), (DESK, True))


def test_the_rows_are_of_addresses_that_exist() -> None:
    assert len({row.title for row in PAGES}) == len(PAGES)
    assert SEEN - {"admin:index"} <= {name for name, _ in every_route()}


def test_no_page_is_forgotten(sites: Sites, browser: Browser) -> None:
    """What has no row answers GET with a file, a permanent redirect, or not at all."""
    forgotten = {}
    people = People(browser, DESK, dark=False, sites=sites)
    page = people.open(next(row for row in PAGES if row.state == "all"))
    for name, route in every_route():
        if name not in SEEN:
            answer = page.request.get(
                f"{sites.filled}{example_of(route, sites.noted)}", max_redirects=0
            )
            is_page = "text/html" in answer.headers.get("content-type", "")
            if is_page and answer.status not in {301, 405}:
                forgotten[name] = answer.status
    assert forgotten == {}


def problems_of(people: People, row: Row) -> list[str]:
    """What keeps somebody from using a page in one look, or from reading it in either width."""
    page = people.open(row)
    found = serious_violations(page)
    for width, height in (PHONE, DESK):
        page.set_viewport_size({"width": width, "height": height})
        found += [f"is wider than {width} pixels"] if is_too_wide(page) else []
    return found


def every_part() -> Iterator[object]:
    """Each look with each quarter of the pages; half of two of these parts is quick."""
    for place, (size, dark) in enumerate(LOOKS):
        for turn in range(len(LOOKS)):
            rows = PAGES[turn :: len(LOOKS)]
            name = f"{size[0]}-{'dark' if dark else 'light'}-{turn}"
            if turn == place and place in (0, 3):
                yield pytest.param(size, dark, rows[::2], id=name)
                rows, name = rows[1::2], f"{name}-rest"
            yield pytest.param(size, dark, rows, marks=pytest.mark.slow, id=name)


@pytest.mark.parametrize("size, dark, rows", list(every_part()))
def test_every_page_can_be_used_and_read(
    sites: Sites, browser: Browser, size: tuple[int, int], dark: bool, rows: Sequence[Row]
) -> None:
    people = People(browser, size, dark, sites)
    found = {row.title: problems_of(people, row) for row in rows}
    people.close()
    assert {title: problems for title, problems in found.items() if problems} == {}
    assert people.errors == []
