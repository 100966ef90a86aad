"""How far plans are from measured runs: three sizes on two devices, each one CPU core.

    python benchmarks/plan_error.py --output docs/planning.md

`run_iteration --engine-processes 2` runs an iteration of the toy task with 12, 24 and 48 prompts.
Measured is the time from the first shard of the actor to the last one of the meta-judge. Two plans
are compared with it:

- from specifications, like `manage.py plan`: the core's arithmetic and memory bandwidth, measured
  by a large product and a large copy, and the number of tokens that the run had;
- from throughput, like `run_iteration --dry-run` and the form: the tokens per second and the
  seconds per shard of the run before, of another size.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from hardware import measure_ceilings
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from two_engines import list_calls

from meta_reward_core.engines.prompt_encoder import PromptEncoder
from meta_reward_core.experiment import open_experiment
from meta_reward_core.planning.cost_estimate import MeasuredThroughput, ShardCost, fit_rate
from meta_reward_core.planning.gpu_estimate import Device, ModelSize, TextLengths, plan_on_hardware
from meta_reward_core.planning.shard_size import estimate_shard_size
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.workers.cluster import make_site

TITLE, FOLLOWING = "## Plans compared with measured runs\n", "## Training memory\n"
"""The section of the page that is written, and the one below it."""
SECTION = (
    TITLE
    + """
`python benchmarks/plan_error.py --output docs/planning.md` runs iterations of the toy task in \
three sizes on two devices, each one CPU core (`run_iteration --engine-processes 2`), and compares \
the time of the generating stages with two plans. One is calculated from the core's arithmetic and \
memory bandwidth, as above, with the lengths of the run's texts. The other uses the throughput \
measured in the run before, of another size, like `run_iteration --dry-run`. Both count calls as \
upper bounds.

| prompts | measured | from specifications | from throughput |
|--:|--:|--:|--:|
{rows}

For models of a few million parameters, the time outside of the model, such as 2 seconds per \
shard, is a large part of the calculation; for 8 B it is not, so these errors do not transfer to \
GPUs.

"""
)
DEVICES = 2
PROMPTS = (12, 24, 48)
SETTINGS = (
    "prompts_per_shard=3", "judge.samples=32", "meta_judge.max_judgments=6", "engine.threads=1",
    "train_on=[[actor,judge]]", "evaluation.prompts=2", "evaluation.judge_items=2",
    "evaluation.comparisons=2",
)  # fmt: skip
CALLS = {"generate": "completions", "judge": "judgments", "meta_judge": "battles"}
"""By stage, the name of its counted calls."""
SHARDS = (
    "select t.name, s.counts, a.seconds, julianday(a.started) * 86400, "
    "julianday(a.finished) * 86400 from experiments_attempt a "
    "join experiments_shard s on s.id = a.shard_id join experiments_stage t on t.id = s.stage_id "
    "where a.status = 'finished'"
)


@dataclass(frozen=True)
class Run:
    """A measured iteration.

    Attributes:
        seconds: of the generating stages.
        throughput: measured on its shards.
        tokens_per_call: by stage.
    """

    recipe: Recipe
    seconds: float
    throughput: MeasuredThroughput
    tokens_per_call: dict[str, float]


def run(root: Path, prompts: int) -> Run:
    """Run an iteration and measure it."""
    site = make_site(root)
    changes = (f"sample.prompts={prompts}", *SETTINGS)
    words = [word for change in changes for word in ("--set", change)]
    finished = site.run_iteration("--engine-processes", str(DEVICES), *words)
    assert finished.returncode == 0, finished.stdout
    rows = [(name, json.loads(counts), *times) for name, counts, *times in site.rows(SHARDS)]
    sampled = [row for row in rows if row[0] in CALLS]
    costs = {
        stage: [
            ShardCost(counts[calls], counts["tokens"], seconds)
            for name, counts, seconds, *_ in sampled
            if name == stage
        ]
        for stage, calls in CALLS.items()
    }
    rates = {stage: rate for stage, some in costs.items() if (rate := fit_rate(some))}
    return Run(
        load_recipe(str(site.recipe), changes=changes),
        max(row[4] for row in sampled) - min(row[3] for row in sampled),
        MeasuredThroughput(str(prompts), rates),
        {stage: rate.tokens_per_call for stage, rate in rates.items()},
    )


def measure_core() -> Device:
    """Measure one core.

    Plans count two bytes for a number; here it has four, so a core moves half as many numbers.
    """
    torch.set_num_threads(1)
    limits = measure_ceilings("cpu", "float32")
    return Device("one CPU core", limits.operations, limits.bytes / 2, 8e9)


def read_size(folder: Path) -> ModelSize:
    """Read the size of a model."""
    config = AutoConfig.from_pretrained(folder)
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    model = AutoModelForCausalLM.from_pretrained(folder)
    return ModelSize(
        sum(one.numel() for one in model.parameters()), 2 * config.num_hidden_layers * width * 2
    )


def measure_lengths(site: Path, run: Run) -> TextLengths:
    """Count the tokens of prompts that were not given by the model."""
    files = open_experiment(ArtifactStore(str(site / "artifacts")), "tiny")
    assert files is not None
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(files.seed_model.folder))
    instruction, judged = (
        fmean(
            len(prompt)
            for shard in list_calls(files, [stage])
            for call in shard
            for prompt in encoder.encode(call.conversations)
        )
        for stage in ("generate", "judge")
    )
    response = run.tokens_per_call["generate"]
    return TextLengths(
        instruction=instruction,
        rubric=max(0.0, judged - instruction - response),
        response=response,
        judgment=run.tokens_per_call["judge"],
        verdict=run.tokens_per_call["meta_judge"],
    )


def compare(root: Path, sizes: Sequence[int]) -> Iterator[str]:
    """Run all sizes, and yield the lines of the table."""
    core, size = measure_core(), read_size(get_shipped_seed_model())
    run(root / "first", sizes[0])  # compiles, and fills caches of files
    before = run(root / "before", sizes[0] * 3 // 2)
    for prompts in sizes:
        found = run(root / str(prompts), prompts)
        lengths = measure_lengths(root / str(prompts), found)
        planned = plan_on_hardware(
            found.recipe, 1, device=core, devices=DEVICES, workers=1, model=size, lengths=lengths
        )
        sampled = max(one.end_seconds for one in planned.stages if one.stage in CALLS)
        estimated = estimate_shard_size(
            found.recipe, engines=DEVICES, measured=before.throughput
        ).seconds
        cells = [f"{found.seconds:.1f} s"]
        cells += [f"{one:.1f} s ({one / found.seconds - 1:+.0%})" for one in (sampled, estimated)]
        yield f"| {prompts} | " + " | ".join(cells) + " |"
        before = found


def write_section(page: str, rows: Sequence[str]) -> str:
    """Return the page with a new section, in the place of an earlier one."""
    above, _, below = page.partition(FOLLOWING)
    above = above.partition(TITLE)[0]
    return above + SECTION.replace("{rows}", "\n".join(rows)) + FOLLOWING + below


def main() -> None:
    """Print the table, and write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="page with the table")
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS, help="sizes of the runs")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for line in compare(Path(folder), options.prompts):
            print(line, flush=True)
            lines.append(line)
    if options.output is not None:
        page = options.output.read_text(encoding="utf-8")
        options.output.write_text(write_section(page, lines), encoding="utf-8")


if __name__ == "__main__":
    main()
