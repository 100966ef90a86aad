"""What the sample of `make test` covers; docs/reliability.md says the same."""

from tests.faults.faults import FAULTS
from tests.faults.sample import KIND_OF_FAULT, KIND_OF_STEP, RUNS, choose_sample, pair_of
from tests.faults.world import STEPS

SAMPLE = choose_sample()
CELLS = [(step, fault.name) for plan in SAMPLE for step, fault in plan.items()]
POSSIBLE = [(step, name) for step in STEPS for name in KIND_OF_FAULT if step in FAULTS[name].steps]
PAIRS = {pair_of(cell) for cell in POSSIBLE}
COVERED = {pair_of(cell) for cell in CELLS}


def test_every_run_strikes_every_step_where_the_fault_makes_sense() -> None:
    assert len(SAMPLE) == RUNS
    assert all(list(plan) == list(STEPS) for plan in SAMPLE)
    assert set(CELLS) <= set(POSSIBLE)
    assert all(len({fault.name for fault in plan.values()}) == len(STEPS) for plan in SAMPLE)


def test_every_fault_is_tried() -> None:
    assert {name for _, name in CELLS} == KIND_OF_FAULT.keys()


def test_the_steps_that_there_are_several_of_meet_every_kind_of_fault() -> None:
    assert {pair for pair in PAIRS if pair[0] in {"draws tokens", "computes"}} <= COVERED


def test_the_steps_that_there_are_one_of_meet_as_many_kinds_as_there_are_runs() -> None:
    """A run has one training, one answer and one export: more than 3 kinds each is not possible."""
    for kind in ("trains", "answer", "export"):
        assert len({pair for pair in COVERED if pair[0] == kind}) == RUNS


def test_that_makes_25_of_34_pairs() -> None:
    """8 kinds of faults for steps that draw, 8 for those that compute; 3 + 3 + 3 of the others."""
    assert len(COVERED) == 8 + 8 + 3 * 3
    assert len(PAIRS) == 34


def test_the_choice_is_the_same_every_time() -> None:
    assert choose_sample() == SAMPLE


def test_every_step_is_of_one_kind() -> None:
    assert list(KIND_OF_STEP) == list(STEPS)
