"""Run arena-hard-auto's own code on files, in its own environment.

    python arena_hard_side.py CHECKOUT VERSION FOLDER

FOLDER has the layout of the tool (`data/<benchmark>/model_judgment/<judge>/*.jsonl` and
`data/<benchmark>/model_answer/*.jsonl`), and holds `texts.json`: texts of judges, and answers for
style counts. The output is `seen.json`. The functions are those of the tool; the bootstrap is
wrapped to record its features, and modules that only call servers are replaced by empty ones.
"""

import csv
import json
import os
import re
import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

JUDGE = "judge"
BENCHMARKS = {"0.1": "arena-hard-v0.1", "2.0": "arena-hard-v2.0"}


def main() -> None:
    checkout, version, folder = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]
    sys.path[0] = str(checkout)
    os.chdir(folder)
    for name in ("boto3", "shortuuid", "tiktoken", "requests"):
        sys.modules[name] = MagicMock()
    texts = json.loads(Path("texts.json").read_text(encoding="utf-8"))
    seen = {
        "marks": find_marks(checkout, version, texts["judgments"]),
        "styles": count_styles(version, texts["answers"]),
        "scores": score_first_version() if version == "0.1" else score_second_version(),
    }
    Path("seen.json").write_text(json.dumps(seen), encoding="utf-8")


def find_marks(checkout: Path, version: str, texts: list[str]) -> list[str | None]:
    """Return the score that `gen_judgment.py` writes for each text."""
    import yaml

    judging = import_module("gen_judgment")
    name = "judge_config.yaml" if version == "0.1" else "arena-hard-v2.0.yaml"
    settings = yaml.safe_load((checkout / "config" / name).read_text(encoding="utf-8"))
    if version == "0.1":
        pattern = re.compile(settings["regex_pattern"])
        return [judging.get_score(text, pattern)[0] for text in texts]
    return [judging.get_score(text, settings["regex_patterns"]) for text in texts]


def count_styles(version: str, answers: list[str]) -> list[list[int]]:
    """Headers, list items and bold passages of each answer; tokens need a download."""
    pandas = import_module("pandas")
    first = version == "0.1"
    module = import_module("add_markdown_info" if first else "utils.add_markdown_info")
    column = (
        [[{"turns": [{"content": text}]}] for text in answers]
        if first
        else [[{"content": {"answer": text}}] for text in answers]
    )
    counts = module.get_element_counts(pandas.DataFrame({"texts": column}), column="texts")
    names = ("header_count", "list_count", "bold_count")
    return [[sum(one[name].values()) for name in names] for one in counts]


def score_first_version() -> dict[str, Any]:
    """Return each model's row of the leaderboard that `show_result.py --output` writes."""
    Path("leaderboard").mkdir(exist_ok=True)
    sys.argv = ["show_result.py", "--judge-name", JUDGE, "--output"]
    runpy.run_path(f"{sys.path[0]}/show_result.py", run_name="__main__")
    battles = Path("data/arena_hard_battles.jsonl").read_text(encoding="utf-8").splitlines()
    (board,) = Path("leaderboard").glob("*.csv")
    with board.open(encoding="utf-8", newline="") as lines:
        rows = {row["model"]: row for row in csv.DictReader(lines)}
    return {"battles": len(battles), "rows": rows}


def score_second_version() -> dict[str, Any]:
    """Return by category the battles, the leaderboard, and input and output of style control."""
    import numpy as np

    show = import_module("show_result")
    battles = show.load_judgments([JUDGE], BENCHMARKS["2.0"])
    found = {}
    for category in sorted(battles.category.unique()):
        own = battles[battles.category == category].reset_index(drop=True)
        np.random.seed(0)  # The tool uses the global random generator.
        found[category] = {
            "battles": own.groupby("model").scores.count().to_dict(),
            "means": own.groupby("model").scores.mean().astype(float).to_dict(),
            "board": watch_boards(show, show.print_leaderboard, own, category),
            **control_style(show, own, category),
        }
    return found


def control_style(show: Any, battles: Any, category: str) -> dict[str, Any]:
    """Compute the leaderboard at equal length and markdown, with features and model names."""
    given: list[Any] = []
    bootstrap = show.bootstrap_pairwise_model

    def watched(features: Any, outcomes: Any, **options: Any) -> Any:
        given.append(features)
        return bootstrap(features, outcomes, **options)

    show.bootstrap_pairwise_model = watched
    names = [[row.model, row.uid] for row in battles.itertuples()]
    board = watch_boards(
        show,
        show.print_leaderboard_with_style_features,
        battles,
        BENCHMARKS["2.0"],
        category,
        ["length", "markdown"],
    )
    show.bootstrap_pairwise_model = bootstrap
    features = [[*name, *row[-4:]] for name, row in zip(names, given[0].tolist(), strict=True)]
    return {"controlled": board, "features": features}


def watch_boards(show: Any, prints: Any, *arguments: Any) -> dict[str, list[float]]:
    """Score and band in percent by model, before they are rounded and printed."""
    boards: list[Any] = []
    formatted = show.format_confidence_interval

    def watched(means: Any, lower: Any, upper: Any, baseline: str | None = None) -> Any:
        boards.append(means.merge(lower, on="model").merge(upper, on="model"))
        return formatted(means, lower, upper, baseline)

    show.format_confidence_interval = watched
    prints(*arguments)
    show.format_confidence_interval = formatted
    rows = boards[0].itertuples()
    return {row.model: [100 * row.scores, 100 * row.lower, 100 * row.upper] for row in rows}


if __name__ == "__main__":
    main()
