"""The embedded engine on the two shapes of the method's work, against what people would use.

    python benchmarks/engine_shapes.py --threads 2                 # models of 5 M and 30 M, a CPU
    python benchmarks/engine_shapes.py --device cuda --models 30M 1B

Judge shape: prompts of about 1,000 tokens, 11 samples each. Meta-judge shape: the ordered pairs of
11 judgments of one response. Models are Llamas with random weights; every contender draws from
the same weights and prompts, in turn (A B A B ...), and the figure is the median of the ratios.
The hardware's limit is what its measured ceilings allow for our way: see hardware.py.
vLLM runs as a process of `.venv-vllm`, where that exists.
"""

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from hardware import Ceilings, floor_seconds, measure_ceilings
from table import Row
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from meta_reward_core.engines.base import Sampling
from meta_reward_core.engines.prefixes import plan_shared_batches
from meta_reward_core.engines.transformers import load_transformers_engine

VLLM_PYTHON = Path(".venv-vllm/bin/python")
VOCABULARY = 8192
END_ID = 0
MODELS: dict[str, dict[str, Any]] = {
    "5M": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4},
    "30M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8},
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
# Prompts at a time that `generate` is tried with: a CPU wants few, a GPU as many as it can hold.
JUDGE_BATCHES = {"cpu": (1, 2, 4, 8), "cuda": (32, 64)}
META_BATCHES = {"cpu": (5, 11, 22, 44), "cuda": (110, 220)}
# What we set out to reach against each contender.
WANTED: dict[tuple[str, str, str], float] = {
    ("judge", "5M", "generate"): 3.0,
    ("judge", "30M", "generate"): 5.0,
    ("judge", "5M", "vLLM"): 1.2,
    ("judge", "30M", "vLLM"): 1.4,
    ("meta-judge", "5M", "generate"): 2.5,
    ("meta-judge", "30M", "generate"): 4.0,
    ("meta-judge", "5M", "vLLM"): 1.2,
    ("meta-judge", "30M", "vLLM"): 1.2,
}
Prompt = tuple[int, ...]
Draw = Callable[[int], int]
"""Draws everything once with a seed; says how many tokens that were."""


@dataclass(frozen=True)
class Shape:
    """Prompts, samples of each, and the batch sizes that `generate` may choose from."""

    name: str
    prompts: list[Prompt]
    samples: int
    sampling: Sampling
    batch_sizes: Mapping[str, Sequence[int]]

    def floor(self, folder: Path, options: argparse.Namespace, ceilings: Ceilings) -> float:
        """Seconds that the hardware would need for our way to draw everything."""
        batches = plan_shared_batches(
            dict.fromkeys(self.prompts, self.samples),
            max_new_tokens=self.sampling.max_new_tokens,
            batch_tokens=options.batch_tokens,
        )
        config = LlamaConfig.from_pretrained(folder)
        new_tokens = self.sampling.max_new_tokens
        return sum(floor_seconds(config, batch, new_tokens, ceilings) for batch in batches)


def judge_shape(count: int, new_tokens: int) -> Shape:
    """Prompts that have the rubric in common, and then each its own response."""
    draw = random.Random(1)
    rubric = _words(draw, 250)
    prompts = [rubric + _words(draw, draw.randint(650, 850)) for _ in range(count)]
    return Shape("judge", prompts, 11, Sampling(0.8, 0.95, new_tokens), JUDGE_BATCHES)


def meta_judge_shape(responses: int, judgments: int, new_tokens: int) -> Shape:
    """All ordered pairs of the judgments of each response."""
    draw = random.Random(2)
    rubric = _words(draw, 400)
    prompts: list[Prompt] = []
    for _ in range(responses):
        shown = rubric + _words(draw, 800)
        texts = [_words(draw, draw.randint(120, 180)) for _ in range(judgments)]
        prompts += [shown + one + other for one, other in permutations(texts, 2)]
    return Shape("meta-judge", prompts, 1, Sampling(0.8, 0.95, new_tokens), META_BATCHES)


def _words(draw: random.Random, count: int) -> Prompt:
    return tuple(draw.randrange(END_ID + 1, VOCABULARY) for _ in range(count))


