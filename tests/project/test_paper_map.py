"""docs/paper_map.md names code that exists."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "paper_map.md"
NAMES = sorted(set(re.findall(r"`(meta_reward_core\.[\w.]+)`", PAGE.read_text(encoding="utf-8"))))


def test_the_map_names_the_methods_modules() -> None:
    assert len(NAMES) > 15


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_the_map_can_be_imported(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)
