"""Pages read rows through selectors and change them through services."""

import ast
from pathlib import Path
from typing import Final

import pytest

WEBAPP: Final = Path(__file__).parents[2] / "webapp"
PAGES: Final = sorted([*WEBAPP.glob("*/views.py"), *WEBAPP.glob("*/*_views.py")])
QUERIES: Final = {"objects", "create", "bulk_create", "get_or_create", "update_or_create"}
CHANGES: Final = {"save", "delete", "select_for_update", "atomic"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_page_neither_queries_nor_changes_rows_itself(page: Path) -> None:
    tree = ast.parse(page.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used & (QUERIES | CHANGES) == set()


def test_the_pages_are_found() -> None:
    assert {"audit", "dashboard", "playground", "results"} <= {page.parent.name for page in PAGES}


def test_one_module_alone_opens_the_files_of_a_row() -> None:
    """It compares their UUID: the files may belong to another experiment with the same name."""
    opening = {
        path.relative_to(WEBAPP).as_posix()
        for path in WEBAPP.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "ArtifactStore"
        if any(ast.unparse(given).endswith(".artifact_root") for given in call.args)
    }
    assert opening == {"experiments/files.py"}
