"""Takes the pictures of docs/pictures from real pages, or of every page: `make pictures`."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.browser import launched_chromium
from tests.ui.pages import PAGES
from tests.ui.serving import People, Sites, served_sites

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"
RECIPE: Final = """\
extends: smoke
name: pictures
description: Small iterations, each of which trains actor and judge.
train_on: [[actor, judge]]
"""
OTHER_RECIPE: Final = """\
extends: pictures.yaml
name: rho-0.6
description: Small iterations with wider tiers.
pairing: {rho: 0.6}
"""
PHONE: Final = (390, 844)
DESK: Final = (1280, 800)


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture shows.

    Attributes:
        title: of a page.
        at: selects what stands at the top; empty for the page's own top.
        size: of the screen in pixels.
    """

    title: str
    at: str = ""
    size: tuple[int, int] = DESK
    dark: bool = False


SHOWN: Final[Mapping[str, Picture]] = {
    "experiments": Picture("index--all"),
    "launching": Picture("new_experiment--smoke"),
    "running": Picture("iteration--training", at="#iteration-now", dark=True),
    "failed": Picture("iteration--failed"),
    "curves": Picture("experiment--finished", at="text=Metrics by iteration"),
    "prompt": Picture("prompt--battled", at="#prompt-page h2 >> nth=1"),
    "what-if": Picture("what-if--changed"),
    "comparing": Picture("compare--two", at="#metrics", dark=True),
    "trying": Picture("conversation--talk"),
    "phone": Picture("iteration--running", size=PHONE, dark=True),
    "annotating": Picture("audit_item--judgments"),
    "audit": Picture("audit_report--judgments"),
    "gate": Picture("experiment_audits--held"),
}
"""The pictures of the documentation."""


def main() -> None:
    """Run the experiment, serve both sites, and photograph them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=4, help="of the experiment shown (4)")
    parser.add_argument(
        "--all", type=Path, metavar="FOLDER", help="every page instead, each width and theme, there"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PART",
        default=[""],
        help="pictures whose name has one of these",
    )
    parser.add_argument(
        "--site", type=Path, metavar="FOLDER", help="keep the site there, or take the one there"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = given.site or Path(name)
        root.mkdir(parents=True, exist_ok=True)
        recipe = root / "pictures.yaml"
        recipe.write_text(RECIPE, encoding="utf-8")
        other = root / "other.yaml"
        other.write_text(OTHER_RECIPE, encoding="utf-8")
        with served_sites(
            root, recipe=str(recipe), iterations=given.iterations, other=str(other)
        ) as sites:
            if given.all:
                take_all(sites, given.all, given.only)
            else:
                take_shown(sites, FOLDER, given.only)


def take_shown(sites: Sites, folder: Path, only: Sequence[str] = ("",)) -> None:
    """The pictures of the documentation: what a screen shows of a page, without scrolling."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {row.title: row for row in PAGES}
    with launched_chromium() as browser:
        for name, shown in SHOWN.items():
            if not any(part in name for part in only):
                continue
            page = People(browser, shown.size, shown.dark, sites).open(rows[shown.title])
            if shown.at:
                page.locator(shown.at).first.evaluate("place => place.scrollIntoView()")
            page.screenshot(path=folder / f"{name}.png")


def take_all(sites: Sites, folder: Path, only: Sequence[str] = ("",)) -> None:
    """One picture for each page, width and theme, as long as the page is."""
    folder.mkdir(parents=True, exist_ok=True)
    with launched_chromium() as browser:
        for size in (PHONE, (1440, 900)):
            for dark in (False, True):
                people = People(browser, size, dark, sites)
                for row in PAGES:
                    if not any(part in row.title for part in only):
                        continue
                    look = f"{size[0]}-{'dark' if dark else 'light'}"
                    path = folder / f"{row.title}--{look}.png"
                    people.open(row).screenshot(path=path, full_page=True)


if __name__ == "__main__":
    main()
