"""Write the table of docs/reliability.md from what the runs have left: `make test-faults`.

python -m tests.faults.table [FOLDER] [--output docs/reliability.md]

Each row has a file of its own, which its run writes anew: so a run of some rows changes no other,
and a row whose last run failed says so instead of keeping figures that no longer hold.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from meta_reward_core.data.file_io import replace_between
from tests.faults.faults import FAULTS, Fault
from tests.faults.world import STEPS

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = DOCS / "reliability.md"
RESULTS: Final = DOCS / "reliability"
BEGIN, END = "<!-- table of faults: begin -->", "<!-- table of faults: end -->"

Seconds = Mapping[str, float]
"""By step, from the end of a fault until the work went on."""


def write_result(folder: Path, fault: Fault, seconds: Seconds | None) -> None:
    """Leave what a run has seen; None while it has not ended well."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = None if seconds is None else {step: round(took, 1) for step, took in seconds.items()}
    text = json.dumps({"steps": steps}, indent=1)
    (folder / f"{fault.name}.json").write_text(f"{text}\n", encoding="utf-8")


def read_results(folder: Path) -> dict[str, Seconds | None]:
    """By fault what its last run left; faults that were never run are not among them."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["steps"]
        for path in folder.glob("*.json")
    }


def write_table(seen: Mapping[str, Seconds | None]) -> str:
    """The table in Markdown: a row for each fault, a column for each step."""
    lines = [
        f"| fault | {' | '.join(STEPS)} |",
        f"|---|{'--:|' * len(STEPS)}",
        *(_row(fault, seen.get(fault.name, {})) for fault in FAULTS.values()),
    ]
    return "\n".join(lines)


def _row(fault: Fault, seconds: Seconds | None) -> str:
    def cell(step: str) -> str:
        if step not in fault.steps:
            return "·"
        if seconds is None:
            return "failed"
        return f"{seconds[step]:.0f} s" if step in seconds else "not run"

    return f"| {fault.text} | {' | '.join(cell(step) for step in STEPS)} |"


def missing(seen: Mapping[str, Seconds | None]) -> list[str]:
    """Faults of which not every step was seen to end well."""
    return [
        fault.name
        for fault in FAULTS.values()
        if not set(fault.steps) <= set(seen.get(fault.name) or {})
    ]


def main() -> None:
    """Put the table into the page; exit code 1 if a cell is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS, help="FAULTS_RESULTS")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    seen = read_results(options.folder)
    page = options.output.read_text(encoding="utf-8")
    text = replace_between(page, BEGIN, END, write_table(seen))
    options.output.write_text(text, encoding="utf-8")
    if missing(seen):
        sys.exit(f"not run, or failed: {', '.join(missing(seen))}")


if __name__ == "__main__":
    main()
