"""One thing that was compared with a public tool: what our code and what the tool's code said."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Comparison:
    """A number, or a reading such as a verdict, from both sides.

    Attributes:
        tool: whose code was run, with its version.
        what: which file went through which code, and what was looked at.
        ours: our value; None where there is none.
        theirs: the tool's.
        tolerance: by how much two numbers may differ, such as where both come from random draws.
    """

    tool: str
    what: str
    ours: float | str | None
    theirs: float | str | None
    tolerance: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether both are the same, numbers within the tolerance."""
        if isinstance(self.ours, int | float) and isinstance(self.theirs, int | float):
            return math.isclose(self.ours, self.theirs, rel_tol=0.0, abs_tol=self.tolerance)
        return self.ours == self.theirs


def print_comparisons(rows: Sequence[Comparison]) -> None:
    """Print one table of all comparisons, and how many of them disagree."""
    table = Table(title="Our files through the tools' own code, and back", title_justify="left")
    for heading in ("tool", "what", "ours", "theirs", "agrees"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(
            row.tool, row.what, _cell(row.ours), _cell(row.theirs), "yes" if row.agrees else "NO"
        )
    console = Console(width=140)
    console.print(table, markup=False)
    wrong = sum(not row.agrees for row in rows)
    console.print(f"{len(rows)} comparisons, {wrong} of them disagree")


def _cell(value: float | str | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:.6g}"
