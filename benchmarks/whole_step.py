"""Generation and judging of 64 prompts: our stages, a plain loop, and distilabel's pipeline.

    python benchmarks/table.py whole_step

The toy base model with the recipe `miniature` on this CPU: 7 responses per prompt, 11 judgments of
each distinct response. Times include loading the model, our files, and distilabel's processes and
files. The plain loop calls `generate` for one prompt at a time, with all its samples. distilabel
runs in .venv-distilabel, which this module creates if necessary; it needs transformers 4, so it
gets a converted copy of the model.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from subprocess_client import asked_process
from synthetic_experiment import stage_named
from table import NotHereError, Row
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from meta_reward_core.experiment import Experiment
from meta_reward_core.method.generation import build_actor_conversation
from meta_reward_core.method.judging import build_judge_conversation
from meta_reward_core.planning.engine_loading import make_stage_resources
from meta_reward_core.planning.experiment_request import ExperimentRequest
from meta_reward_core.planning.experiment_setup import open_or_create
from meta_reward_core.recipes.schema import DecodingRecipe
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model

PROMPTS = 64
THREADS = 2
HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / ".venv-distilabel"


@dataclass(frozen=True)
class Work:
    """An experiment with sampled prompts, and the folder for model copies and task files."""

    root: Path
    experiment: Experiment
    texts: list[str]


def begin(root: Path, name: str) -> Work:
    roots = StorageRoots(str(root / "artifacts"), root / "models", root / "scratch")
    changes = (
        f"sample.prompts={PROMPTS}",
        f"prompts_per_shard={PROMPTS}",
        f"engine.threads={THREADS}",
    )
    request = ExperimentRequest(name, recipe="miniature", changes=changes, seed=1)
    experiment = open_or_create(request, roots, say=lambda _: None)
    context, resources = (
        experiment.build_context(1),
        make_stage_resources(experiment, roots, number=1),
    )
    stage_named("sample").run_shard(context, 0, resources)
    return Work(root, experiment, context.files.read("prompts")["text"].to_pylist())


def seconds_of_ours(root: Path, name: str) -> float:
    work = begin(root, name)
    roots = StorageRoots(str(root / "artifacts"), root / "models", root / "scratch")
    context, resources = (
        work.experiment.build_context(1),
        make_stage_resources(work.experiment, roots, number=1),
    )
    began = time.perf_counter()
    for stage in ("generate", "judge"):
        stage_named(stage).run_shard(context, 0, resources)
    return time.perf_counter() - began


def seconds_of_loop(work: Work) -> float:
    """Process one prompt after another."""
    recipe, templates = work.experiment.recipe, work.experiment.templates
    torch.set_num_threads(THREADS)
    began = time.perf_counter()
    ask = load_loop(work.experiment.seed_model.folder)
    for text in work.texts:
        asked = build_actor_conversation(text, system_prompt=None)
        for answer in dict.fromkeys(ask(asked, recipe.actor, recipe.actor.samples)):
            shown = build_judge_conversation(
                templates.judge, rubric=templates.rubric, instruction=text, response=answer
            )
            ask(shown, recipe.judge, recipe.judge.samples)
    return time.perf_counter() - began


def load_loop(folder: Path) -> Callable[[Any, DecodingRecipe, int], list[str]]:
    """A model that answers one conversation at a time."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()

    def ask(conversation: Any, recipe: DecodingRecipe, samples: int) -> list[str]:
        ids = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            sampled = model.generate(
                **ids,
                do_sample=True,
                temperature=recipe.temperature,
                top_p=recipe.top_p,
                top_k=0,
                max_new_tokens=recipe.max_new_tokens,
                num_return_sequences=samples,
            )
        found: list[str] = tokenizer.batch_decode(
            sampled[:, ids["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return found

    return ask


def copy_for_transformers_4(folder: Path, target: Path) -> Path:
    """Write the same weights and tokenizer, with config files of that version."""
    shutil.copytree(folder, target)
    change_json(target / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    rope = json.loads((folder / "config.json").read_text(encoding="utf-8"))["rope_parameters"]
    change_json(target / "config.json", rope_theta=rope["rope_theta"])
    return target


def change_json(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | values
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")


def distilabel_python() -> Path:
    """Return the Python of an environment with distilabel; create it if necessary.

    Raises:
        NotHereError: it cannot be installed.
    """
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / ".installed"
    if not done.exists():
        requirements = HERE / "requirements-distilabel.txt"
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
            subprocess.run(install, check=True)
        except subprocess.CalledProcessError as error:
            raise NotHereError(f"distilabel cannot be installed: {error}") from error
        done.touch()
    return python


def write_task(work: Work) -> Path:
    """What distilabel_side.py reads."""
    recipe, templates = work.experiment.recipe, work.experiment.templates
    folder = copy_for_transformers_4(work.experiment.seed_model.folder, work.root / "model-4")
    task = {
        "folder": str(folder),
        "threads": THREADS,
        "texts": work.texts,
        "actor": recipe.actor.model_dump(mode="json"),
        "judge": recipe.judge.model_dump(mode="json"),
        "template": templates.judge.text,
        "rubric": templates.rubric,
    }
    path = work.root / "task.json"
    path.write_text(json.dumps(task), encoding="utf-8")
    return path


def row_of(against: str, found: list[tuple[float, float]], note: str = "") -> Row:
    mine, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    return Row(
        name=f"generation + judging of {PROMPTS} prompts, whole step: {against.split(',')[0]}",
        against=against,
        ratios=[other / own for own, other in found],
        at_least=3.0,
        note=f"{mine:.1f} s against {theirs:.1f} s, the miniature's model, {THREADS} threads{note}",
    )


def measure(*, pairs: int) -> Iterator[Row]:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(get_shipped_seed_model(), root / "models" / "seed")
        work = begin(root, "others")
        seconds_of_ours(root, "warm")  # imports
        found = [
            (seconds_of_ours(root, f"loop-{number}"), seconds_of_loop(work))
            for number in range(pairs)
        ]
        yield row_of("a plain loop, `generate` with all samples of one prompt", found)
        python = distilabel_python()
        with asked_process(python, "distilabel_side.py", str(write_task(work))) as ask:
            ask("warm")
            found = [
                (seconds_of_ours(root, f"distilabel-{number}"), ask("again")[1])
                for number in range(pairs)
            ]
        yield row_of("distilabel 1.5.3, TransformersLLM", found)
