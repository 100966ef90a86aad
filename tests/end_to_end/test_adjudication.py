"""A review by erring auditors in real browsers, whose disagreements two leads decide.

One lead uses the keyboard on the site, the other one the admin. The quick review is small; the
slow one has sixty items and three auditors.
"""

import hashlib
import json
import random
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import is_too_wide, launched_chromium, serious_violations
from tests.databases import copy_database
from tests.end_to_end.conftest import Site, make_site
from tests.end_to_end.serving import serving_pages

ERROR_RATES: Final = {"carol": 0.2, "dave": 0.3, "erin": 0.1}
OTHER: Final = {"first": "second", "second": "first"}
ITEM_PAGES: Final = ("/admin/audit/item/", "/admin/audit/item/1/change/")
"""Pages of items that `tests/ui` does not look at."""
ADMIN_MODELS: Final = (
    *("answer", "batch", "hiddenverdict", "knownitem", "adjudicationdraft", "gate"),
    "gateoverride",
)
OTHER_PAGES: Final = (
    *("/audits/items", "/audits/items?state=all&disagreement=all"),
    *(
        "/audits/1/items/{conflict}/review",
        "/audits/1",
        "/audits/1/close",
        "/audits/2/items/1/review",
        "/admin/",
    ),
    *("/admin/audit/item/?disagreement=any&state=open", "/admin/audit/item/{closed}/change/"),
    *(f"/admin/audit/{name}/" for name in ADMIN_MODELS),
    *(f"/admin/audit/{name}/{{{name}}}/change/" for name in ADMIN_MODELS),
)
THEMES: Final[tuple[Literal["dark", "light"], ...]] = ("dark", "light")
HOSTILE: Final = "<script>alert(1)</script>"
PREPARE = """
from pathlib import Path
from django.contrib.auth.models import User
from tests.webapp import audit_fixtures
from tests.webapp.conftest import make_person
from webapp.audit.batch_sampling import KnownAnswer
from webapp.audit.models import Gate
from webapp.audit.services import override_gate, set_status, write_gate

root = Path({root!r})
audit_fixtures.write_files(root)
alice = make_person("alice", "operator")
auditors = [make_person(name, "auditor") for name in {auditors!r}]
make_person("lena", "lead")
liam = make_person("liam", "lead")
User.objects.filter(pk=liam.pk).update(is_staff=True)
row = audit_fixtures.record(root, owner=alice)
known = [KnownAnswer(f"Prompt {{n}} {hostile}", "A response.", "Good. Score: 5", "Bad. Score: 1",
                     "first") for n in range(3)]
audit_fixtures.draw(row, by=alice, auditors=auditors, size={size}, other_share=1.0,
                    reveals_at_once=False, known_answers=tuple(known))
closed = audit_fixtures.draw(row, by=alice, auditors=[], kind="responses", strategy="uniform")
set_status(closed, "closed", by=alice)
write_gate(Gate(experiment=row, min_answers=20), before=None, by=alice)
override_gate(row, 1, source_sha256="0" * 64, outcome="all", reason="Why not? {hostile}", by=alice)
"""
RESULTS = """
import json
from webapp.activity.models import Activity
from webapp.audit.batch_report import get_final_value, make_report
from webapp.audit.models import Batch
batch = Batch.objects.get(pk=1)
items = batch.items.filter(repeat_kind="").select_related("answer", "batch")
made = make_report(batch)
print("RESULTS" + json.dumps({
    "final": {item.number: get_final_value(item) for item in items},
    "alone": {item.number: get_final_value(item, adjudicated=False) for item in items},
    "adjudicated": made.adjudicated,
    "agreement": made.pairs.agreement_decided.value,
    "before": made.answers_only.agreement_decided.value,
    "low": made.pairs.agreement_decided.low, "high": made.pairs.agreement_decided.high,
    "log": [[row.action, row.actor_name, row.object_id, row.reason]
            for row in Activity.objects.filter(object_type="item").order_by("pk")],
}))
"""


