"""All ratios in one table: `make bench`, or `python benchmarks/table.py elo memory`.

A row compares two contenders, measured alternately in one run (A B A B ...); its result is the
median of the ratios of the pairs. A row module has a function

    measure(*, pairs: int) -> Iterator[Row]

and runs in its own process, so that rows do not share threads or memory. A row module that cannot
run here raises `NotHereError`, which the table reports. Earlier rows that are not measured now are
kept unchanged, as are the hand-written sections below the table. With --collect, the pairs of
several short runs of a module are kept in a file, and its rows are those of all of them.
"""

import argparse
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
MODULES = (
    "engine_shapes",
    "engine_real_lengths",
    "vllm_stages",
    "whole_step",
    "elo",
    "dpo_step",
    "dpo_memory",
    "memory",
    "adaptive_battles",
    "identical_judgments",
    "two_engines",
    "two_workers",
    "two_vllm_engines",
    "flowing_stages",
)
PACKAGES = ("torch", "transformers", "trl", "numpy", "pyarrow")
_MARK = "ROW "
_HEAD = """\
# Benchmarks

Written by `make bench` (`benchmarks/table.py`). Each ratio is the median of at least five pairs
that are measured alternately in one run, unless the note says otherwise; the lowest and the highest
ratio are in brackets. A ratio above 1 is in our favour, except where the target is an upper bound;
"target" is what we aimed for. Absolute times depend on the machines named below and are not for
comparison. The sections after the table are older measurements.

| row | against | ratio | target | reached | measured | note |
|---|---|--:|--:|---|---|---|
"""


class NotHereError(Exception):
    """A row's contender or device is not on this machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is measured; the table has one row of each name.
        against: what it is compared with.
        ratios: one for each pair; the result is their median.
        at_least: the required bound; None if the row is only informative.
        note: absolute medians with units, versions of contenders, limits.
        at_most: whether the bound is an upper one.
    """

    name: str
    against: str
    ratios: Sequence[float]
    at_least: float | None
    note: str = ""
    at_most: bool = False

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def reached(self) -> bool | None:
        """Whether the bound is met; None without one."""
        if self.at_least is None:
            return None
        return self.ratio <= self.at_least if self.at_most else self.ratio >= self.at_least


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], *, pairs: int
) -> list[tuple[float, float]]:
    """Measure A and B alternately; each function returns its value (seconds, bytes, a rate)."""
    return [(ours(), theirs()) for _ in range(pairs)]


def format_row(row: Row, *, measured: str) -> str:
    """Write one line of Markdown."""
    sign = "≤" if row.at_most else "≥"
    wanted = "" if row.at_least is None else f"{sign} {row.at_least:g}"
    reached = {None: "", True: "yes", False: "no"}[row.reached]
    spread = f"{row.ratio:.3g} ({min(row.ratios):.3g} to {max(row.ratios):.3g})"
    cells = [row.name, row.against, spread, wanted, reached, measured, row.note]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def machine() -> str:
    """Describe the hardware and versions of the measurement."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _print_rows(module: str, pairs: int) -> None:
    """Runs in a separate process: measure one module's rows."""
    try:
        for row in importlib.import_module(module).measure(pairs=pairs):
            print(_MARK + json.dumps(asdict(row)), flush=True)
    except NotHereError as error:
        print(f"{module}: not measured here: {error}", flush=True)


def _measure(module: str, pairs: int) -> Iterator[Row]:
    """Run one module and forward its output; raises if it fails."""
    command = [sys.executable, __file__, "--pairs", str(pairs), "--child", module]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout or ():
            if line.startswith(_MARK):
                yield Row(**json.loads(line.removeprefix(_MARK)))
            else:
                print(line, end="", flush=True)
    if child.returncode:
        raise SystemExit(f"benchmarks/{module}.py failed; rows measured before it are written")


def _collect(row: Row, file: Path) -> Row:
    """Add a row's pairs to those that a file has of it."""
    kept = json.loads(file.read_text()) if file.is_file() else {}
    kept[row.name] = [*kept.get(row.name, ()), *row.ratios]
    file.write_text(json.dumps(kept))
    return replace(row, ratios=kept[row.name])


def _name(line: str) -> str:
    return line.split(" | ", 1)[0].removeprefix("| ")


def write_page(page: str, lines: Iterable[str], machines: str) -> str:
    """Return the page with these rows replacing those with the same names; sections are kept."""
    page, mark, sections = page.partition("\n## ")
    _, _, below = page.partition("|---|---|--:|--:|---|---|---|\n")
    table, _, foot = below.partition("\n\n")
    kept = {_name(line): line for line in table.splitlines() if line.startswith("| ")}
    kept |= {_name(line): line for line in lines}
    stood = [line for line in foot.splitlines() if line.startswith("- ") and line != machines]
    return (
        _HEAD
        + "\n".join(kept.values())
        + "\n\nMeasured on:\n\n"
        + "\n".join([*stood, machines, ""])
        + mark
        + sections
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="module", help=", ".join(MODULES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument(
        "--collect", type=Path, metavar="FILE", help="add the pairs to those of earlier runs"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _print_rows(options.child, options.pairs)
        return
    today = f"{datetime.now(tz=UTC):%Y-%m-%d}"
    for module in options.modules or MODULES:
        for measured in _measure(module, options.pairs):
            row = measured if options.collect is None else _collect(measured, options.collect)
            line = format_row(row, measured=today)
            print(line, flush=True)
            page = options.output.read_text(encoding="utf-8") if options.output.is_file() else ""
            text = write_page(page, [line], f"- {today}: {machine()}")
            options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
