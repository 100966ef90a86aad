"""A person whose browser runs no script does everything that the pages offer."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import launched_chromium
from tests.end_to_end.serving import Server
from tests.end_to_end.test_dashboard import MINUTES, fill_in, serving, sign_in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def page(server: Server) -> Iterator[Page]:
    with launched_chromium() as browser:
        yield sign_in(browser.new_context(java_script_enabled=False), server)


def launch(page: Page, name: str) -> None:
    """The form is checked by sending it, and the page of the order asks for itself."""
    fill_in(page, name)
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_text("Ready.")).to_be_visible()
    expect(page.locator("#check")).to_contain_text("judge.samples")
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(f"**/experiments/{name}", timeout=3 * MINUTES)


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()


def test_an_experiment_is_launched_watched_steered_and_read(page: Page) -> None:
    launch(page, "plain")
    expect(page.locator("main .status-running").first).to_be_visible(timeout=MINUTES)
    press(page, "Pause")
    expect(page.locator("main .status-paused").first).to_be_visible(timeout=MINUTES)
    press(page, "Resume")
    expect(page.locator("main")).to_contain_text("1 iteration completed", timeout=5 * MINUTES)
    page.goto(f"{page.url.partition('?')[0].rstrip('/')}/iterations/1")
    expect(page.locator("svg").first).to_be_visible()

    page.get_by_role("link", name="Prompts, responses and judgments").click()
    expect(page.get_by_role("status")).to_contain_text("12 of 12 prompts")
    page.get_by_label("Score gap at least").fill("99")
    press(page, "Show")
    expect(page.locator("#prompt-list")).to_contain_text("No prompts match these filters")
    page.get_by_role("link", name="Clear filters").click()
    expect(page.get_by_role("status")).to_contain_text("12 of 12 prompts")

    page.get_by_role("link", name="What if", exact=True).click()
    page.get_by_label("Maximum response length").fill("1")
    press(page, "Update preview")
    page.wait_for_url("**max_chosen_chars=1*")
    actor = page.locator("section", has=page.get_by_role("heading", name="Actor pairs"))
    changed = actor.get_by_role("row", name="Pairs").first.locator("strong")
    expect(changed).to_have_text(["0", re.compile(r"\(−100%\)")])
