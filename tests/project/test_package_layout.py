"""The tree is small at its top and told in README, and functions begin with a verb."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parents[2]
CORE: Final = CHECKOUT / "meta_reward_core"
PACKAGES: Final = ("meta_reward_core", "webapp", "workers")
MAX_MODULES: Final = 8
MAX_PACKAGES: Final = 14
MAX_TREE_LINES: Final = 50
MAX_TREE_WIDTH: Final = 100
MAX_SHARE_WITHOUT_VERB: Final = 0.05

VERBS: Final = frozenset(Path(__file__).with_name("verbs.txt").read_text(encoding="utf-8").split())
"""First words of function names. A new verb may be added; a noun or an adjective may not."""


def test_the_core_has_at_most_8_modules_and_14_packages_at_its_top() -> None:
    modules = sorted(path.name for path in CORE.glob("*.py"))
    packages = sorted(path.parent.name for path in CORE.glob("*/__init__.py"))
    assert "iteration.py" in modules
    assert len(modules) <= MAX_MODULES, modules
    assert len(packages) <= MAX_PACKAGES, packages


def read_tree() -> list[str]:
    """Lines of the module tree in README."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## Modules\n+```\n(.*?)^```$", readme, flags=re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1].splitlines()


def test_the_tree_in_readme_fits_one_screen() -> None:
    tree = read_tree()
    assert len(tree) <= MAX_TREE_LINES
    assert [line for line in tree if len(line) > MAX_TREE_WIDTH] == []
    assert tree[1].split()[0] == "iteration.py", "the algorithm comes first"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_in_readme_names_every_package(package: str) -> None:
    start = next(at for at, line in enumerate(read_tree()) if line.startswith(f"{package}/"))
    named = {
        name
        for line in read_tree()[start + 1 :]
        if line.startswith("  ")
        for name in re.findall(r"(?<![\w/])(\w+)/(?=\s)", line[:30])
    }
    there = {path.parent.name for path in (CHECKOUT / package).glob("*/__init__.py")}
    assert there - {"templates", "static"} <= named


def test_every_module_that_the_tree_in_readme_names_is_there() -> None:
    top = folder = ""
    for line in read_tree():
        path = line.split()[0]
        if not line.startswith(" "):
            top = folder = path
        elif path.endswith("/"):
            folder = top + path
        for name in re.findall(r"\b\w+\.py\b", line):
            where = CHECKOUT / (top if path.endswith(".py") else folder)
            is_in_every = folder == "webapp/"  # what each package of the site has
            found = where.rglob(name) if is_in_every else where.glob(name)
            assert next(iter(found), None) or (CHECKOUT / name).is_file(), line


def iter_function_names(package: str) -> Iterator[str]:
    """Names of functions and methods, without properties and what Python itself calls."""
    for path in (CHECKOUT / package).rglob("*.py"):
        if "migrations" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                decorators = " ".join(map(ast.unparse, node.decorator_list))
                if not node.name.startswith("__") and not re.search(
                    r"property|setter|overload", decorators
                ):
                    yield node.name


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_begin_with_a_verb(package: str) -> None:
    names = list(iter_function_names(package))
    others = [name for name in names if name.strip("_").split("_")[0] not in VERBS]
    assert len(names) > 100
    assert len(others) <= MAX_SHARE_WITHOUT_VERB * len(names), sorted(others)
