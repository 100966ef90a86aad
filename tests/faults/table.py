"""Write the table of docs/reliability.md from what the runs have left: `make test-faults`.

python -m tests.faults.table FOLDER [--output docs/reliability.md]
"""

import argparse
import json
import sys
from pathlib import Path

from tests.faults.faults import FAULTS, Fault
from tests.faults.world import STEPS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- table of faults: begin -->", "<!-- table of faults: end -->"
Seen = dict[str, dict[str, float]]


def read_results(folder: Path) -> Seen:
    """By fault and step, how long it took until the work went on, in seconds."""
    seen: Seen = {}
    for path in folder.glob("*.json"):
        cells = json.loads(path.read_text())
        seen[path.stem] = {cell["step"]: cell["seconds"] for cell in cells}
    return seen


def write_table(seen: Seen) -> str:
    """The table in Markdown: a row for each fault, a column for each step."""
    lines = [
        f"| fault | {' | '.join(STEPS)} |",
        f"|---|{'--:|' * len(STEPS)}",
        *(_row(fault, seen.get(fault.name)) for fault in FAULTS.values()),
    ]
    return "\n".join(lines)


def _row(fault: Fault, seconds: dict[str, float] | None) -> str:
    def cell(step: str) -> str:
        if step not in fault.steps:
            return "·"
        return "not run" if seconds is None else f"{seconds[step]:.0f} s"

    return f"| {fault.text} | {' | '.join(cell(step) for step in STEPS)} |"


def main() -> None:
    """Put the table into the page; exit code 1 if a fault was not run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what FAULTS_RESULTS named")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    seen = read_results(options.folder)
    page = options.output.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    options.output.write_text(f"{head}{BEGIN}\n{write_table(seen)}\n{END}{tail}")
    sys.exit(1 if FAULTS.keys() - seen.keys() else 0)


if __name__ == "__main__":
    main()
