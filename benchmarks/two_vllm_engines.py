"""The stages on vLLM's CPU build: one worker with two engines against two bare `LLM.generate`.

    python benchmarks/table.py two_vllm_engines --pairs 2 --collect pairs.json   # make setup-vllm

As in two_engines.py, with workers and engines of vLLM's environment. A bare process has one core,
too, and makes one call of `LLM.generate` for its half of the token ids of each stage.
"""

import itertools
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from subprocess_client import VLLM_PYTHON, Ask, bare_vllm
from table import NotHereError, Row
from transformers import AutoTokenizer
from two_engines import SETTINGS, SHARDS, STAGE_NAMES, list_calls, start_workers

from meta_reward_core.engines.prompt_encoder import PromptEncoder
from meta_reward_core.experiment import Experiment
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model

MAX_SEQUENCES, MAX_BATCH_TOKENS = 64, 16_384
CACHE_BYTES = 1 << 29
ENGINE = (
    "engine.kind=vllm", "engine.dtype=float32", f"engine.max_num_seqs={MAX_SEQUENCES}",
    f"engine.max_batch_tokens={MAX_BATCH_TOKENS}",
)  # fmt: skip


def write_calls(experiment: Experiment, model: Path) -> list[list[tuple[list[list[int]], int]]]:
    """Return for each of two processes the token ids and samples of its calls, one a stage."""
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(model, local_files_only=True))
    shards = list_calls(experiment)
    each = len(shards) // len(STAGE_NAMES)
    stages = [shards[:each], shards[each:]]
    found: list[list[tuple[list[list[int]], int]]] = [[], []]
    for number, stage in itertools.product(range(2), stages):
        calls = [call for shard in stage[number::2] for call in shard]
        samples = {call.samples for call in calls}
        assert len(samples) == 1
        asked = [one for call in calls for one in call.conversations]
        ids = sorted(list(one) for one in encoder.encode(asked))
        found[number].append((ids, samples.pop()))
    return found


def run_bare(asks: list[Ask], seed: int) -> float:
    """Make the calls of both processes; return the sum of the tokens per second."""
    for ask in asks:
        ask.send(f"{seed} all")
    answers = [ask.receive() for ask in asks]
    return sum(answer[0] / answer[-1] for answer in answers)


def measure(*, pairs: int) -> Iterator[Row]:
    """Measure in turn."""
    if not VLLM_PYTHON.exists():
        raise NotHereError(f"no {VLLM_PYTHON} here: make setup-vllm")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        root = Path(folder)
        model = get_shipped_seed_model()
        os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR"}
        worker = running.enter_context(
            start_workers(
                root / "site",
                workers=1,
                python=VLLM_PYTHON,
                settings=(*SETTINGS, *ENGINE, "judge.samples=64"),
            )
        )
        first = worker.warm_up()
        recipe = first.recipe.judge
        asks = []
        for number, calls in enumerate(write_calls(first, model)):
            (root / str(number)).mkdir()
            os.sched_setaffinity(0, {number})  # inherited
            asks.append(
                running.enter_context(
                    bare_vllm(
                        root / str(number),
                        folder=str(model),
                        calls={"all": calls},
                        sampling=[recipe.temperature, recipe.top_p, recipe.max_new_tokens],
                        threads=1,
                        dtype="float32",
                        cache_bytes=CACHE_BYTES,
                        max_num_seqs=MAX_SEQUENCES,
                    )
                )
            )
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        run_bare(asks, 1)
        found = []
        for seed in range(2, 2 + pairs):
            mine = worker.run(f"pair-{seed}", seed)[1]
            found.append((mine, run_bare(asks, seed)))
            print("tokens/s: " + ", ".join(f"{rate:,.0f}" for rate in found[-1]), flush=True)
    mine, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    yield Row(
        name="judge + meta-judge stage on vLLM's CPU build, one worker with two engines",
        against="two bare `LLM.generate` processes of one core each, one call a stage",
        ratios=[one / two for one, two in found],
        at_least=0.95,
        note=f"toy task, {SHARDS} shards a stage; {mine:,.0f} against {theirs:,.0f} tokens/s",
    )
