"""An installation of a test's own, and how to run its commands."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from django.core.management import CommandError, call_command

from meta_reward_core.engines.scripted import Script

UseScript = Callable[[Script], None]
StopBy = Callable[[BaseException], CommandError]


@dataclass
class Installation:
    """Where this test's commands work, and how to run one."""

    root: Path

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def run(self, command: str, *arguments: object) -> str:
        out = io.StringIO()
        call_command(command, *map(str, arguments), stdout=out)
        return out.getvalue()

    def run_iteration(self, *arguments: object, name: str = "mine") -> str:
        given: tuple[object, ...] = ()
        if "--recipe" not in arguments:
            given = ("--recipe", self.recipe)
        if "--prompts" not in arguments:
            given = (*given, "--prompts", self.prompts)
        return self.run("run_iteration", "--experiment", name, *given, *arguments)

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def prompts(self) -> Path:
        return self.root / "prompts.txt"

    @property
    def model(self) -> Path:
        return self.root / "models" / "stub"
