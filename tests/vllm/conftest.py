"""What needs vLLM: `make setup-vllm` installs its CPU build apart, `make test-vllm` runs this."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.installation import get_roots, run_smoke, summary_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM's own are many
            if find_spec("vllm") is None:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed: make setup-vllm"))


@pytest.fixture(scope="session")
def quiet_run(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """A whole smoke iteration through vLLM; returns its summary, and the roots of its files."""
    root = tmp_path_factory.mktemp("quiet")
    done = run_smoke(root, "--engine", "vllm")
    assert done.wait(400) == 0
    return {"summary": summary_of(root), "roots": get_roots(root)}
