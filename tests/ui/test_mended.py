"""Defects that people met in the browser: each step that showed one, taken again."""

import re

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import serious_violations
from tests.ui.names import NAMES
from tests.ui.pages import AUDITOR, PAGES
from tests.ui.pages import Page as Row
from tests.ui.serving import PASSWORD, People, Sites

pytestmark = pytest.mark.slow

ROWS = {row.title: row for row in PAGES}
WIDE, NARROW = (1440, 900), (390, 844)


@pytest.fixture
def people(sites: Sites, browser: Browser) -> People:
    return People(browser, WIDE, dark=False, sites=sites)


def open_path(people: People, path: str, person: str = "alice") -> Page:
    return people.open(Row("any", path, path, person))


def forget_session(page: Page) -> None:
    context: BrowserContext = page.context
    context.clear_cookies(name="sessionid")


def test_back_after_a_launch_shows_the_whole_form(people: People) -> None:
    page = open_path(people, "/experiments/new?recipe=smoke")
    page.get_by_label("Name (required)").fill("launched-here")
    page.get_by_role("button", name="Launch").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Starting launched-here")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("New experiment")
    expect(page.locator("header nav")).to_be_visible()
    people.close()


def test_an_action_after_the_session_ended_is_sent_after_signing_in(people: People) -> None:
    page = open_path(people, "/experiments/paused/details")
    page.get_by_label("Notes").fill("first line\nsecond line")
    forget_session(page)
    page.get_by_role("button", name="Save").click()
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("main")).to_contain_text("second line")
    page.get_by_role("button", name=re.compile("Send")).click()
    expect(page.locator(".notice").first).to_contain_text("Saved.")
    expect(page.locator(".notes")).to_have_text("first line\nsecond line", use_inner_text=True)
    people.close()


def test_a_form_that_cannot_be_verified_leads_to_a_page_of_the_site(people: People) -> None:
    page = open_path(people, "/experiments/failed")
    page.evaluate(
        "for (const one of document.getElementsByName('csrfmiddlewaretoken')) one.value = 'x'"
    )
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Form expired")
    expect(page.locator("header nav")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('header')).display") == "flex"
    people.close()


def test_status_and_lineage_agree(people: People) -> None:
    page = open_path(people, "/experiments/running")
    expect(page.locator("#experiment-state .state .status")).to_have_text("running")
    expect(page.locator("#lineage tr").last.locator(".status")).to_have_text("running")
    with page.expect_response(re.compile(r"\?seen=")):
        pass  # the update replaces both
    expect(page.locator("#lineage tr").last.locator(".status")).to_have_text("running")
    people.close()


def test_the_bar_of_a_training_moves_with_its_steps(people: People) -> None:
    page = open_path(people, "/experiments/training")
    bar = page.get_by_label("Train with DPO: completed shards")
    assert 0 < float(bar.get_attribute("value") or 0) < float(bar.get_attribute("max") or 0)
    expect(page.locator(".stage-running .numbers").first).to_contain_text("step 3 of at most")
    people.close()


def test_a_stop_says_that_it_can_be_resumed(people: People) -> None:
    page = open_path(people, "/experiments/running")
    expect(page.locator("#steer-cancel")).to_have_text("Stop")
    expect(page.locator("#steer-cancel-says")).to_contain_text("can be resumed")
    assert page.locator("#steer-cancel").get_attribute("aria-describedby") == "steer-cancel-says"
    people.close()


@pytest.mark.parametrize("name", ["finished", "completed"])
def test_the_filter_finds_completed_experiments_by_both_names(people: People, name: str) -> None:
    page = open_path(people, f"/?status={name}")
    statuses = page.locator("#experiment-list td .status").all_inner_texts()
    assert set(statuses) == {"completed"}
    people.close()


def test_a_filter_stays_on_the_next_page(people: People) -> None:
    iteration = f"/experiments/{NAMES['running']}/iterations/{people.sites.noted['last']}"
    page = open_path(people, f"{iteration}?stage=judge&status=waiting")
    page.get_by_role("link", name="Next").first.click()
    page.wait_for_url(re.compile(r"page=2"))
    assert "stage=judge" in page.url
    assert "status=waiting" in page.url
    people.close()


def test_an_engine_that_no_worker_has_is_not_ready(people: People) -> None:
    page = open_path(people, "/experiments/new?recipe=paper-llama3-8b")
    page.get_by_label("Name (required)").fill("without-vllm")
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#check")).to_contain_text("× 5,000 prompts")
    expect(page.get_by_text("Ready.")).to_have_count(0)
    people.close()


