"""AlpacaEval: exchange files with the real alpaca_eval code, in both directions.

The environment contains the released tool; the expected metrics in the tests are from these
versions:

    python -m venv ae
    ae/bin/python -m pip install alpaca_eval==0.6.6 scikit-learn==1.9.1 pandas==3.1.1

    python -m benchmarks.tool_roundtrip_alpaca_eval ae/bin/python

The tool's own `evaluate` reads outputs and leaderboard, pairs, scores and writes. Only the
annotator is replaced: it looks up preferences instead of calling a service. The instruction
difficulty file, which the tool would download, is generated here.
"""

import csv
import importlib
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tool_roundtrip_rows import Comparison

Row = dict[str, Any]

TOOL = "alpaca_eval 0.6.6"
ROUNDING = 1e-9  # of sums of a few hundred terms, in percentage points
CONTROLLED = 0.05
"""Tolerance of length-controlled rates in points.

The tool's solver stops at a change of 0.0001, ours at 1e-9. With other versions of scikit-learn
than 1.9 its folds differ, too, which can change its rate by up to 0.45.
"""

SIZE = 200
UNRATED = tuple(range(0, SIZE, 7))
CASES: dict[str, tuple[str, tuple[int, ...]]] = {
    "all rated": ("length_controlled_minimal", ()),
    "every seventh unrated": ("length_controlled_minimal", UNRATED),
    "with difficulty": ("length_controlled_noreg", ()),
    "with difficulty, every seventh unrated": ("length_controlled_noreg", UNRATED),
}
"""A comparison: the tool's regression, and the rows without a preference."""

TOLERANCES = {
    "n_wins": 0.0,
    "n_draws": 0.0,
    "n_total": 0.0,
    "avg_length": 0.0,
    "win_rate": ROUNDING,
    "standard_error": ROUNDING,
    "discrete_win_rate": ROUNDING,
    "length_controlled_winrate": CONTROLLED,
}


# Runs in the environment of the tool, without our code.


def evaluate_inside(folder: Path, regression: str) -> None:
    """Let the tool evaluate the outputs in a folder with its annotations."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    tool, annotators, regressions = (
        importlib.import_module(f"alpaca_eval.{name}")
        for name in ("main", "annotators", "metrics.glm_winrate")
    )
    vars(regressions)["hf_hub_download"] = lambda **_: folder / "gamed.csv"
    rows = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    known = {(row["output_1"], row["output_2"]): row["preference"] for row in rows}

    def start(self: Any, **_: object) -> None:
        self.input_keys = ["instruction"]

    def look_up(_self: Any, pairs: Any, **_: object) -> list[Row]:
        found = pairs.to_dict(orient="records")
        said = [known[row["output_1"], row["output_2"]] for row in found]
        return [
            row | {"annotator": "judge", "preference": preference}
            for row, preference in zip(found, said, strict=True)
        ]

    # The tool's own pairing of outputs, with preferences from a file.
    methods = {"__init__": start, "__call__": look_up}
    tool.evaluate(
        model_outputs=folder / "model_outputs.json",
        reference_outputs=folder / "baseline_outputs.json",
        annotators_config="judge",
        Annotator=type("Lookup", (annotators.PairwiseAnnotator,), methods),
        output_path=folder / "theirs",
        precomputed_leaderboard=folder / "leaderboard.csv",
        is_cache_leaderboard=False,
        is_return_instead_of_print=True,
        metric_kwargs={"glm_name": regression, "save_weights_dir": None},
    )


# In our own environment.


def compare(python: Path) -> "list[Comparison]":
    """Score generated annotations with both, each reading the other's files.

    Args:
        python: the interpreter of the environment above.
    """
    found = []
    for case, (regression, unrated) in CASES.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write_files(folder, unrated)
            subprocess.run([python, __file__, "--inside", folder, regression], check=True)
            found += _compare_case(folder, case, regression)
    return found


def _write_files(folder: Path, unrated: tuple[int, ...]) -> None:
    """Our files of generated annotations, and the tool's file of difficulty."""
    from meta_reward_core.evaluation import alpaca_eval_io
    from tests.core.evaluation.generated_rows import alpaca_rows
    from tests.core.evaluation.rows import write_array

    rows = alpaca_rows(SIZE, seed=11, quality=0.6, unrated=unrated)
    annotations = alpaca_eval_io.read_annotations(write_array(folder / "generated.json", rows))
    alpaca_eval_io.write_annotations(folder / "annotations.json", annotations)
    for name, side in (("baseline", 1), ("model", 2)):
        outputs = [
            alpaca_eval_io.ModelOutput(
                row["instruction"], row[f"output_{side}"], row[f"generator_{side}"], row["dataset"]
            )
            for row in rows
        ]
        alpaca_eval_io.write_outputs(folder / f"{name}_outputs.json", outputs)
    other = {"win_rate": "12.5", "standard_error": "0.5", "length_controlled_winrate": "10.25"}
    alpaca_eval_io.write_leaderboard(folder / "leaderboard.csv", {"other": other})
    columns = ("model", "index", "instruction_difficulty", "preference", "std_delta_len")
    with (folder / "gamed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*columns, "not_gamed_baseline"))
        for number, row in enumerate(rows):
            writer.writerow(("none", number, row["instruction_difficulty"], 0.5, 0.0, False))


def _compare_case(folder: Path, case: str, regression: str) -> "list[Comparison]":
    from tool_roundtrip_rows import Comparison

    from meta_reward_core.evaluation import alpaca_eval_io

    board = alpaca_eval_io.read_leaderboard(folder / "theirs" / "judge" / "leaderboard.csv")
    rows = [
        Comparison(
            TOOL,
            f"{case}, {what}: {name}",
            card.columns[name],
            float(board["mine"][name]),
            tolerance,
        )
        for what, card in _our_cards(folder, regression).items()
        for name, tolerance in TOLERANCES.items()
    ]
    rate = board["other"]["win_rate"]
    return [*rows, Comparison(TOOL, f"{case}, the other row of our board", "12.5", rate)]


def _our_cards(folder: Path, regression: str) -> "dict[str, Any]":
    """Return our metrics for our annotations and for the tool's, which lack the difficulty."""
    from dataclasses import replace

    from meta_reward_core.evaluation import alpaca_eval_io
    from meta_reward_core.evaluation.win_rate import score_annotations

    ours = alpaca_eval_io.read_annotations(folder / "annotations.json")
    theirs = alpaca_eval_io.read_annotations(folder / "theirs" / "judge" / "annotations.json")
    if regression == "length_controlled_noreg":
        theirs = alpaca_eval_io.add_difficulty(folder / "gamed.csv", theirs)
    else:
        ours = [replace(row, difficulty=None) for row in ours]
    files = {"our annotations": ours, "its annotations": theirs}
    return {what: score_annotations(rows, rounds=2) for what, rows in files.items()}


def main() -> None:
    if sys.argv[1] == "--inside":
        evaluate_inside(Path(sys.argv[2]), sys.argv[3])
        return
    for row in compare(Path(sys.argv[1])):
        print(f"{row.what:<88} {row.ours!s:>20} {row.theirs!s:>20} {row.agrees}")


if __name__ == "__main__":
    main()
