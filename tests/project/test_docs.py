"""What the documentation promises is there: links, commands and their options, make targets."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.management.hardware_table import insert_sizing
from workers.management.write_reference import write_api, write_commands

CHECKOUT = Path(__file__).parents[2]
PAGES = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")])
UPDATE = "run: python -m workers.management.write_reference"


def ids(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


def test_the_references_are_up_to_date() -> None:
    assert (CHECKOUT / "docs/commands.md").read_text(encoding="utf-8") == write_commands(), UPDATE
    assert (CHECKOUT / "docs/api.md").read_text(encoding="utf-8") == write_api(), UPDATE
    tutorial = (CHECKOUT / "docs/tutorial.md").read_text(encoding="utf-8")
    assert tutorial == insert_sizing(tutorial), UPDATE


def test_every_option_and_operation_is_explained() -> None:
    rows = [line for line in write_commands().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    silent = [row for row in rows if not row.split(" | ")[1].removesuffix("|").strip(" |")]
    assert not silent
    assert not [row for row in rows if row.rstrip().endswith("|  (required) |")]


def test_tests_that_pages_name_are_there() -> None:
    named = {
        found
        for page in PAGES
        for found in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text("utf-8"))
    }
    assert len([test for _, test in named if test]) > 20
    for file, test in named:
        content = (CHECKOUT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in content, f"{file}::{test}"


def anchors(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    included = re.match(r"```\{include\} (\S+)", text)
    if included is not None:
        return anchors(page.parent / included[1])
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def known_options() -> dict[str, set[str]]:
    """Options of each command, as the reference lists them."""
    found: dict[str, set[str]] = {}
    command = ""
    for line in write_commands().splitlines():
        if line.startswith("#"):
            words = line.strip("# ").split(" ")[1:]
            command = words[0] if words else ""
            found.setdefault(command, set())
        elif line.startswith("| `"):
            found[command] |= set(re.findall(r"--[\w-]+", line.split("` |")[0]))
    return found


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each `manage.py NAME ...` that a page shows, with its options."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for name, rest in re.findall(r"manage\.py (\w+)([^`\n|;)]*)", text):
        yield name, re.findall(r"(?<!\S)--[\w-]+", rest.partition(" # ")[0])


DJANGOS = {"migrate", "createsuperuser", "collectstatic", "check", "changepassword", "shell"}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_that_are_shown_exist_with_their_options(page: Path) -> None:
    known = known_options()
    for name, options in commands_of(page):
        if name not in DJANGOS:
            assert name in known, name
            unknown = set(options) - known[name] - {"--help"}
            assert not unknown, f"manage.py {name} {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_make_targets_that_are_shown_exist(page: Path) -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    code = re.findall(r"(?:^|`)make ([a-z][\w-]*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(code) <= targets
