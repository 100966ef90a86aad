"""Every code block of the documentation is run or parsed by a test, or listed with a reason."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from meta_reward_core.engines.endpoints import read_endpoints
from meta_reward_core.recipes.loader import load_recipe
from tests.project.test_docs import CHECKOUT, PAGES

GENERATED: Final = {"miniature_paper.md", "real_model.md"}
COMMAND: Final = r"(?:\S*python )?manage\.py |make [a-z]|source \.venv/bin/activate$|#|\s|exit$"
"""Lines that `test_documented_commands` runs or gives a reason for; targets of make are checked."""

REASONS: Final = {
    r"git clone ADDRESS": "needs the address of the repository",
    r"sudo |cd /srv": "changes a server; tests/end_to_end runs the same commands",
    r"docker|echo META_REWARD_NFS|printf": "needs a container engine; see tests/docker",
    r"kubectl ": "needs a cluster; tests/docker checks the files",
    r"export [A-Z]": "needs servers; tests/faults/two_hosts sets these variables",
    r"mkdir -p var$": "writes files that the next block uses; its recipe is loaded below",
    r"curl ": "needs a running site; tests/webapp/test_api.py sends the same request",
    r"grep -v|\.venv/bin/python -m pip|vllm serve": "installs or runs vLLM: tests/vllm",
    r"pip install|python -m pip install|meta-reward ": "tests/project/test_wheel.py installs one",
    r"PIP_EXTRA_INDEX_URL|CUDA_VISIBLE_DEVICES": "sets a variable for a make target",
    r"python benchmarks/": "runs for minutes to half an hour; reports its result in the docs",
    r"[A-Z_]+=|\[|requirepass|services:|ExecStart": "a configuration file of other software",
    r"<artifact root>|meta_reward_core/ ": "a tree: test_artifact_docs.py, test_package_layout.py",
    r"red    |61\.7 minutes|label-studio-sdk==": "output of a command that the text names",
    r"<View>|@article": "read by other software",
}
"""By first characters of a line: why no test runs it as it is written, or which one does."""


def iter_blocks() -> Iterator[tuple[str, str, str]]:
    """Yield page, language and text of each block; generated and measured pages are left out."""
    for page in PAGES:
        if page.name in GENERATED:
            continue
        text = page.read_text(encoding="utf-8")
        for fence in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
            if not fence[1].startswith("{"):  # a directive of the site
                yield page.name, fence[1], fence[2]


BLOCKS: Final = list(iter_blocks())


def test_every_command_is_run_or_has_a_reason() -> None:
    explained = re.compile("|".join([COMMAND, *REASONS]))
    for page, language, text in BLOCKS:
        if language in {"", "xml", "bibtex"}:
            lines = text.replace("\\\n", " ").splitlines()
            # The lines of a configuration, a tree or an output follow from the first one.
            checked = lines if re.match(COMMAND, lines[0]) else lines[:1]
            assert [line for line in checked if line and not explained.match(line)] == [], page


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_applies_to_some_block(reason: str) -> None:
    assert any(re.search(f"^({reason})", text, re.MULTILINE) for _, _, text in BLOCKS)


def test_the_recipes_of_the_pages_can_be_loaded(tmp_path: Path) -> None:
    for name in ("my-rubric.txt", "my-meta-judge.txt"):
        shipped = (
            CHECKOUT
            / "meta_reward_core/recipes/prompts"
            / name.removeprefix("my-").replace("-", "_")
        )
        (tmp_path / name).write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    loaded = 0
    for page, language, text in BLOCKS:
        if language == "yaml" and page != "engines.md":
            path = tmp_path / "recipe.yaml"
            path.write_text(text if "extends:" in text else f"extends: paper-llama3-8b\n{text}")
            loaded += bool(load_recipe(str(path)))
    assert loaded == 5


def test_the_endpoints_of_the_pages_can_be_read() -> None:
    (text,) = [
        text for page, language, text in BLOCKS if (page, language) == ("engines.md", "yaml")
    ]
    assert set(read_endpoints(text)) == {"local", "outside"}


@pytest.mark.slow
def test_the_library_example_of_readme_runs_an_iteration(tmp_path: Path) -> None:
    (text,) = [
        text for page, language, text in BLOCKS if (page, language) == ("README.md", "python")
    ]
    (tmp_path / "example.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    chosen, rejected = map(float, done.stdout.splitlines()[-1].split())
    assert chosen > rejected
