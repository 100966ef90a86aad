"""Files that the tests of the evaluation write."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meta_reward_core.evaluation.alpaca_eval_io import Annotation


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def write_array(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text(json.dumps(list(rows)))
    return path


def annotation_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    row = {
        "instruction": f"question {number}?",
        "output_1": f"the baseline's answer {number}",
        "generator_1": "baseline",
        "output_2": f"the answer of the model to {number}",
        "generator_2": "model",
        "annotator": "judge",
        "preference": 2.0,
    }
    return row | changes


def annotations(
    preferences: Sequence[float | None],
    *,
    baseline_chars: Sequence[int] | None = None,
    model_chars: Sequence[int] | None = None,
) -> list[Annotation]:
    """One annotation per preference; texts of the given lengths, all different."""
    size = len(preferences)
    return [
        Annotation(
            instruction=f"question {number}?",
            output_1=text(number, (baseline_chars or [100] * size)[number]),
            generator_1="baseline",
            output_2=text(number + size, (model_chars or [120] * size)[number]),
            generator_2="model",
            annotator="judge",
            preference=preference,
        )
        for number, preference in enumerate(preferences)
    ]


def text(number: int, chars: int) -> str:
    return f"{number:08d}".ljust(chars, "x")[:chars]