@dataclass
class Review:
    """A site with one batch, and what the auditors answered.

    Attributes:
        answers: by item number, of a repeat by that of its item: who answered what.
        known: the same of items with a known answer.
    """

    site: Site
    url: str
    answers: dict[int, dict[str, str]] = field(default_factory=dict)
    known: dict[int, dict[str, str]] = field(default_factory=dict)

    def query(self, sql: str) -> list[tuple[object, ...]]:
        with sqlite3.connect(self.site.database) as database:
            return database.execute(sql).fetchall()

    def shown(self, number: int) -> tuple[int, str, bool]:
        """Of an item: the number of what it repeats or its own, its key, whether it is swapped."""
        rows = self.query(
            "SELECT COALESCE(o.number, i.number), i.key, i.is_swapped FROM audit_item i "
            "LEFT JOIN audit_item o ON o.id = i.original_id "
            f"WHERE i.batch_id = 1 AND i.number = {number}"
        )
        original, key, is_swapped = rows[0]
        return int(str(original)), str(key), bool(is_swapped)

    def truth(self, number: int) -> str:
        """What is right about an item: known to the lead, and to auditors but for their errors."""
        key = self.shown(number)[1]
        if key.startswith("known "):
            return "first"
        return ("first", "second")[hashlib.sha256(key.encode()).digest()[0] % 2]

    def letter(self, number: int, choice: str) -> str:
        is_swapped = self.shown(number)[2]
        return "ab"[(choice == "second") != is_swapped]

    @property
    def conflicts(self) -> list[int]:
        """Items on which auditors differ."""
        return sorted(n for n, given in self.answers.items() if len(set(given.values())) > 1)


def prepare(root: object, *, size: int, auditors: list[str]) -> Iterator[Review]:
    site = make_site(root)  # type: ignore[arg-type]
    words = PREPARE.format(root=str(site.artifacts), auditors=auditors, size=size, hostile=HOSTILE)
    prepared = site.manage("shell", "-v", "0", "-c", words)
    assert prepared.returncode == 0, prepared.stdout
    with serving_pages(site) as url:
        yield Review(site, url)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    yield from prepare(tmp_path_factory.mktemp("small"), size=12, auditors=["carol", "dave"])


