"""Run FastChat's own code on files, in its own environment.

    python fastchat_side.py FOLDER

FOLDER contains `judgments.jsonl` and `texts.json`: texts of judges. The output is `seen.json`.
`llm_judge` runs unchanged, except that the client libraries of servers are replaced by empty
modules, and server replies by the texts.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

JUDGE = "gpt-4"


def main() -> None:
    folder = Path(sys.argv[1])
    for name in ("openai", "anthropic", "fastchat.model", "fastchat.model.model_adapter"):
        sys.modules[name] = MagicMock(OPENAI_MODEL_LIST=[JUDGE], ANTHROPIC_MODEL_LIST=[])
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    seen = {"points": list(map(judge_text, texts)), "scores": show_results(folder)}
    (folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")


def judge_text(text: str) -> float:
    """Return the score that `run_judge_single` parses from a judge's reply; -1 without one."""
    common = import_module("fastchat.llm_judge.common")
    template = {
        "system_prompt": "",
        "prompt_template": "{question}{answer}",
        "output_format": "[[rating]]",
    }
    turns: dict[str, Any] = {"turns": [""], "choices": [{"turns": [""]}]}
    with patch.object(common, "chat_completion_openai", return_value=text):
        score, _, _ = common.run_judge_single(turns, turns, common.Judge(JUDGE, template), None)
    return float(score)


def show_results(folder: Path) -> dict[str, dict[str, float]]:
    """The three tables that `show_result.py` prints, by model."""
    pandas = import_module("pandas")
    show = import_module("fastchat.llm_judge.show_result")
    options = MagicMock(
        input_file=str(folder / "judgments.jsonl"), bench_name="mt_bench", model_list=None
    )
    tables: list[Any] = []
    watched = pandas.DataFrame.sort_values

    def sort_values(table: Any, *arguments: Any, **named: Any) -> Any:
        tables.append(table)
        return watched(table, *arguments, **named)

    with patch.object(pandas.DataFrame, "sort_values", sort_values):
        show.display_result_single(options)
    names = ("turn_1", "turn_2", "all")
    return {
        name: {model: float(score) for model, score in by_model(table).items()}
        for name, table in zip(names, tables, strict=True)
    }


def by_model(table: Any) -> dict[str, float]:
    scores: dict[Any, float] = table["score"].to_dict()
    return {key[0] if isinstance(key, tuple) else key: score for key, score in scores.items()}


if __name__ == "__main__":
    main()
