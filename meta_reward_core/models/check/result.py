"""Results of the model check, and their JSON form.

Imports no model library, so that the site can read and show results.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from meta_reward_core.errors import ModelFolderError


class Level(StrEnum):
    """Severity of a result.

    Attributes:
        GREEN: nothing to do.
        AMBER: the experiment can run; the user should know this before it does.
        RED: the experiment would fail or give wrong results, so it does not start.
    """

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


_SEVERITY = {Level.GREEN: 0, Level.AMBER: 1, Level.RED: 2}


@dataclass(frozen=True, slots=True)
class Check:
    """A result.

    Attributes:
        name: a stable identifier of the check, such as `weights.keys`.
        title: display name, a short noun phrase.
        message: what was found, as a clause without a final period.
        remedy: what to do, as an imperative clause without a final period; empty if nothing.
        file: the file or recipe key at fault, under the user's name for it; empty if none.
    """

    name: str
    title: str
    level: Level
    message: str
    remedy: str = ""
    file: str = ""

    def describe(self) -> str:
        """One sentence: file, problem and remedy."""
        place = f"{self.file}: " if self.file else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{place}{self.message}{remedy}."

    def to_json(self) -> dict[str, str]:
        """All values as strings."""
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, str]) -> Self:
        """Inverse of `to_json`."""
        return cls(
            name=values["name"],
            title=values["title"],
            level=Level(values["level"]),
            message=values["message"],
            remedy=values["remedy"],
            file=values["file"],
        )


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All results for one model folder.

    Attributes:
        model: the folder, or the name under which the user asked for it.
    """

    model: str
    checks: tuple[Check, ...]

    @property
    def level(self) -> Level:
        """Highest severity among the results; green if there are none."""
        return find_worst_level(self.checks)

    def select(self, level: Level) -> list[Check]:
        """Return the results of one level, in order."""
        return [check for check in self.checks if check.level is level]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; `level` is for readers only."""
        return {
            "model": self.model,
            "level": str(self.level),
            "checks": [check.to_json() for check in self.checks],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        checks = tuple(Check.from_json(check) for check in values["checks"])
        return cls(values["model"], checks)


def find_worst_level(checks: Iterable[Check]) -> Level:
    """Return the highest severity among results; green if there are none."""
    return max((check.level for check in checks), key=_SEVERITY.__getitem__, default=Level.GREEN)


def require_sound(report: CheckReport) -> None:
    """Refuse a model that the check found unusable.

    Raises:
        ModelFolderError: the model cannot be used; the message has one sentence per problem.
    """
    problems = report.select(Level.RED)
    if not problems:
        return
    found = "\n".join(f"  {check.describe()}" for check in problems)
    if len(problems) == 1:
        raise ModelFolderError(f"model {report.model}: {problems[0].describe()}")
    raise ModelFolderError(f"model {report.model} has {len(problems)} problems:\n{found}")
