"""The run table in a real browser: updates keep a selection, the address keeps the columns."""

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.pages import PAGES
from tests.ui.serving import People, Sites

pytestmark = pytest.mark.slow

INDEX = next(row for row in PAGES if row.title == "index--all")


def test_a_selection_survives_updates_and_is_archived(sites: Sites, browser: Browser) -> None:
    people = People(browser, (1280, 800), dark=False, sites=sites)
    page = people.open(INDEX)
    page.get_by_label("Select paused").check()
    with page.expect_response(re.compile(r"/$")):
        pass  # something runs, so the table asks for itself
    page.wait_for_timeout(500)
    expect(page.get_by_label("Select paused")).to_be_checked()
    expect(page.locator("#selected-count")).to_contain_text("1 selected")
    page.get_by_label("Select finished").check()
    page.get_by_role("button", name="Archive").click()
    expect(page.locator(".notice")).to_contain_text(["Archived: 2 experiments."])
    expect(page.get_by_label("Select finished")).to_have_count(0)
    assert people.errors == []
    people.close()


def test_chosen_columns_stand_in_the_address(sites: Sites, browser: Browser) -> None:
    people = People(browser, (1280, 800), dark=False, sites=sites)
    page = people.open(INDEX)
    page.get_by_text("Columns, order and archive").click()
    page.get_by_label("Tokens", exact=True).check()
    page.get_by_role("button", name="Apply columns").click()
    assert "col=tokens" in page.url
    page.locator("thead").get_by_role("link", name="Tokens").click()
    assert "sort=tokens" in page.url
    assert "col=tokens" in page.url
    page.reload()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Tokens")
    page.goto(f"{sites.filled}/experiments/running")
    assert re.fullmatch(r"\d+% · running · Meta-Reward", page.title())
    assert people.errors == []
    people.close()