@pytest.fixture(scope="module")
def untouched(served: Review, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the database before anybody has signed in."""
    path = tmp_path_factory.mktemp("untouched") / "db.sqlite3"
    copy_database(served.site.database, path)
    return path


@pytest.fixture
def small(chromium: Browser, served: Review, untouched: Path) -> Iterator[Review]:
    """The small review, which nobody has begun; all tests use one server."""
    copy_database(untouched, served.site.database)
    yield Review(served.site, served.url)
    for context in chromium.contexts:
        context.close()


@pytest.fixture
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    yield from prepare(tmp_path_factory.mktemp("large"), size=60, auditors=list(ERROR_RATES))


def sign_in(chromium: Browser, review: Review, name: str, *, width: int = 1280) -> Page:
    context: BrowserContext = chromium.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.goto(f"{review.url}/account/login")
    page.fill("input[name=username]", name)
    page.fill("input[name=password]", "correct horse")
    page.keyboard.press("Enter")
    expect(page.locator("header")).to_contain_text(name)
    return page


def number_in(url: str) -> int:
    found = re.search(r"/items/(\d+)", url)
    assert found is not None, url
    return int(found[1])


def answer_everything(chromium: Browser, review: Review, auditors: list[str]) -> None:
    """The auditors take turns; each errs at a known rate, whatever the item."""
    pages = {name: sign_in(chromium, review, name) for name in auditors}
    rng = {name: random.Random(name) for name in auditors}
    for name, page in pages.items():
        page.goto(f"{review.url}/audits/1/annotate")
        del name
    waiting = set(auditors)
    while waiting:
        for name in sorted(waiting):
            page = pages[name]
            if "/items/" not in page.url:
                page.goto(f"{review.url}/audits/1/annotate")
            if "/items/" not in page.url:
                waiting.discard(name)
                continue
            waiting = set(auditors)
            number = number_in(page.url)
            original = review.shown(number)[0]
            right = review.truth(number)
            choice = OTHER[right] if rng[name].random() < ERROR_RATES[name] else right
            page.keyboard.press(review.letter(number, choice))
            page.keyboard.press("m")
            with page.expect_navigation():
                page.keyboard.press("Enter")
            is_known = review.shown(number)[1].startswith("known ")
            given = review.known if is_known else review.answers
            given.setdefault(original, {})[name] = choice
    for page in pages.values():
        page.context.close()


def decide(page: Page, review: Review, *, reason: str) -> int:
    """Decide the item that the page shows, by the keyboard alone; returns its number."""
    number = number_in(page.url)
    page.keyboard.press(review.letter(number, review.truth(number)))
    page.keyboard.press("r")
    page.keyboard.type(f"{reason} {number}")
    with page.expect_navigation():
        page.keyboard.press("Control+Enter")
    expect(page.locator("main")).to_contain_text(f"item {number} of batch 1: judgment")
    return number


def decide_in_admin(page: Page, review: Review, number: int, *, reason: str) -> None:
    page.goto(f"{review.url}/admin/audit/item/?disagreement=auditors&state=open")
    with page.expect_navigation():
        page.get_by_role("link", name=f"Item {number} of batch 1", exact=True).click()
    letter = review.letter(number, review.truth(number)).upper()
    page.keyboard.press(letter.lower())
    expect(page.get_by_label(f"{letter} is better")).to_be_checked()
    page.keyboard.press("r")
    page.keyboard.type(f"{reason} {number}")
    page.get_by_role("button", name="Decide, go to the list").click()
    expect(page.locator(".messagelist")).to_contain_text(
        f"item {number} of batch 1: judgment {letter}"
    )


def reload_in_the_middle(page: Page, review: Review) -> None:
    """What a lead has filled in is there after a reload."""
    letter = review.letter(number_in(page.url), review.truth(number_in(page.url))).upper()
    page.keyboard.press(letter.lower())
    page.keyboard.press("r")
    with page.expect_response("**/review/draft"):
        page.keyboard.type("in the middle of")
    page.wait_for_timeout(1200)
    page.reload()
    expect(page.locator("textarea[name=reason]")).to_have_value("in the middle of")
    expect(page.locator(f"input[name=choice][value={letter}]")).to_be_checked()
    page.locator("textarea[name=reason]").fill("")
    page.keyboard.press("Escape")


def take_the_same_item(page: Page, other: Page, review: Review) -> None:
    """Both leads decide one item: the second one is told, and neither text is lost."""
    address = page.url
    number = number_in(address)
    other.goto(address)
    expect(other.locator("main")).to_contain_text("lena is adjudicating this item now")
    other.keyboard.press("t")
    other.keyboard.press("r")
    other.keyboard.type(f"a tie by liam {HOSTILE}")
    decide(page, review, reason="by lena")
    other.keyboard.press("Control+Enter")
    expect(other.locator("main")).to_contain_text("Your decision was not saved, because lena")
    expect(other.locator("textarea[name=reason]")).to_have_value(f"a tie by liam {HOSTILE}")
    expect(other.locator("main")).to_contain_text(f"by lena {number}")
    decided = f"SELECT adjudicated FROM audit_item WHERE batch_id = 1 AND number = {number}"
    assert review.query(decided) == [(review.truth(number),)]


def undo_and_decide_again(page: Page, review: Review) -> None:
    number = decide(page, review, reason="too early")
    with page.expect_navigation():
        page.keyboard.press("u")
    assert number_in(page.url) == number
    expect(page.locator(".message")).to_contain_text(f"Undone: item {number} of batch 1, judgment")
    expect(page.locator("textarea[name=reason]")).to_have_value(f"too early {number}")
    expect(page.locator("input[name=choice]:checked")).to_have_count(1)
    decided = f"SELECT adjudicated FROM audit_item WHERE batch_id = 1 AND number = {number}"
    assert review.query(decided) == [("",)], "a draft is no decision"
    page.locator("textarea[name=reason]").fill("")
    page.keyboard.press("Escape")


def check_pages(page: Page, paths: list[str], url: str) -> None:
    """What axe finds in both themes, what is cut off at 1280 and on the site at 390 pixels."""
    found = {}
    for path in paths:
        problems = []
        for theme in THEMES:
            page.emulate_media(color_scheme=theme)
            answer = page.goto(url + path)
            is_there = answer is not None and answer.ok and page.url == url + path
            problems += [] if is_there else ["is not there"]
            problems += [f"{theme}: {one}" for one in serious_violations(page)]
        widths = (1280,) if path.startswith("/admin") else (1280, 390)
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            problems += [f"is wider than {width} pixels"] if is_too_wide(page) else []
        page.set_viewport_size({"width": 1280, "height": 900})
        if path.startswith("/admin"):
            cut = page.evaluate(
                "[...document.querySelectorAll('.results, .review-table')]"
                ".filter(box => box.scrollWidth > box.clientWidth + 1).length"
            )
            problems += [f"{cut} tables are cut off"] if cut else []
        if problems:
            found[path] = problems
    assert found == {}


def run_review(
    chromium: Browser,
    review: Review,
    auditors: list[str],
    *,
    in_admin: int,
    pages: Iterable[str],
) -> None:
    answer_everything(chromium, review, auditors)
    conflicts = review.conflicts
    assert len(conflicts) > in_admin + 3, "the seeds leave enough to decide"
    lena = sign_in(chromium, review, "lena")
    liam = sign_in(chromium, review, "liam")
    problems: list[str] = []
    for page in (lena, liam):
        page.on("console", lambda said: problems.append(said.text)
                if said.type == "error" and "409" not in said.text else None)  # fmt: skip
        page.on("pageerror", lambda error: problems.append(str(error)))
    lena.goto(f"{review.url}/audits/items?disagreement=auditors")
    listed = lena.locator("main tbody th a").all_inner_texts()
    assert sorted(int(text.split()[1]) for text in listed) == conflicts
    for number in conflicts[-in_admin:]:
        decide_in_admin(liam, review, number, reason="by liam")
    lena.goto(f"{review.url}/audits/items?disagreement=auditors")
    with lena.expect_navigation():
        lena.keyboard.press("n")
    undo_and_decide_again(lena, review)
    reload_in_the_middle(lena, review)
    take_the_same_item(lena, liam, review)
    while "/review" in lena.url:
        decide(lena, review, reason="by lena")
    expect(lena.locator("main")).to_contain_text("No items match")
    assert problems == []
    check_results(review, conflicts, in_admin)
    places = find_places(review, conflicts[0])
    check_pages(liam, [path.format_map(places) for path in pages], review.url)


def find_places(review: Review, conflict: int) -> dict[str, int]:
    """Find what the addresses of pages name: a disagreement, and a row of each model."""
    found = {"conflict": conflict}
    for name in ADMIN_MODELS:
        found[name] = int(str(review.query(f"SELECT MIN(id) FROM audit_{name}")[0][0]))
    chosen = {
        "closed": "SELECT MIN(id) FROM audit_item WHERE batch_id = 2",
        "answer": "SELECT MIN(a.id) FROM audit_answer a JOIN audit_item i ON i.id = a.item_id "
        "WHERE i.known_id IS NULL",
    }
    return found | {name: int(str(review.query(sql)[0][0])) for name, sql in chosen.items()}


def check_results(review: Review, conflicts: list[int], in_admin: int) -> None:
    """Adjudicated metrics are right, and everything stands in the activity log."""
    said = review.site.manage("shell", "-v", "0", "-c", RESULTS).stdout
    found = json.loads(said.partition("RESULTS")[2])
    for number, given in review.answers.items():
        settled = review.truth(number) if number in conflicts else next(iter(given.values()))
        assert found["final"][str(number)] == settled
        assert found["alone"][str(number)] in given.values()
    assert found["adjudicated"] == len(conflicts)
    assert found["low"] <= found["agreement"] <= found["high"]
    log = found["log"]
    answered = [row for row in log if row[0] == "answered"]
    asked = [*review.answers.values(), *review.known.values()]
    assert len(answered) == sum(len(given) for given in asked)
    assert len(review.known) == 3 * len({name for given in asked for name in given})
    decisions = [row for row in log if row[0] == "adjudicated"]
    undone = [row for row in log if row[0] == "adjudication_undone"]
    assert len(undone) == 1
    assert len(decisions) == len(conflicts) + len(undone)
    assert sum(row[1] == "liam" for row in decisions) == in_admin
    assert all(row[3] for row in decisions)


def test_a_small_review_is_adjudicated_on_the_site_and_in_the_admin(
    chromium: Browser, small: Review
) -> None:
    run_review(chromium, small, ["carol", "dave"], in_admin=1, pages=ITEM_PAGES)


def test_pasted_text_is_kept_as_a_draft_and_a_score_may_have_half_a_point(
    chromium: Browser, small: Review
) -> None:
    small.query("UPDATE audit_batch SET status = 'open'")
    page = sign_in(chromium, small, "lena")
    page.goto(f"{small.url}/audits/2/items/1/review")
    page.locator("textarea[name=reason]").focus()
    page.keyboard.insert_text("pasted by mouse")
    expect(page.locator("#draft-state")).to_contain_text("Draft saved")
    page.reload()
    expect(page.locator("textarea[name=reason]")).to_have_value("pasted by mouse")
    page.keyboard.press("3")
    page.keyboard.press(".")
    expect(page.locator("input[name=points][value='3.5']")).to_be_checked()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator(".message")).to_contain_text("Saved: item 1 of batch 2: 3.5 of 5.")


COVERED = """() => {
  const bar = document.querySelector(".review-decision").getBoundingClientRect();
  return [...document.querySelectorAll(".review-table, .review-text")].filter((table) => {
    const box = table.getBoundingClientRect();
    const isBeside = box.right <= bar.left || bar.right <= box.left;
    return table.checkVisibility() && !isBeside && box.top < bar.bottom && bar.top < box.bottom;
  }).length;
}"""
LINES_OF_A_WORD = """(word) => {
  const table = document.querySelector("main tbody");
  const walker = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const start = walker.currentNode.data.indexOf(word);
    if (start < 0) continue;
    const range = document.createRange();
    range.setStart(walker.currentNode, start);
    range.setEnd(walker.currentNode, start + word.length);
    return range.getClientRects().length;
  }
  return 0;
}"""


def write_draft(page: Page, text: str) -> None:
    page.keyboard.press("r")
    with page.expect_response("**/review/draft"):
        page.keyboard.type(text)
    page.wait_for_timeout(1200)


def test_the_admin_keeps_drafts_undoes_and_skips_by_keys(chromium: Browser, small: Review) -> None:
    page = sign_in(chromium, small, "liam")
    page.goto(f"{small.url}/admin/audit/item/?state=undecided&batch__id__exact=1")
    with page.expect_navigation():  # keys have no effect until the page has loaded
        page.get_by_role("link", name="Item 1 of batch 1", exact=True).click()
    place = page.locator(".review-place")
    expect(place).to_contain_text("Item 1 of 12 in the list")
    reason = page.locator("textarea[name=adjudication]")
    page.keyboard.press("a")
    write_draft(page, "begun in the admin")
    expect(page.locator("#draft-state")).to_contain_text("Draft saved")
    page.reload()
    expect(page.locator(".review-draft")).to_contain_text("Draft restored from")
    announced = page.locator(".review-draft [role=status]")
    expect(announced).to_have_text("Draft restored. It is not a decision yet.")
    expect(page.get_by_label("A is better")).to_be_checked()
    page.keyboard.press("r")
    page.keyboard.type(", continued")
    expect(reason).to_have_value("begun in the admin, continued")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 600})
        for share in (0, 0.5, 1):
            page.evaluate(f"window.scrollTo(0, {share} * document.body.scrollHeight)")
            assert page.evaluate(COVERED) == 0, (width, share)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.keyboard.press("Escape")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator(".messagelist")).to_contain_text("item 1 of batch 1: judgment A is better.")
    expect(page.locator("h1").last).to_contain_text("Item 2 of batch 1")
    with page.expect_navigation():
        page.keyboard.press("n")
    expect(page.locator("h1").last).to_contain_text("Item 3 of batch 1")
    with page.expect_navigation():
        page.keyboard.press("u")
    expect(page.locator(".messagelist")).to_contain_text(
        "Undone: item 1 of batch 1, judgment A is better."
    )
    expect(reason).to_have_value("begun in the admin, continued")
    page.get_by_role("button", name="Discard draft").click()
    expect(reason).to_have_value("")
    page.reload()
    expect(reason).to_have_value("")
    expect(page.locator(".review-draft")).to_have_count(0)
    page.keyboard.press("Enter")
    assert small.query("SELECT COUNT(*) FROM audit_item WHERE adjudicated <> ''") == [(0,)]


def test_a_restored_draft_is_continued_or_discarded_on_the_site(
    chromium: Browser, small: Review
) -> None:
    page = sign_in(chromium, small, "lena")
    page.goto(f"{small.url}/audits/1/items/2/review")
    reason = page.locator("textarea[name=reason]")
    write_draft(page, "half a reason")
    page.reload()
    expect(page.locator("main")).to_contain_text("Draft restored from")
    announced = page.locator("form.notice [role=status]")
    expect(announced).to_have_text("Draft restored. It is not a decision yet.")
    page.keyboard.press("r")
    page.keyboard.type(", and more")
    expect(reason).to_have_value("half a reason, and more")
    page.get_by_role("button", name="Discard draft").click()
    expect(reason).to_have_value("")
    page.reload()
    expect(reason).to_have_value("")
    expect(page.locator("main")).not_to_contain_text("Draft restored")
    other = sign_in(chromium, small, "liam")
    other.goto(f"{small.url}/audits/items?disagreement=all")
    assert other.evaluate(LINES_OF_A_WORD, "adjudicating") == 1


def test_the_admin_names_the_batch_that_it_closes(chromium: Browser, small: Review) -> None:
    page = sign_in(chromium, small, "liam")
    page.goto(f"{small.url}/admin/audit/batch/1/change/")
    page.get_by_role("button", name="Close batch 1…").click()
    expect(page.locator("h1").last).to_have_text("Close batch 1?")
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        assert serious_violations(page) == []
    page.set_viewport_size({"width": 390, "height": 900})
    assert not is_too_wide(page)
    status = "SELECT status FROM audit_batch WHERE id = 1"
    assert small.query(status) == [("open",)]
    button = page.get_by_role("button", name="Close batch 1")
    expect(button).to_have_css("background-color", "rgb(186, 33, 33)")
    button.click()
    expect(page.locator(".messagelist")).to_contain_text("Batch 1 was closed.")
    assert small.query(status) == [("closed",)]


def test_an_earlier_reason_is_filled_in_by_a_key(chromium: Browser, small: Review) -> None:
    page = sign_in(chromium, small, "lena")
    page.goto(f"{small.url}/audits/1/items/1/review?state=undecided&disagreement=all")
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.keyboard.type("it states a fact that is wrong")
    with page.expect_navigation():
        page.keyboard.press("Control+Enter")
    reason = page.locator("textarea[name=reason]")
    expect(reason).to_have_value("")
    page.keyboard.press("b")
    page.keyboard.press("r")
    with page.expect_response("**/review/draft"):
        page.keyboard.press("Alt+Digit1")
    expect(reason).to_have_value("it states a fact that is wrong")
    page.keyboard.type(", too")
    with page.expect_navigation():
        page.keyboard.press("Control+Enter")
    decided = "SELECT adjudication FROM audit_item WHERE adjudicated <> '' ORDER BY number"
    first = "it states a fact that is wrong"
    assert small.query(decided) == [(first,), (f"{first}, too",)]


def test_closing_a_batch_looks_dangerous_and_asks_first_on_the_site(
    chromium: Browser, small: Review
) -> None:
    page = sign_in(chromium, small, "lena")
    page.goto(f"{small.url}/audits/1")
    red = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--bad')")
    assert red == "#a51d2d"
    close = page.get_by_role("link", name="Close batch 1…")
    expect(close).to_have_css("color", "rgb(165, 29, 45)")
    close.click()
    expect(page.locator("h1")).to_have_text("Close batch 1?")
    expect(page.locator("main")).to_contain_text("Auditors can no longer answer")
    status = "SELECT status FROM audit_batch WHERE id = 1"
    assert small.query(status) == [("open",)]
    button = page.get_by_role("button", name="Close batch 1")
    expect(button).to_have_css("background-color", "rgb(165, 29, 45)")
    button.click()
    expect(page.locator(".message")).to_contain_text("Batch 1 was closed.")
    assert small.query(status) == [("closed",)]


@pytest.mark.slow
def test_sixty_items_by_three_auditors_are_adjudicated_by_two_leads(
    chromium: Browser, large: Review
) -> None:
    run_review(chromium, large, list(ERROR_RATES), in_admin=10, pages=[*ITEM_PAGES, *OTHER_PAGES])
