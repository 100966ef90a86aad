"""Pictures of the docs: each is there, small, told in words, shown, and made by the script."""

import re
from pathlib import Path

import pytest

from tests.project.test_docs import CHECKOUT
from tests.project.test_docs import PAGES as TEXTS
from tests.ui.pages import PAGES
from tests.ui.pictures import FOLDER, SHOWN

MAX_BYTES = 200_000
FEWEST_WORDS = 5


def shown_pictures() -> list[tuple[Path, str]]:
    """Each picture that a page of the documentation shows, and the words for who cannot see it."""
    found = []
    for text in TEXTS:
        for words, target in re.findall(r"!\[(.*?)\]\((.+?)\)", text.read_text(encoding="utf-8")):
            found.append((text.parent / target, words))
    return found


def test_every_picture_that_is_shown_exists_and_is_told_in_words() -> None:
    assert len(shown_pictures()) > 10
    for picture, words in shown_pictures():
        assert picture.is_file(), picture.relative_to(CHECKOUT)
        assert len(words.split()) >= FEWEST_WORDS, picture.name


def test_every_picture_is_shown_and_made_by_the_script() -> None:
    there = {picture.stem for picture in FOLDER.iterdir()}
    shown = {picture.stem for picture, _ in shown_pictures() if picture.parent.name == FOLDER.name}
    assert there == set(SHOWN) == shown
    assert {shown.title for shown in SHOWN.values()} <= {row.title for row in PAGES}


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_is_small(name: str) -> None:
    assert (FOLDER / f"{name}.png").stat().st_size < MAX_BYTES
