"""Overhead of shards, files and rows with vLLM's CPU build, and the effect of prompt order.

    python benchmarks/table.py vllm_stages          # needs make setup-vllm

Ours: a worker takes shards of the judge and the meta-judge stage from rows, its engine process
    reads files, generates and writes files, and the rows are updated; the model stays loaded. The
    baseline is `LLM.generate` on the same token ids in token order, one call per stage. So the
    first row includes our whole overhead, including the drained batch at the end of each shard.
"""

import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from subprocess_client import VLLM_PYTHON, Ask, asked_process, bare_vllm
from synthetic_experiment import Size, begin, make_model_folder, prepare, prompts_of
from table import NotHereError, Row

NEW_TOKENS = 100
SIZES = {
    "judge": Size(prompts=8, judgments=11, new_tokens=NEW_TOKENS, prompts_per_shard=4),
    "meta_judge": Size(prompts=8, judgments=5, new_tokens=NEW_TOKENS, prompts_per_shard=4),
}
THREADS = 2
ENGINE = {
    "kind": "vllm",
    "dtype": "float32",
    "threads": THREADS,
    "max_batch_tokens": 65_536,
    "max_num_seqs": 64,
}
TOKEN_BYTES = 8192
"""Bytes of keys and values per token in the 5 M model."""
CACHE_BYTES = (65_536 + 64 * 128) * TOKEN_BYTES
"""Settings of our engine."""
SMALL_CACHE_BYTES = 16_384 * TOKEN_BYTES
"""Cache size, small relative to all prompts, as at scale."""
Call = tuple[Sequence[Sequence[int]], int]


def calls_of(root: Path, model: Path) -> list[Call]:
    """Return the requests of both stages to the engine, in token order."""
    calls: list[Call] = []
    for stage, size in SIZES.items():
        experiment = begin(root, f"prompts-{stage}", model=model, size=size, engine=ENGINE)
        prepare(experiment, before=stage)
        samples = size.judgments if stage == "judge" else 1
        calls.append((sorted(prompts_of(experiment, stage)), samples))
    return calls


def shuffled(calls: Sequence[Call]) -> list[Call]:
    rng = random.Random(1)
    return [(rng.sample(prompts, len(prompts)), samples) for prompts, samples in calls]


def bare(
    root: Path, model: Path, calls: dict[str, list[Call]], **settings: int
) -> AbstractContextManager[Ask]:
    """Start a vLLM with these calls."""
    root.mkdir(exist_ok=True)
    sampling = [0.8, 0.95, NEW_TOKENS]
    return bare_vllm(
        root,
        folder=str(model),
        calls=calls,
        sampling=sampling,
        threads=THREADS,
        dtype="float32",
        **settings,
    )


def worker_environment(root: Path) -> dict[str, str]:
    """Start a worker with its own database and files."""
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
        "DATABASE_URL": f"sqlite:///{root / 'db.sqlite3'}",
        "META_REWARD_VAR": str(root / "var"),
        "META_REWARD_ARTIFACT_ROOT": str(root / "artifacts"),
        "META_REWARD_SCRATCH_ROOT": str(root / "scratch"),
        "VLLM_LOGGING_LEVEL": "ERROR",
    }


def compare_stages(root: Path, model: Path, calls: list[Call], *, pairs: int) -> Row:
    """Compare the stages through rows and files with direct calls."""
    with ExitStack() as running:
        ours = running.enter_context(
            asked_process(
                VLLM_PYTHON,
                "stages_by_worker.py",
                str(root),
                str(model),
                environment=worker_environment(root),
            )
        )
        theirs = running.enter_context(
            bare(root / "bare", model, {"all": calls}, cache_bytes=CACHE_BYTES, max_num_seqs=64)
        )
        ours("0")
        theirs("0 all")
        found = [(_rate(ours(f"{seed}")), _rate(theirs(f"{seed} all")))
                 for seed in range(1, pairs + 1)]  # fmt: skip
    mine, other = (statistics.median(column) for column in zip(*found, strict=True))
    prompts = " and ".join(f"{len(some)} prompts x {samples}" for some, samples in calls)
    return Row(
        name="judge + meta-judge stage on vLLM's CPU build, 5M, through shards, files and rows",
        against="bare `LLM.generate` on the same token ids, best order, one call a stage",
        ratios=[one / two for one, two in found],
        at_least=0.95,
        note=f"{prompts} in 2 shards each; {mine:,.0f} against {other:,.0f} tokens/s",
    )


def compare_orders(root: Path, model: Path, calls: list[Call], *, pairs: int) -> Row:
    """Compare our order with a random one, with a cache that is too small for all prompts."""
    both = {"ours": calls, "shuffled": shuffled(calls)}
    settings = {"cache_bytes": SMALL_CACHE_BYTES, "max_num_seqs": 16}
    with bare(root / "orders", model, both, **settings) as ask:
        ask("0 ours")
        found = [(ask(f"{seed} ours"), ask(f"{seed} shuffled")) for seed in range(1, pairs + 1)]
    hits = [statistics.median(one[2] / one[1] for one in column)
            for column in zip(*found, strict=True)]  # fmt: skip
    return Row(
        name="vLLM's CPU build, 5M: prompts in our order",
        against="the same prompts shuffled",
        ratios=[_rate(mine) / _rate(theirs) for mine, theirs in found],
        at_least=None,
        note=f"prefix-cache hit rate {hits[0]:.0%} against {hits[1]:.0%}; a cache of 16,384 tokens",
    )


def _rate(answer: Sequence[float]) -> float:
    """Compute tokens per second; the last number of a reply is its seconds."""
    return answer[0] / answer[-1]


def measure(*, pairs: int) -> Iterator[Row]:
    if not VLLM_PYTHON.exists():
        raise NotHereError(f"no {VLLM_PYTHON} here: make setup-vllm")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = make_model_folder(root / "model", "5M", dtype="float32")
        calls = calls_of(root / "prompts", model)
        yield compare_stages(root, model, calls, pairs=pairs)
        yield compare_orders(root, model, calls, pairs=pairs)