def test_a_slider_of_what_if_moves_its_number_and_updates_the_preview(people: People) -> None:
    page = open_path(people, "/experiments/finished/iterations/1/what-if")
    expect(page.locator(".verdict")).to_contain_text("These are the rules of the recipe.")
    page.get_by_label("Tier width (rho), slider").fill("0.9")
    expect(page.get_by_label("Tier width (rho)", exact=True)).to_have_value("0.9")
    expect(page.locator(".verdict")).to_contain_text("actor pairs")
    expect(page.locator(".verdict")).not_to_contain_text("These are the rules of the recipe.")
    page.get_by_label("Tier width (rho)", exact=True).fill("0.45")
    expect(page.get_by_label("Tier width (rho), slider")).to_have_value("0.45")
    link = page.get_by_role("link", name="New experiment with these rules")
    expect(link).to_have_attribute("href", re.compile(r"recipe\.pairing\.rho=0\.45$"))
    link.click()
    expect(page.locator("#recipe-pairing-rho")).to_have_value("0.45")
    people.close()


def test_launch_is_disabled_without_a_name(people: People) -> None:
    page = open_path(people, "/experiments/new?recipe=smoke")
    button = page.get_by_role("button", name="Launch")
    expect(button).to_be_disabled()
    page.get_by_label("Name (required)").fill("another")
    expect(button).to_be_enabled()
    page.get_by_label("Name (required)").fill(" ")
    expect(button).to_be_disabled()
    people.close()


def test_the_message_field_and_the_scores_of_a_conversation_are_in_place(people: People) -> None:
    page = open_path(people, "/experiments/finished/playground/{try_talk}")
    field = page.get_by_label("Next message").bounding_box()
    assert field is not None
    height = (page.viewport_size or {"height": 0})["height"]
    assert field["y"] + field["height"] <= height, "the field is in the first screen"
    first, second = (
        box
        for heading in page.locator(".side-by-side").first.locator("h4").all()
        if (box := heading.bounding_box()) is not None
    )
    if first["x"] != second["x"]:
        assert first["y"] == second["y"], "scores of both models are in one row"
    people.close()


def test_a_token_is_not_shown_again_and_revoking_asks_first(people: People) -> None:
    page = open_path(people, "/account/tokens")
    form = page.locator("form.fields")
    form.get_by_label("Name").fill("once")
    form.get_by_role("button", name="Create token").click()
    if "/account/confirm" in page.url:
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button").filter(has_text="Con").click()
        page.goto(page.url.partition("/account")[0] + "/account/tokens")
        form.get_by_label("Name").fill("once")
        form.get_by_role("button", name="Create token").click()
    secret = page.locator(".secret").inner_text()
    page.reload()
    expect(page.locator("main")).not_to_contain_text(secret)
    row = page.get_by_role("row").filter(has_text="once").first
    expect(row.get_by_role("button", name="Revoke once")).to_be_hidden()
    row.locator("summary").click()
    expect(row).to_contain_text("This cannot be undone.")
    row.get_by_role("button", name="Revoke once").click()
    expect(page.get_by_role("button", name="Revoke once")).to_have_count(0)
    people.close()


@pytest.mark.parametrize("path", ["/?col=tokens&col=alarms", "/workers", "/experiments/finished"])
def test_numbers_stand_under_the_right_end_of_their_headings(people: People, path: str) -> None:
    page = open_path(people, path)
    ends = page.evaluate(
        """() => [...document.querySelectorAll('table:has(thead .number)')].map((table) => {
          const heads = [...table.tHead.rows[0].cells];
          return [...table.tBodies[0].rows].filter((row) => row.cells.length == heads.length)
            .flatMap((row) => [...row.cells].map((cell, at) =>
              heads[at].classList.contains('number') == cell.classList.contains('number')));
        })"""
    )
    assert ends
    assert all(all(cells) for cells in ends)
    people.close()


def test_every_point_of_a_chart_shows_its_value(people: People) -> None:
    page = open_path(people, "/workers")
    chart = page.locator("#machine-load figure").first
    line = chart.locator("svg g.line").first
    known = line.locator("path title").count()
    page_rows = chart.locator("tbody tr").count()
    assert known == page_rows > 100
    people.close()


