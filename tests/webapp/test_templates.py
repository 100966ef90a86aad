"""The names of templates say which are pages and which are parts of pages."""

import pytest

from webapp.paths import TEMPLATE_ROOT

ROOT = TEMPLATE_ROOT.resolve()
TEMPLATES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.html"))


def test_there_are_templates() -> None:
    assert len(TEMPLATES) > 50


# They override templates of its admin.
NAMED_BY_DJANGO = {"admin/search_form.html", "admin/audit/change_form_object_tools.html"}


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - NAMED_BY_DJANGO))
def test_a_part_of_a_page_begins_with_an_underscore(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    is_page = text.lstrip().startswith("{% extends") or "<!doctype html>" in text
    assert is_page != name.rpartition("/")[2].startswith("_")
    assert "-" not in name