def make_model_folder(folder: Path, size: str, options: argparse.Namespace) -> Path:
    """A Llama with random weights and a tokenizer of one word a token."""
    torch.manual_seed(0)
    shape = {"num_attention_heads": 8, "num_key_value_heads": 8} | MODELS[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
        **shape,
    )
    with torch.device(options.device):
        model = LlamaForCausalLM(config).to(getattr(torch, options.dtype))
    model.save_pretrained(folder)
    core = Tokenizer(WordLevel({str(index): index for index in range(VOCABULARY)}, unk_token="0"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="0", pad_token="0")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    return folder


def make_ours(folder: Path, shape: Shape, options: argparse.Namespace) -> Draw:
    engine = load_transformers_engine(
        folder,
        dtype=options.dtype,
        device=options.device,
        threads=options.threads,
        batch_tokens=options.batch_tokens,
        max_model_tokens=None,
    )
    conversations: Any = [
        [{"role": "user", "content": " ".join(map(str, prompt))}] for prompt in shape.prompts
    ]

    def draw(seed: int) -> int:
        drawn = engine.sample(conversations, shape.samples, sampling=shape.sampling, seed=seed)
        return sum(completion.tokens for row in drawn for completion in row)

    return draw


def make_generate(folder: Path, shape: Shape, options: argparse.Namespace, batch: int) -> Draw:
    """`generate` on batches of prompts of like length, so that it pads as little as may be."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=options.dtype
    )
    model = model.to(options.device).eval()
    prompts = sorted(shape.prompts, key=len)

    def draw(seed: int) -> int:
        torch.manual_seed(seed)
        return sum(
            _generate(model, prompts[at : at + batch]) for at in range(0, len(prompts), batch)
        )

    def _generate(model: Any, some: Sequence[Prompt]) -> int:
        width = max(map(len, some))
        ids = [[END_ID] * (width - len(prompt)) + list(prompt) for prompt in some]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in some]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=options.device),
                attention_mask=torch.tensor(mask, device=options.device),
                do_sample=True,
                temperature=shape.sampling.temperature,
                top_p=shape.sampling.top_p,
                top_k=0,
                max_new_tokens=shape.sampling.max_new_tokens,
                num_return_sequences=shape.samples,
            )
        replies = output[:, width:]
        ended = (replies == END_ID).any(-1)
        return int((replies != END_ID).sum() + ended.sum())

    return draw


@contextmanager
def vllm_process(folder: Path, shape: Shape, options: argparse.Namespace) -> Iterator[Draw]:
    """A process of its own that waits for seeds and draws all prompts, sorted, in one call."""
    work = folder / "work.json"
    work.write_text(
        json.dumps(
            {
                "folder": str(folder),
                "prompts": sorted(shape.prompts),
                "samples": shape.samples,
                "sampling": [
                    shape.sampling.temperature,
                    shape.sampling.top_p,
                    shape.sampling.max_new_tokens,
                ],
                "threads": options.threads,
                "dtype": options.dtype,
            }
        )
    )
    script = Path(__file__).with_name("engine_vllm.py")
    process = subprocess.Popen(
        [str(VLLM_PYTHON.absolute()), str(script), str(work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    asked, answers = process.stdin, process.stdout
    assert asked is not None
    assert answers is not None

    def draw(seed: int) -> int:
        print(seed, file=asked, flush=True)
        while not (line := answers.readline()).startswith("drawn "):
            if not line:
                raise SystemExit("vLLM ended without an answer")
        return int(line.split()[1])

    try:
        yield draw
    finally:
        asked.close()
        process.wait()


def rate(draw: Draw, seed: int, device: str) -> float:
    """Tokens drawn a second."""
    began = time.perf_counter()
    tokens = draw(seed)
    if device != "cpu":
        torch.cuda.synchronize()
    return tokens / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tokens a second of ours and of the other, from pairs drawn in turn.

    Attributes:
        shape: name of the shape.
        size: of the model.
        against: the other one.
        pairs: (ours, other) of each pair.
        floor_rate: what the hardware would allow; tokens a second.
    """

    shape: str
    size: str
    against: str
    pairs: Sequence[tuple[float, float]]
    floor_rate: float

    @property
    def ratios(self) -> list[float]:
        return [mine / theirs for mine, theirs in self.pairs]

    @property
    def medians(self) -> tuple[float, float]:
        mine, theirs = (statistics.median(column) for column in zip(*self.pairs, strict=True))
        return mine, theirs

    @property
    def share_of_floor(self) -> float:
        """How much of the hardware's limit ours reaches."""
        return self.medians[0] / self.floor_rate

    def __str__(self) -> str:
        mine, theirs = self.medians
        name = f"{self.shape}, {self.size}: {self.against}"
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        middle = statistics.median(self.ratios)
        return (
            f"| {name} | {mine:,.0f} | {theirs:,.0f} | {middle:.2f} | {spread} |"
            f" {self.share_of_floor:.0%} |"
        )


def draw_pairs(
    ours: Draw, other: Draw, options: argparse.Namespace
) -> Sequence[tuple[float, float]]:
    """Tokens a second of both, drawn in turn."""
    return [
        (rate(ours, seed, options.device), rate(other, seed, options.device))
        for seed in range(1, options.pairs + 1)
    ]


def comparisons(
    size: str, shape: Shape, options: argparse.Namespace, ceilings: Ceilings
) -> Iterator[Comparison]:
    """What one model and one shape are compared with on this machine."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_model_folder(Path(temporary), size, options)
        ours = make_ours(folder, shape, options)
        rate(ours, 0, options.device)
        drawn = len(shape.prompts) * shape.samples * shape.sampling.max_new_tokens
        floor_rate = drawn / shape.floor(folder, options, ceilings)
        if not options.skip_generate:
            trials = {
                batch: rate(make_generate(folder, shape, options, batch), 0, options.device)
                for batch in options.batches or shape.batch_sizes[options.device]
            }
            best = max(trials, key=lambda batch: trials[batch])
            generate = make_generate(folder, shape, options, best)
            pairs = draw_pairs(ours, generate, options)
            against = f"`generate`, batch {best}"
            yield Comparison(shape.name, size, against, pairs, floor_rate)
        if options.skip_vllm or options.device != "cpu" or not VLLM_PYTHON.exists():
            return
        with vllm_process(folder, shape, options) as vllm:
            rate(vllm, 0, options.device)
            pairs = draw_pairs(ours, vllm, options)
            yield Comparison(shape.name, size, "vLLM's CPU build", pairs, floor_rate)


def measure(*, pairs: int) -> Iterator[Row]:
    """Rows of the table, for models of 5 M and 30 M parameters on two threads of this CPU."""
    options = read_options(["--pairs", str(pairs)])
    torch.set_num_threads(options.threads)
    ceilings = measure_ceilings(options.device, options.dtype)
    for shape in shapes(options).values():
        for size in options.models:
            for found in comparisons(size, shape, options, ceilings):
                contender = "vLLM" if "vLLM" in found.against else "generate"
                mine, theirs = found.medians
                yield Row(
                    name=f"{shape.name} stage's shape, {size}, transformers engine: {contender}",
                    against=found.against,
                    ratios=found.ratios,
                    at_least=WANTED[shape.name, size, contender],
                    note=f"{mine:,.0f} against {theirs:,.0f} tokens/s;"
                    f" {found.share_of_floor:.0%} of the hardware's limit",
                )


def shapes(options: argparse.Namespace) -> dict[str, Shape]:
    """By name."""
    return {
        "judge": judge_shape(options.prompts, options.new_tokens),
        "meta-judge": meta_judge_shape(options.responses, options.judgments, options.new_tokens),
    }


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """From the command line where no arguments are given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["5M", "30M"])
    parser.add_argument("--shapes", nargs="+", default=["judge", "meta-judge"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None, help="float32 on a CPU, bfloat16 elsewhere")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8, help="judge prompts")
    parser.add_argument("--responses", type=int, default=1, help="responses that are meta-judged")
    parser.add_argument("--judgments", type=int, default=11, help="of each of these responses")
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--batch-tokens", type=int, default=65_536)
    parser.add_argument("--batches", type=int, nargs="+", help="that `generate` may choose from")
    parser.add_argument("--skip-generate", action="store_true")
    parser.add_argument("--skip-vllm", action="store_true")
    options = parser.parse_args(arguments)
    options.dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    return options


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    place = (
        f"{options.threads} threads" if options.device == "cpu" else torch.cuda.get_device_name()
    )
    print(f"{place}, {options.dtype}, torch {torch.__version__}, {options.pairs} pairs\n")
    ceilings = measure_ceilings(options.device, options.dtype)
    print(f"ceilings measured here: {ceilings}\n")
    print(
        "| shape, model: against | ours, tokens/s | other, tokens/s | ratio | least to most |"
        " ours of the hardware's limit |"
    )
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    for name in options.shapes:
        for size in options.models:
            for found in comparisons(size, shapes(options)[name], options, ceilings):
                print(found, flush=True)
    if not (options.skip_vllm or VLLM_PYTHON.exists()):
        print(f"\nNot compared with vLLM: no {VLLM_PYTHON} here (make setup-vllm)")


if __name__ == "__main__":
    main()
