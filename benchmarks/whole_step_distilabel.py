"""distilabel's side of whole_step.py: generates and judges once per input line.

Runs in its own environment: `.venv-distilabel/bin/python benchmarks/whole_step_distilabel.py
TASK`.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import torch
from distilabel.models import TransformersLLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepInput, step
from distilabel.steps.tasks import TextGeneration
from distilabel.typing import StepOutput


@step(inputs=["instruction", "generation", "template", "rubric"], outputs=["judged"])  # type: ignore[untyped-decorator]
def show_to_judge(inputs: StepInput) -> StepOutput:
    """Fill the judge's template for each distinct answer."""
    seen = set()
    rows = []
    for row in inputs:
        key = row["instruction"], row["generation"]
        if key not in seen:
            seen.add(key)
            values = {
                "{rubric}": row["rubric"],
                "{instruction}": row["instruction"],
                "{response}": row["generation"] or "",
            }
            judged = row["template"]
            for place, text in values.items():
                judged = judged.replace(place, text)
            rows.append({**row, "judged": judged})
    yield rows


def model(task: dict[str, Any], role: str) -> TransformersLLM:
    recipe = task[role]
    return TransformersLLM(
        model=task["folder"],
        device="cpu",
        torch_dtype="float32",
        generation_kwargs={
            "max_new_tokens": recipe["max_new_tokens"],
            "temperature": recipe["temperature"],
            "top_p": recipe["top_p"],
            "do_sample": True,
        },
    )


def run(task: dict[str, Any]) -> int:
    """Run one pipeline; return the number of judgments."""
    with Pipeline(name="generate-and-judge") as pipeline:
        load = LoadDataFromDicts(
            data=[
                {"instruction": text, "template": task["template"], "rubric": task["rubric"]}
                for text in task["texts"]
            ],
            batch_size=len(task["texts"]),
        )
        answer = TextGeneration(
            llm=model(task, "actor"),
            num_generations=task["actor"]["samples"],
            input_batch_size=len(task["texts"]),
        )
        show = show_to_judge(
            input_batch_size=len(task["texts"]) * task["actor"]["samples"],
        )
        judge = TextGeneration(
            name="judge",
            llm=model(task, "judge"),
            num_generations=task["judge"]["samples"],
            input_mappings={"instruction": "judged"},
            output_mappings={"generation": "judgment"},
        )
        load >> answer >> show >> judge
    made = pipeline.run(use_cache=False)
    return len(made["default"]["train"])


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(task["threads"])
    for _ in sys.stdin:
        began = time.perf_counter()
        judgments = run(task)
        print("drawn", judgments, time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
