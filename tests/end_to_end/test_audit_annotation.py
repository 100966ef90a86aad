"""The audit's desk in a real browser, with the keyboard alone."""

import re
import sqlite3
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import launched_chromium
from tests.end_to_end.conftest import Site, make_site
from tests.end_to_end.serving import serving_pages

ITEMS = 12
PREPARE = """
from pathlib import Path
from tests.webapp import audit_fixtures
from tests.webapp.conftest import make_person

root = Path({root!r})
audit_fixtures.write_files(root)
alice, carol = make_person("alice", "operator"), make_person("carol", "auditor")
dave = make_person("dave", "auditor")
row = audit_fixtures.record(root, owner=alice)
for _ in range(3):
    audit_fixtures.draw(row, by=alice, auditors=[carol, dave], size={size})
"""


@dataclass(frozen=True)
class Served:
    """A site that a browser can visit, with three batches for carol and dave."""

    site: Site
    url: str

    def count(self, table: str, condition: str = "1") -> int:
        with sqlite3.connect(self.site.root / "db.sqlite3") as database:
            query = f"SELECT COUNT(*) FROM {table} WHERE {condition}"
            return int(database.execute(query).fetchone()[0])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    site = make_site(tmp_path_factory.mktemp("desk"))
    prepared = site.manage(
        "shell", "-v", "0", "-c", PREPARE.format(root=str(site.artifacts), size=ITEMS)
    )
    assert prepared.returncode == 0, prepared.stdout
    with serving_pages(site) as url:
        yield Served(site, url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched_chromium() as chromium:
        yield chromium


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(20_000)
    yield opened
    opened.close()


def sign_in(page: Page, served: Served, name: str) -> None:
    page.goto(f"{served.url}/account/login")
    page.focus("input[name=username]")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type("correct horse")
    page.keyboard.press("Enter")
    expect(page.locator("header")).to_contain_text(name)


def press(page: Page, key: str, *, until: str) -> None:
    """Press a key that leads to a page with a heading or a text."""
    page.keyboard.press(key)
    expect(page.locator("main")).to_contain_text(until)
    page.wait_for_load_state()  # its script heeds the next key


def test_a_batch_in_one_sitting_by_the_keyboard_alone(
    context: BrowserContext, served: Served
) -> None:
    page = context.new_page()
    sign_in(page, served, "carol")
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{served.url}/audits/1/annotate")
    for count in range(ITEMS):
        expect(page.locator("main")).to_contain_text("Which judgment is better?")
        page.wait_for_load_state()
        expect(page.locator("button[data-key=Enter]")).to_be_in_viewport(ratio=1)
        source = page.content()
        assert "Elo" not in source
        assert "Score:" not in source
        page.keyboard.press("abtx"[count % 4])
        page.keyboard.press("h")
        if count == 3:
            comment_and_reload(page)
        if count == 5:
            page.keyboard.press("Alt+Digit4")
            page.keyboard.press("d")
            expect(page.locator("main")).to_contain_text("Show as text")
            expect(page.locator("input[value='too long']")).to_be_checked()
        press(page, "Shift+Enter", until="Your answer:")
        if count == 7:
            press(page, "u", until="Which judgment is better?")
            expect(page.locator("input[value=neither]")).to_be_checked()
            page.keyboard.press("a")
            press(page, "Shift+Enter", until="Your answer:")
        if count == 9:
            press(page, "r", until="Elo of A and B")
        page.keyboard.press("n")
    expect(page.locator("main")).to_contain_text("No items are left for you")
    assert served.count("audit_answer", "auditor_name = 'carol' AND confidence = 3") == ITEMS
    assert served.count("audit_answer", "comment = 'seen twice'") == 1
    assert served.count("audit_answer", "tags LIKE '%too long%'") == 1
    assert served.count("audit_answer", "revealed IS NOT NULL") == 1
    assert served.count("activity_activity", "action = 'undone'") == 1
    assert not problems
    read_the_report(context, served)


def read_the_report(context: BrowserContext, served: Served) -> None:
    """From signing in to the report's last table, without a mouse."""
    context.clear_cookies()
    page = context.new_page()
    sign_in(page, served, "alice")
    tab_to(page, "Human review")
    press(page, "Enter", until="All batches")
    tab_to(page, "Batch 1")
    press(page, "Enter", until=f"{ITEMS} of {ITEMS} answers")
    main = page.locator("main")
    expect(main).to_contain_text("Meta-judge agrees with human preference, without ties")
    expect(main).to_contain_text("Elo order agrees with human preference")
    tab_to(page, "findings")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "audit-1.findings.csv"
    tab_to(page, "iteration 1", backwards=True)
    press(page, "Enter", until="all audits combined")


def tab_to(page: Page, text: str, *, backwards: bool = False) -> None:
    """Press Tab until a link or a button with this text has the focus."""
    for _ in range(80):
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
        focused = page.evaluate("document.activeElement.textContent.trim()")
        if focused == text:
            return
    raise AssertionError(f"the keyboard does not reach {text!r}")


def comment_and_reload(page: Page) -> None:
    """Leave in the middle of an item: what is filled in is there afterwards."""
    page.keyboard.press("c")
    with page.expect_response("**/draft"):
        page.keyboard.type("seen twice")
    page.wait_for_timeout(1200)
    expect(page.locator("#draft-state")).to_contain_text("Draft saved")
    page.reload()
    expect(page).to_have_title(re.compile("^Draft restored"))
    expect(page.locator("main")).to_contain_text("Draft restored. It is not an answer yet.")
    announced = page.locator("form.notice [role=status]")
    expect(announced).to_have_text("Draft restored. It is not an answer yet.")
    expect(page.locator("textarea")).to_have_value("seen twice")
    expect(page.locator("input[value=neither]")).to_be_checked()
    expect(page.locator("input[name=confidence][value='3']")).to_be_checked()


def test_shortcuts_can_be_switched_off(context: BrowserContext, served: Served) -> None:
    page = context.new_page()
    sign_in(page, served, "carol")
    page.goto(f"{served.url}/audits/2/annotate")
    page.keyboard.press("?")
    page.get_by_label("Keyboard shortcuts").uncheck()
    page.reload()
    page.keyboard.press("a")
    expect(page.locator("input[name=choice][value=A]")).not_to_be_checked()


class Auditor:
    """Answers items as fast as the site hands them out, without a browser."""

    def __init__(self, served: Served, name: str) -> None:
        self.url = served.url
        self.answered: list[str] = []
        cookies = urllib.request.HTTPCookieProcessor()
        self.opener = urllib.request.build_opener(cookies)
        form = self.read("/account/login")[1]
        login = "/account/login?next=/audits"
        self.post(login, form, username=name, password="correct horse")

    def read(self, path: str) -> tuple[str, str]:
        """Where one is led, and the page there."""
        with self.opener.open(self.url + path, timeout=60) as answer:
            return answer.url, answer.read().decode()

    def post(self, path: str, page: str, **values: str) -> None:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        assert token is not None
        data = urllib.parse.urlencode(values | {"csrfmiddlewaretoken": token[1]}).encode()
        self.opener.open(self.url + path, data, timeout=60).close()

    def answer_everything(self) -> None:
        while True:
            url, page = self.read("/audits/3/annotate")
            path = url.removeprefix(self.url)
            if path.endswith("/annotate"):
                return
            self.post(path, page, choice="tie", confidence="2")
            self.answered.append(path)


def test_two_auditors_who_race_answer_every_item_once(served: Served) -> None:
    auditors = [Auditor(served, name) for name in ("carol", "dave")]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Auditor.answer_everything, auditors))
    answered = [path for auditor in auditors for path in auditor.answered]
    assert len(answered) == len(set(answered)) == ITEMS
    assert (
        served.count("audit_answer", "item_id IN (SELECT id FROM audit_item WHERE batch_id = 3)")
        == ITEMS
    )
    assert served.count("activity_activity", "action = 'late'") == 0
    assert all(auditor.answered for auditor in auditors)
