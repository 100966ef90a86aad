"""The commands that the first pages show are run as they stand there, where they take seconds."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from django.core.management import execute_from_command_line
from pytest_django.fixtures import Settings

from meta_reward_core.engines import registry
from tests.databases import CHECKOUT
from tests.workers.installation import Installation, UseScript

PAGES: Final = (
    *("README.md", "docs/install.md", "docs/tutorial.md", "docs/how-to.md", "docs/audit.md"),
    *("docs/operations.md", "docs/planning.md", "docs/evaluation.md", "docs/prompts.md"),
    *("docs/engines.md", "docs/docker.md", "docs/model_check.md"),
)
NOT_HERE: Final = {
    r"run_iteration(?!.*--dry-run)": "minutes to days; `tests/end_to_end` runs such ones",
    r"evaluate": "tests/workers/test_evaluate.py and test_evaluate_run.py, with files",
    r"report --experiment mine --experiment": "tests/workers/test_report.py",
    r"(build_eft|generate_prompts|train_seed --model)": "tests/workers, with models and their data",
    r"reproduce": "hours; tests/workers/test_reproduction.py",
    r"(create_audit|audit_report)": "needs a batch: tests/workers/test_audit_commands.py",
    r"backup --output /data": "a path of a container; another backup runs here",
    r"create_demo": "a minute: it takes a real model through an iteration",
    r"(serve( --without-worker)?|worker|reconcile)$": "they run until stopped; tests/end_to_end",
    r"health": "it needs a broker; tests/webapp/test_health.py",
    r"control_iteration cancel": "nothing runs; tests/workers/test_queue.py",
    r"plan$": "a text names the command",
    r"plan --recipe var/": "its recipe is one that the reader writes; tests/workers/test_plan.py",
    r"check_model": "it needs a real model; tests/workers/test_check_model.py",
    r"check --deploy": "it needs settings of production; tests/webapp/test_production.py",
}
"""What is not run here, and why: a command that is new on a page is run, or gets a line."""


def shown(page: Path) -> Iterator[str]:
    """Each command of a page, without what explains it."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for found in re.findall(r"(?:python )?manage\.py ([^`\n]+)", text):
        yield " ".join(found.partition(" # ")[0].split())


COMMANDS: Final = list(dict.fromkeys(one for page in PAGES for one in shown(CHECKOUT / page)))
RUN: Final = [one for one in COMMANDS if not any(re.match(how, one) for how in NOT_HERE)]
BEFORE: Final = [one for one in RUN if "--dry-run" in one or "--help" in one]


def run(command: str) -> None:
    """Run it as `manage.py` does; one that fails ends with another code than 0."""
    words = ["manage.py", *shlex.split(command)]
    if "--help" not in words:
        execute_from_command_line(words)
        return
    with pytest.raises(SystemExit, match=r"^0$"):
        execute_from_command_line(words)


@pytest.fixture
def place(
    installation: Installation, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Installation:
    """A folder with what the pages take for granted: a model of one's own, and prompts."""
    (installation.root / "models" / "my-model").symlink_to(installation.model)
    (installation.root / "var").mkdir(exist_ok=True)
    (installation.root / "var" / "prompts.jsonl").write_text(
        "".join(f'{{"prompt": "What is {number} plus 1?"}}\n' for number in range(20_000))
    )
    settings.META_REWARD_UPLOAD_ROOT = str(installation.root / "uploads")
    monkeypatch.chdir(installation.root)
    return installation


def test_commands_that_only_plan_or_explain_do(
    place: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: name)  # one page takes vLLM for granted
    assert len(BEFORE) > 3
    for command in BEFORE:
        run(command)


def test_commands_about_a_finished_experiment_do(
    place: Installation, use_script: UseScript
) -> None:
    for name in ("mini", "mine"):
        place.run_iteration(name=name)
    rest = [command for command in RUN if command not in BEFORE]
    assert {command.split()[0] for command in rest} >= {"export_pairs", "report", "backup", "prune"}
    for command in rest:
        (place.root / "var" / "pairs.jsonl").unlink(missing_ok=True)
        run(command + (" --replace" if command.startswith("restore") else ""))


def test_what_is_not_run_is_shown_somewhere() -> None:
    for how in NOT_HERE:
        assert any(re.match(how, one) for one in COMMANDS), how
