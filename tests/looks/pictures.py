"""Takes the pictures of docs/pictures from real pages, or of every page: `make pictures`."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.browser import launched_chromium
from tests.looks.pages import PAGES
from tests.looks.serving import People, Sites, served_sites

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"
RECIPE: Final = """\
extends: smoke
name: pictures
description: Small iterations, each of which trains actor and judge.
pair_kinds: [[actor, judge]]
"""
PHONE: Final = (390, 844)
DESK: Final = (1280, 800)
SHOWN: Final[Mapping[str, tuple[str, tuple[int, int], bool]]] = {
    "experiments": ("index--all", DESK, False),
    "launching": ("new_experiment--smoke", DESK, False),
    "running": ("iteration--training", DESK, True),
    "failed": ("iteration--failed", DESK, False),
    "curves": ("experiment--finished", DESK, False),
    "prompt": ("prompt--battled", DESK, False),
    "what-if": ("what-if--changed", DESK, False),
    "comparing": ("compare--two", DESK, True),
    "trying": ("try_result--done", DESK, False),
    "phone": ("iteration--running", PHONE, True),
    "desk": ("audit_item--judgments", DESK, False),
    "audit": ("audit_report--judgments", DESK, False),
    "gate": ("experiment_audits--held", DESK, False),
}
"""Which page each picture of the documentation shows: its size in pixels, and whether dark."""


def main() -> None:
    """Run the experiment, serve both sites, and photograph them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=4, help="of the experiment shown (4)")
    parser.add_argument(
        "--all", type=Path, metavar="FOLDER", help="every page instead, each width and theme, there"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        recipe = Path(name) / "pictures.yaml"
        recipe.write_text(RECIPE, encoding="utf-8")
        with served_sites(Path(name), recipe=str(recipe), iterations=given.iterations) as sites:
            if given.all:
                take_all(sites, given.all)
            else:
                take_shown(sites, FOLDER)


def take_shown(sites: Sites, folder: Path) -> None:
    """The pictures of the documentation: what a screen shows of a page, without scrolling."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {row.title: row for row in PAGES}
    with launched_chromium() as browser:
        for name, (title, size, dark) in SHOWN.items():
            page = People(browser, size, dark, sites).open(rows[title])
            page.screenshot(path=folder / f"{name}.png")


def take_all(sites: Sites, folder: Path) -> None:
    """One picture for each page, width and theme, as long as the page is."""
    folder.mkdir(parents=True, exist_ok=True)
    with launched_chromium() as browser:
        for size in (PHONE, (1440, 900)):
            for dark in (False, True):
                people = People(browser, size, dark, sites)
                for row in PAGES:
                    look = f"{size[0]}-{'dark' if dark else 'light'}"
                    path = folder / f"{row.title}--{look}.png"
                    people.open(row).screenshot(path=path, full_page=True)


if __name__ == "__main__":
    main()
