"""Results of comparisons with the code of public tools."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comparison:
    """One number, text or error that a public tool and we produce for the same file.

    Attributes:
        tool: with its version.
        what: which file went where, and which of its metrics is compared.
        ours: None where we give no value.
        theirs: None where the tool gives none.
        tolerance: by how much two numbers may differ.
    """

    tool: str
    what: str
    ours: float | str | None
    theirs: float | str | None
    tolerance: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether both are equal, numbers within the tolerance."""
        if isinstance(self.ours, int | float) and isinstance(self.theirs, int | float):
            return math.isclose(self.ours, self.theirs, rel_tol=0.0, abs_tol=self.tolerance)
        return self.ours == self.theirs
