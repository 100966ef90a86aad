"""A newcomer in a real browser: serve, sign in, launch from the form, look at what came of it."""

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser import chromium, launched_chromium
from tests.end_to_end.serving import PARTS, Server, own_server
from tests.services import Broker

SMALL = {
    "judge.samples": "5",
    "actor.samples": "4",
    "sample.prompts": "12",
    "evaluation.prompts": "8",
    "evaluation.judge_items": "8",
    "evaluation.comparisons": "8",
}
MINUTES = 60_000.0


@contextlib.contextmanager
def serving(**more: str) -> Iterator[Server]:
    with own_server(migrated="DATABASE_URL" not in more, OMP_NUM_THREADS="1", **more) as server:
        server.start()
        server.wait_until_up()
        yield server


def sign_in(browser: BrowserContext, server: Server, name: str = "", password: str = "") -> Page:
    """As somebody, or with the account that the server made and named."""
    made = re.search(r"as (admin) with the password (\S+)", server.said())
    assert made
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.get_by_label("Username").fill(name or made[1])
    page.get_by_label("Password").fill(password or made[2])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Experiments")).to_be_visible()
    return page


def fill_in(page: Page, name: str) -> None:
    """From the list to the form of a small experiment, filled in."""
    page.get_by_role("link", name="New experiment").first.click()
    page.get_by_role("link", name="smoke", exact=True).click()
    page.locator("[name=name]").fill(name)
    page.locator("[name=until]").fill("1")
    for key, value in SMALL.items():
        field = page.locator(f'[name="recipe.{key}"]')
        if not field.is_visible():
            page.locator("details", has=field).last.locator("summary").click()
        field.fill(value)


def launch(page: Page, name: str) -> None:
    """From the list to the page of an experiment that has begun."""
    fill_in(page, name)
    expect(page.get_by_text("Ready.")).to_be_visible()
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(f"**/experiments/{name}", timeout=3 * MINUTES)


def wait_finished(page: Page, server: Server, name: str) -> None:
    """The page says it by itself, without a reload."""
    page.goto(f"http://127.0.0.1:{server.port}/experiments/{name}/iterations/1")
    expect(page.locator("main .status-finished").first).to_be_visible(timeout=3 * MINUTES)
    expect(page.locator("main .status-running")).to_have_count(0, timeout=3 * MINUTES)
    expect(page.locator("main .status-failed")).to_have_count(0)
    expect(page.locator("svg").first).to_be_visible(timeout=MINUTES)


def test_an_experiment_from_the_form_to_its_charts_and_ctrl_c_leaves_nothing_running() -> None:
    with serving() as server:
        with chromium() as browser:
            page = sign_in(browser, server)
            launch(page, "launched")
            wait_finished(page, server, "launched")
            assert "M1" in page.locator("h1").inner_text()
            page.get_by_role("link", name="Prompts, responses and judgments").click()
            page.locator("main table a").first.click()
            expect(page.locator("svg").first).to_be_visible()
        stop_by_ctrl_c(server)


def stop_by_ctrl_c(server: Server) -> None:
    assert server.process is not None
    parts = [server.part(name) for name in PARTS]
    began = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0, server.said()
    assert time.monotonic() - began < 20, server.said()
    assert server.processes() == []
    assert not any(part.is_running() for part in parts)
    assert "Traceback" not in server.said()


@pytest.mark.slow
def test_the_same_on_servers_of_its_own(running_broker: Broker, postgres_url: str) -> None:
    with (
        serving(CELERY_BROKER_URL=running_broker.url, DATABASE_URL=postgres_url) as server,
        chromium() as browser,
    ):
        page = sign_in(browser, server)
        launch(page, "first")
        wait_finished(page, server, "first")


VIEWER = """
from django.contrib.auth.models import Group, User
User.objects.create_user("vera", password="looks-on").groups.add(Group.objects.get(name="viewer"))
"""


@pytest.mark.slow
def test_two_people_watch_while_site_and_broker_die(tmp_path: Path) -> None:
    """Pages that stay open go on by themselves, and every other browser shows the same."""
    with serving() as server, launched_chromium() as browser:
        assert server.manage("shell", "--command", VIEWER, log="made").wait(60) == 0
        owner = sign_in(browser.new_context(), server)
        launch(owner, "watched")
        address = f"http://127.0.0.1:{server.port}/experiments/watched/iterations/1"
        viewer = sign_in(browser.new_context(), server, "vera", "looks-on")
        for page in (owner, viewer):
            page.goto(address)
            expect(page.locator("main .status-running").first).to_be_visible(timeout=MINUTES)
        for part in ("web", "broker"):
            process = server.part(part)
            process.kill()
            server.wait_until_replaced(part, killed=process.pid)
        for page in (owner, viewer):
            expect(page.locator("main .status-finished").first).to_be_visible(timeout=3 * MINUTES)
            expect(page.locator("main .status-running")).to_have_count(0, timeout=3 * MINUTES)
        elsewhere = sign_in(browser.new_context(), server)
        elsewhere.goto(address)
        viewer.reload()
        shown = [page.locator(".stages").inner_text() for page in (owner, viewer, elsewhere)]
        assert shown[0] == shown[1] == shown[2]
        assert owner.locator("form button").count() > viewer.locator("form button").count()
