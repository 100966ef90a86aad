"""The core's top level stays small, and starts with the algorithm."""

from pathlib import Path
from typing import Final

import meta_reward_core

CORE: Final = Path(meta_reward_core.__file__).parent
MAX_MODULES: Final = 8
MAX_PACKAGES: Final = 14


def test_the_core_has_at_most_8_modules_and_14_packages_at_its_top() -> None:
    modules = sorted(path.name for path in CORE.glob("*.py"))
    packages = sorted(path.parent.name for path in CORE.glob("*/__init__.py"))
    assert "iteration.py" in modules
    assert len(modules) <= MAX_MODULES, modules
    assert len(packages) <= MAX_PACKAGES, packages
