"""Pages about runs in a real browser: run table, launch form, fork, console output, compare."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.names import NAMES
from tests.ui.pages import PAGES
from tests.ui.serving import People, Sites

pytestmark = pytest.mark.slow

ROWS = {row.title: row for row in PAGES}
INDEX = ROWS["index--all"]


def test_a_selection_survives_updates_and_is_archived(sites: Sites, browser: Browser) -> None:
    people = People(browser, (1280, 800), dark=False, sites=sites)
    page = people.open(INDEX)
    archive = page.get_by_role("button", name="Archive")
    expect(page.locator("#selected-count")).to_contain_text("0 selected")
    expect(archive).to_be_disabled()
    page.get_by_label(f"Select {NAMES['paused']}").check()
    expect(archive).to_be_enabled()
    with page.expect_response(re.compile(r"/$")):
        pass  # something runs, so the table asks for itself
    page.wait_for_timeout(500)
    expect(page.get_by_label(f"Select {NAMES['paused']}")).to_be_checked()
    expect(page.locator("#selected-count")).to_contain_text("1 selected")
    page.get_by_label(f"Select {NAMES['finished']}").check()
    expect(archive).to_be_enabled()
    archive.click()
    expect(page.locator(".notice")).to_contain_text(["Archived: 2 experiments."])
    expect(page.get_by_label(f"Select {NAMES['finished']}")).to_have_count(0)
    assert people.errors == []
    people.close()


def test_chosen_columns_stand_in_the_address(sites: Sites, browser: Browser) -> None:
    people = People(browser, (1280, 800), dark=False, sites=sites)
    page = people.open(INDEX)
    page.get_by_text("Columns and sorting").click()
    page.get_by_label("Tokens", exact=True).check()
    page.get_by_role("button", name="Apply columns").click()
    assert "col=tokens" in page.url
    page.locator("thead").get_by_role("link", name="Tokens").click()
    assert "sort=tokens" in page.url
    assert "col=tokens" in page.url
    page.reload()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Tokens")
    page.goto(f"{sites.filled}/experiments/{NAMES['running']}")
    assert re.fullmatch(rf"\d+% · Experiment {NAMES['running']} · Meta-Reward", page.title())
    assert people.errors == []
    people.close()


def press_tabs(page: Page, until: str, *, most: int) -> int:
    """Press Tab until a control has the focus; how often that took."""
    for count in range(1, most + 1):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == until:
            return count
    raise AssertionError(f"{until} is further than {most} tabs away")


def test_launch_is_in_reach_and_the_rest_is_found_by_search(sites: Sites, browser: Browser) -> None:
    people = People(browser, (390, 844), dark=False, sites=sites)
    page = people.open(ROWS["new_experiment--smoke"])
    expect(page.get_by_label("Name (required)")).to_be_focused()
    expect(page.get_by_role("button", name="Launch")).to_be_in_viewport(ratio=1)
    assert press_tabs(page, "Launch", most=10) <= 10
    page.get_by_label("Name (required)").fill("typed")
    page.get_by_label("Recipe", exact=True).select_option("paper-llama3-8b")
    expect(page.locator("#help-base-recipe")).to_contain_text("The paper's experiment on Llama-3")
    expect(page.get_by_label("Name (required)")).to_have_value("typed")
    expect(page.get_by_label("learning rate")).to_be_hidden()
    page.get_by_label("Search all values").fill("learning rate")
    expect(page.get_by_label("learning rate")).to_be_visible()
    expect(page.locator("#section-judge")).to_be_hidden()
    page.get_by_label("learning rate").fill("many")
    page.get_by_label("Search all values").fill("")
    expect(page.locator("#check")).to_contain_text("training.learning_rate")
    expect(page.locator("#launch-state")).to_contain_text("Required:")
    assert people.errors == []
    people.close()


def test_a_fork_is_requested_and_the_output_of_an_attempt_is_read(
    sites: Sites, browser: Browser
) -> None:
    people = People(browser, (1280, 800), dark=False, sites=sites)
    page = people.open(ROWS["experiment--finished"])
    page.get_by_role("link", name="Fork", exact=True).click()
    page.get_by_role("link", name="the pairs of iteration 1").click()
    page.get_by_label("Name").fill("forked")
    page.get_by_label("Search all values").fill("beta")
    page.get_by_label("beta").first.fill("0.2")
    page.get_by_role("button", name="Check").click()
    expect(page.locator("table.differences")).to_contain_text("training.beta")
    page.get_by_role("button", name="Fork").click()
    expect(page.get_by_text("Queued")).to_be_visible()
    expect(page.locator("main")).to_contain_text("training.beta=0.2")

    people.open(ROWS["attempt_output--running"])
    box = page.locator("#output-text")
    expect(box).to_contain_text("Loading weights: 100%")
    page.get_by_label("Follow").uncheck()
    with page.expect_response(re.compile("/output")):
        pass  # it runs, so the region asks for itself
    expect(page.get_by_label("Follow")).not_to_be_checked()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert "Loading weights" in download.value.path().read_text()
    assert people.errors == []
    people.close()


def test_a_comparison_begins_with_results_and_folds_its_charts(
    sites: Sites, browser: Browser
) -> None:
    people = People(browser, (1280, 800), dark=False, sites=sites)
    page = people.open(ROWS["compare--two"])
    titles = page.locator("#comparison h2").all_inner_texts()
    assert titles == ["Results", "Recipes", "Metrics by iteration"]
    expect(page.locator(".outcome-table").first).to_contain_text("n = ")
    group = page.locator("#comparison details").first
    group.locator("> summary").click()
    expect(group.locator("svg").first).to_be_hidden()
    page.goto(f"{page.url}&name=no-such")
    expect(page.locator("#comparison")).to_contain_text("Not found, or not visible to you: no-such")
    assert people.errors == []
    people.close()
