"""A sample of the matrix, for `make test-slow`: a few whole runs, with another fault in each step.

A run can strike each step once, and steps of one kind behave alike: four draw tokens, three only
compute. So the sample is chosen by pairs of a kind of fault and a kind of step. It covers every
fault, and every kind of fault against every kind of step that so few runs have room for; the whole
matrix is for `make test-faults`. `test_sample` says, and holds, what exactly it covers.
"""

from typing import Final

from tests.faults.faults import FAULTS, KINDS
from tests.faults.matrix import Plan
from tests.faults.world import STEPS

RUNS: Final = 3
SKEWED_RUN: Final = 2
"""In this run every process has a clock of its own."""

KIND_OF_STEP: Final = {
    "sample": "computes",
    "generate": "draws tokens",
    "judge": "draws tokens",
    "pair_actor": "computes",
    "meta_judge": "draws tokens",
    "pair_judge": "computes",
    "train": "trains",
    "evaluate": "draws tokens",
    "answer": "answer",
    "export": "export",
}
KIND_OF_FAULT: Final = {name: kind for kind, names in KINDS.items() for name in names}

Cell = tuple[str, str]
"""A step, and the name of a fault."""


def choose_sample() -> list[Plan]:
    """Choose a fault for each step of each run, the same ones every time.

    Steps that a run has once come first, for they have the fewest places.
    """
    by_room = sorted(STEPS, key=lambda step: (_room(step), step))
    chosen: list[dict[str, str]] = [{} for _ in range(RUNS)]
    taken: list[Cell] = []
    for step in by_room:
        for run in chosen:
            name = min(
                (name for name in _possible(step) if name not in run.values()),
                key=lambda name: _cost((step, name), taken),
            )
            run[step] = name
            taken.append((step, name))
    return [{step: FAULTS[run[step]] for step in STEPS} for run in chosen]


def pair_of(cell: Cell) -> Cell:
    """What a cell stands for: a kind of step, and a kind of fault."""
    step, name = cell
    return KIND_OF_STEP[step], KIND_OF_FAULT[name]


def _room(step: str) -> int:
    """How many steps of its kind there are."""
    return list(KIND_OF_STEP.values()).count(KIND_OF_STEP[step])


def _possible(step: str) -> list[str]:
    return [name for name in KIND_OF_FAULT if step in FAULTS[name].steps]


def _cost(cell: Cell, taken: list[Cell]) -> tuple[bool, int, int, int]:
    """Least first: faults that are new, pairs that are rare, then kinds with most yet to take."""
    _, name = cell
    faults = [one for _, one in taken]
    pairs = [pair_of(one) for one in taken].count(pair_of(cell))
    left = set(KINDS[KIND_OF_FAULT[name]]) - set(faults)
    return name in faults, pairs, faults.count(name), -len(left)
