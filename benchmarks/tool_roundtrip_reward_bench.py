"""RewardBench: exchange files with the real reward-bench code, in both directions.

The environment needs the tool's source (release 0.1.4 on the package index lacks the current score
of Ties) and only its small dependencies. torch, transformers and the reward models, which are not
needed for scores, are replaced by empty modules:

    git clone https://github.com/allenai/reward-bench
    git -C reward-bench checkout 05a9005
    python -m venv rb
    rb/bin/python -m pip install pandas datasets
    rb/bin/python -m pip install --no-deps ./reward-bench

    python -m benchmarks.tool_roundtrip_reward_bench rb/bin/python
"""

import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

if TYPE_CHECKING:
    from tool_roundtrip_rows import Comparison

Row = dict[str, Any]

TOOL = "reward-bench 05a9005"
ROUNDING = 1e-9  # of sums of a few hundred terms, in percentage points


# In the tool's environment: its code, and none of ours.


def import_tool() -> tuple[types.ModuleType, types.ModuleType]:
    """Import the tool's `utils` and `constants`, with empty modules instead of GPU packages."""
    importlib.import_module("datasets")  # before torch is replaced, because it looks for torch
    spec = importlib.util.find_spec("rewardbench")
    assert spec is not None, "the environment does not contain rewardbench"
    assert spec.submodule_search_locations is not None
    package = types.ModuleType("rewardbench")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["rewardbench"] = package
    absent = {name: MagicMock() for name in ("torch", "transformers", "rewardbench.models")}
    sys.modules.update(absent)
    utils = importlib.import_module("rewardbench.utils")
    for name in absent:
        del sys.modules[name]
    return utils, importlib.import_module("rewardbench.constants")


def score_inside(source: Path, target: Path) -> None:
    """Read rows of scores as the tool does, score them by its functions, write its files."""
    utils, constants = import_tool()
    given = json.loads(source.read_text(encoding="utf-8"))
    sections, pairs = _score_pairs(utils, constants, given["pairs"], strict=False)
    strict, classified = _score_pairs(utils, constants, given["pairs"], strict=True)
    subsets, lists = _score_lists(utils, given["lists"])
    found = {"sections": sections, "strict": strict, "subsets": subsets}
    files = {"pairs": pairs, "classified": classified, "lists": lists}
    target.write_text(json.dumps({"figures": found, "files": files}), encoding="utf-8")


def _score_pairs(
    utils: Any, constants: Any, rows: list[Row], *, strict: bool
) -> tuple[dict[str, float], Row]:
    """Compute sections and the tool's columns; equal scores are wrong if strict, else half."""
    results = [_pair_result(row, 0 if strict else 0.5) for row in rows]
    found = {}
    for subset in sorted({row["subset"] for row in rows}):
        own = [r for row, r in zip(rows, results, strict=True) if row["subset"] == subset]
        found[subset] = sum(own) / len(own)
    sections = utils.calculate_scores_per_section(
        constants.EXAMPLE_COUNTS, constants.SUBSET_MAPPING, found
    )
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return sections, columns | {"results": results, "model": "tool"}


def _pair_result(row: Row, equal: float) -> float:
    chosen, rejected = row["scores_chosen"], row["scores_rejected"]
    return equal if chosen == rejected else float(chosen > rejected)


def _score_lists(utils: Any, rows: list[Row]) -> tuple[dict[str, float], Row]:
    """Compute scores of version 2's subsets, and the tool's columns."""
    from datasets import Dataset

    flat = [
        {"id": row["id"], "subset": row["subset"], "place": place, "text": "", "scores": score}
        for place, row in enumerate(rows)
        for score in row["scores"]
    ]
    sizes = [len(row["scores"]) for row in rows]
    whole = utils.reroll_and_score_dataset(Dataset.from_list(flat), sizes)
    whole = whole.add_column("num_correct", [row["num_correct"] for row in rows])
    found = {}
    for subset in sorted(set(whole["subset"])):
        own = whole.filter(lambda row, subset=subset: row["subset"] == subset)
        if subset.lower() == "ties":
            _, found[subset] = utils.process_single_model(own)
        else:
            found[subset] = sum(own["results"]) / len(own["results"])
    return found, whole.remove_columns(["text", "place"]).to_dict() | {"model": "tool"}


# In our own environment.


def compare(python: Path) -> "list[Comparison]":
    """Score generated rows with both, each reading the other's files.

    Args:
        python: the interpreter of the environment above.
    """
    from meta_reward_core.evaluation.reward_bench import read_scored_items, write_scored_items
    from tests.core.evaluation import generated_rows
    from tests.core.evaluation.rows import write_lines

    pairs = generated_rows.reward_bench_rows()
    lists = generated_rows.best_of_four_rows() + generated_rows.ties_rows()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = {}
        for kind, rows in (("pairs", pairs), ("lists", lists)):
            path = write_lines(folder / f"{kind}.jsonl", rows)
            write_scored_items(folder / f"ours-{kind}.jsonl", read_scored_items(path))
            lines = (folder / f"ours-{kind}.jsonl").read_text(encoding="utf-8").splitlines()
            ours[kind] = [json.loads(line) for line in lines]
        given, back = folder / "ours.json", folder / "theirs.json"
        given.write_text(json.dumps(ours), encoding="utf-8")
        subprocess.run([python, __file__, "--inside", given, back], check=True)
        said = json.loads(back.read_text(encoding="utf-8"))
        return _compare_figures(folder, said["figures"], said["files"])


def _compare_figures(
    folder: Path, metrics: dict[str, dict[str, float]], files: dict[str, Row]
) -> "list[Comparison]":
    """Compare our scores of our files and of the tool's with the tool's scores of ours."""
    from tool_roundtrip_rows import Comparison

    from meta_reward_core.evaluation.reward_bench import read_scored_items, score_reward_bench

    for kind, columns in files.items():
        (folder / f"theirs-{kind}.json").write_text(json.dumps(columns), encoding="utf-8")
    plan = (
        ("our pairs", "ours-pairs.jsonl", "sections"),
        ("its pairs, generative", "theirs-pairs.json", "sections"),
        ("its pairs, classifier", "theirs-classified.json", "strict"),
        ("our lists", "ours-lists.jsonl", "subsets"),
        ("its lists", "theirs-lists.json", "subsets"),
    )
    return [
        Comparison(
            TOOL,
            f"{what}: {name}",
            score_reward_bench(read_scored_items(folder / file)).get_metric(name).value,
            100 * value,
            ROUNDING,
        )
        for what, file, kind in plan
        for name, value in metrics[kind].items()
    ]


def main() -> None:
    if sys.argv[1] == "--inside":
        score_inside(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    for row in compare(Path(sys.argv[1])):
        print(f"{row.what:<40} {row.ours!s:>22} {row.theirs!s:>22} {row.agrees}")


if __name__ == "__main__":
    main()
