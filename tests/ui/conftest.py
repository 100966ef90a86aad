"""Sites with every page in every state, and a browser, once for each module that looks at them."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import launched_chromium
from tests.end_to_end.conftest import TINY
from tests.ui.serving import Sites, served_sites


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    root = tmp_path_factory.mktemp("sites")
    recipe = root / "tiny.yaml"
    recipe.write_text(TINY, encoding="utf-8")
    with served_sites(root, recipe=str(recipe), iterations=2) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched_chromium() as chromium:
        yield chromium