def test_the_axis_of_a_share_ends_at_one(people: People) -> None:
    page = open_path(people, "/experiments/compare?name=finished&name=running")
    shares = page.locator("figure").filter(has=page.locator("text.axis-name", has_text="share"))
    assert shares.count() > 1
    for figure in shares.all():
        ticks = figure.locator("text.tick.to-left").all_text_contents()
        assert max(map(float, ticks)) <= 1.0
    expect(page.locator("#comparison")).not_to_contain_text("win rate.french")
    people.close()


def test_the_caption_of_a_matrix_is_whole_on_a_phone(sites: Sites, browser: Browser) -> None:
    people = People(browser, NARROW, dark=False, sites=sites)
    page = people.open(ROWS["prompt--battled"])
    assert page.locator("figure.chart svg").count() > 0
    outside = page.evaluate(
        """() => [...document.querySelectorAll('figure.chart svg text')].filter((text) => {
          const box = text.getBoundingClientRect();
          return box.width > 0 && (box.left < 0 || box.right > window.innerWidth);
        }).map((text) => text.textContent)"""
    )
    assert outside == []
    people.close()


def test_no_time_left_reads_about_under(people: People) -> None:
    for path in ("/", "/experiments/running", "/experiments/training"):
        page = open_path(people, path)
        expect(page.locator("main")).not_to_contain_text("about under")
    people.close()


def test_an_auditor_who_is_refused_is_led_to_a_page_that_opens(people: People) -> None:
    page = open_path(people, "/audits", AUDITOR)
    page.goto(page.url.replace("/audits", "/workers"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Permission denied")
    page.locator("main").get_by_role("link", name="Human review").click()
    expect(page.get_by_role("heading", level=1)).not_to_have_text("Permission denied")
    people.close()


def test_the_admin_has_the_icon_of_the_site(people: People) -> None:
    page = open_path(people, "/admin/", "ada")
    assert page.locator("link[rel=icon]").get_attribute("href")
    people.close()


def test_machine_load_updates_alone_and_can_be_read_as_numbers(people: People) -> None:
    page = open_path(people, "/workers")
    titles = page.locator("#machine-load figcaption").all_inner_texts()
    assert titles == ["CPU use", "Memory use", "GPU use", "GPU memory"]
    numbers = page.locator("#machine-load summary").first
    numbers.click()
    expect(page.locator("#machine-load td").first).to_be_visible()
    with page.expect_response(re.compile(r"/workers$")) as answered:
        page.wait_for_timeout(500)
    assert answered.value.status == 200
    people.close()


def test_an_action_is_answered_on_the_page(people: People) -> None:
    page = open_path(people, "/experiments/paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status").first).to_contain_text("Requested: resume.")
    people.close()


def test_the_header_of_a_phone_is_one_line_with_a_menu(sites: Sites, browser: Browser) -> None:
    people = People(browser, NARROW, dark=False, sites=sites)
    page = people.open(ROWS["iteration--running"])
    assert page.evaluate("document.querySelector('header').offsetHeight") < 60
    expect(page.locator("#iteration-now")).to_contain_text("stage 3 of 8: Judge responses")
    workers = page.locator("header").get_by_role("link", name="Workers")
    expect(workers).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_in_viewport(ratio=1)
    assert serious_violations(page) == []
    workers.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Workers and queues")
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    expect(page.get_by_role("button", name="Menu")).to_be_hidden()
    expect(workers).to_be_visible()
    people.close()


@pytest.mark.parametrize("title", ["audit_item--judgments", "audit_item--responses"])
def test_an_answer_can_be_sent_without_scrolling(
    sites: Sites, browser: Browser, title: str
) -> None:
    people = People(browser, (1280, 800), dark=False, sites=sites)
    page = people.open(ROWS[title])
    for button in page.locator(".audit-send button").all():
        expect(button).to_be_in_viewport(ratio=1)
    assert page.locator("input[name=confidence]:checked").count() == 0
    people.close()


def test_the_status_of_an_iteration_below_its_title_is_updated(people: People) -> None:
    page = people.open(ROWS["iteration--training"])
    with page.expect_response(re.compile(r"/iterations/\d+$")):
        page.evaluate("document.getElementById('iteration-now').textContent = 'old'")
    expect(page.locator("#iteration-now")).to_contain_text("stage 7 of 8: Train with DPO")
    assert people.errors == []
    people.close()
