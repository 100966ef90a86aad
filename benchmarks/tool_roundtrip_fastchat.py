"""Exchange MT-Bench files with FastChat's own `llm_judge`.

Both sides process rows in FastChat's format; its `show_result.py` reads our judgments, and its
`run_judge_single` parses texts of judges.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tool_roundtrip_rows import Comparison

from meta_reward_core.evaluation.mt_bench import (
    TurnJudgment,
    parse_rating,
    read_turn_judgments,
    score_mt_bench,
    write_turn_judgments,
)
from tests.core.evaluation import tool_data

TOOL: Final = "fastchat"
FIGURES: Final = ("all", "turn_1", "turn_2")


def compare(python: Path) -> list[Comparison]:
    """Run FastChat in the environment of `python`."""
    with tempfile.TemporaryDirectory() as folder:
        given, written = Path(folder) / "given", Path(folder) / "written"
        for work in (given, written):
            work.mkdir()
        rows = tool_data.mt_bench_judgments()
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (given / "judgments.jsonl").write_text(lines, encoding="utf-8")
        judgments = read_turn_judgments([given / "judgments.jsonl"])
        write_turn_judgments(written / "judgments.jsonl", judgments)
        theirs = run_tool(python, given)
        return [
            *_compare_points(theirs["points"]),
            *_compare_means("its rows", judgments, theirs["scores"]),
            *_compare_means("our rows", judgments, run_tool(python, written)["scores"]),
            *_compare_means(
                "our rows, read again",
                read_turn_judgments([written / "judgments.jsonl"]),
                theirs["scores"],
            ),
        ]


def run_tool(python: Path, work: Path) -> dict[str, Any]:
    (work / "texts.json").write_text(json.dumps(tool_data.MT_BENCH_TEXTS), encoding="utf-8")
    side = Path(__file__).with_name("fastchat_side.py")
    done = subprocess.run([python, side, work], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"FastChat could not read {work.name}:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads((work / "seen.json").read_text(encoding="utf-8"))
    return found


def _compare_points(theirs: Sequence[float]) -> Iterator[Comparison]:
    for text, points in zip(tool_data.MT_BENCH_TEXTS, theirs, strict=True):
        ours = parse_rating(text)
        yield Comparison(TOOL, f"points in {text!r}", -1.0 if ours is None else ours, points)


def _compare_means(
    what: str, judgments: Sequence[TurnJudgment], theirs: Mapping[str, Mapping[str, float]]
) -> Iterator[Comparison]:
    for card in score_mt_bench(judgments):
        for name in FIGURES:
            ours = card.get_metric(name).value
            label = f"{what}: {card.model}, {name}"
            yield Comparison(TOOL, label, ours, theirs[name][card.model], 1e-9)
