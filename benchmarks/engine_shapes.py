"""The embedded engine's judge and meta-judge stages compared with common alternatives.

    python benchmarks/engine_shapes.py --threads 2                 # models of 5 M and 30 M, a CPU
    python benchmarks/engine_shapes.py --device cuda --models 30M 1B

Ours is the whole stage: read prompts from files, run the engine, parse judgments, write files and
manifest. The others only generate tokens for the same prompts. Judge: 4 prompts of about 1,000
tokens, 11 samples of 100 each. Meta-judge: the 110 ordered pairs of 11 judgments of one response,
about 1,500 tokens each; `--response-words` and `--judgment-words` set other lengths. Models are
Llamas with random weights; contenders run in turn (A B C A B C ...), and the result is the median
of the ratios of tokens per second. `generate` processes batch after batch, so it is as fast on a
part of the prompts as on all: it gets `--generate-part` of the meta-judge's, and
`--generate-judge-part` of the judge's.
The hardware's limit is what its measured ceilings allow for our way: see hardware.py.
vLLM runs as a process of `.venv-vllm`, if that exists, with the faster of `--vllm-dtypes`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hardware import Ceilings, floor_seconds, measure_ceilings
from subprocess_client import VLLM_PYTHON, bare_vllm
from synthetic_experiment import (
    MODELS,
    Lengths,
    Size,
    begin,
    make_model_folder,
    prepare,
    prompts_of,
    run_stage,
)
from table import Row
from transformers import AutoModelForCausalLM, LlamaConfig

from meta_reward_core.context import StageResources
from meta_reward_core.engines.prefix_batching import plan_shared_batches
from meta_reward_core.engines.prompt_encoder import TokenIds
from meta_reward_core.experiment import Experiment
from meta_reward_core.planning.engine_loading import load_engine

END_ID = 0
TEMPERATURE, TOP_P = 0.8, 0.95
# Batch sizes to try with `generate`: few on a CPU, as many as fit on a GPU.
BATCHES = {
    "judge": {"cpu": (1, 2, 4), "cuda": (32, 64)},
    "meta_judge": {"cpu": (5, 11, 22), "cuda": (110, 220)},
}
# Target ratio against each contender.
WANTED: dict[tuple[str, str, str], float] = {
    ("judge", "5M", "generate"): 3.0,
    ("judge", "30M", "generate"): 5.0,
    ("judge", "5M", "vLLM"): 1.2,
    ("judge", "30M", "vLLM"): 1.4,
    ("meta_judge", "5M", "generate"): 2.5,
    ("meta_judge", "30M", "generate"): 4.0,
    ("meta_judge", "5M", "vLLM"): 1.2,
    ("meta_judge", "30M", "vLLM"): 1.2,
    ("judge", "135M", "generate"): 8.0,
    ("judge", "135M", "vLLM"): 1.6,
    ("meta_judge", "135M", "generate"): 4.0,
    ("meta_judge", "135M", "vLLM"): 1.2,
}
Draw = Callable[[int], int]
"""Function that generates everything once with a seed and returns the number of tokens."""


@dataclass(frozen=True)
class Shape:
    """A stage that is ready to run, with its requests to the engine.

    Attributes:
        prompts: as token ids, in the stage's order.
        samples: of each prompt.
        part: how many prompts `generate` gets.
    """

    stage: str
    experiment: Experiment
    prompts: Sequence[TokenIds]
    samples: int
    new_tokens: int
    part: int

    @property
    def folder(self) -> Path:
        """Of the model."""
        return self.experiment.seed_model.folder

    def floor_rate(self, options: argparse.Namespace, ceilings: Ceilings) -> float:
        """Tokens per second that the hardware allows for our decoding method."""
        batches = plan_shared_batches(
            dict.fromkeys(self.prompts, self.samples),
            max_new_tokens=self.new_tokens,
            max_batch_tokens=options.max_batch_tokens,
        )
        config = LlamaConfig.from_pretrained(self.folder)
        seconds = sum(floor_seconds(config, batch, self.new_tokens, ceilings) for batch in batches)
        return len(self.prompts) * self.samples * self.new_tokens / seconds


def make_shape(stage: str, size: str, root: Path, options: argparse.Namespace) -> Shape:
    """Create an experiment and run it up to the stage."""
    meta = stage == "meta_judge"
    there_are = Size(
        prompts=options.responses if meta else max(1, options.prompts // 2),
        judgments=options.judgments,
        new_tokens=options.new_tokens,
    )
    model = root / "model"
    make_model_folder(model, size, device=options.device, dtype=options.dtype)
    engine = {
        "device": options.device,
        "dtype": options.dtype,
        "threads": options.threads,
        "max_batch_tokens": options.max_batch_tokens,
    }
    experiment = begin(root, "shape", model=model, size=there_are, engine=engine)
    (shortest, longest), (tersest, wordiest) = options.response_words, options.judgment_words
    lengths = Lengths((shortest, longest), (tersest, wordiest))
    prepare(experiment, before=stage, lengths=lengths)
    prompts = prompts_of(experiment, stage)
    samples = 1 if meta else options.judgments
    part = options.generate_part if meta else options.generate_judge_part or len(prompts)
    return Shape(stage, experiment, prompts, samples, options.new_tokens, part)


def make_ours(shape: Shape) -> Draw:
    """Run the stage; with the experiment's seed, the samples are always the same."""
    resources = StageResources(load_engine=load_engine, scratch=shape.folder.parent / "scratch")
    return lambda seed: run_stage(shape.experiment, shape.stage, resources)  # noqa: ARG005


def make_generate(shape: Shape, options: argparse.Namespace, batch: int) -> Draw:
    """Run `generate` on batches of prompts of similar length, to minimize padding."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        shape.folder, local_files_only=True, dtype=options.dtype
    )
    model = model.to(options.device).eval()
    prompts = sorted(shape.prompts, key=len)[: shape.part]

    def draw(seed: int) -> int:
        torch.manual_seed(seed)
        return sum(
            _generate(model, prompts[at : at + batch]) for at in range(0, len(prompts), batch)
        )

    def _generate(model: Any, some: Sequence[TokenIds]) -> int:
        width = max(map(len, some))
        ids = [[END_ID] * (width - len(prompt)) + list(prompt) for prompt in some]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in some]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=options.device),
                attention_mask=torch.tensor(mask, device=options.device),
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=0,
                max_new_tokens=shape.new_tokens,
                num_return_sequences=shape.samples,
            )
        replies = output[:, width:]
        ended = (replies == END_ID).any(-1)
        return int((replies != END_ID).sum() + ended.sum())

    return draw


@contextmanager
def vllm_draw(shape: Shape, options: argparse.Namespace, dtype: str) -> Iterator[Draw]:
    """Let vLLM sample all prompts, sorted, in one call."""
    bare = bare_vllm(
        shape.folder.parent,
        folder=str(shape.folder),
        calls={"all": [[sorted(shape.prompts), shape.samples]]},
        sampling=[TEMPERATURE, TOP_P, shape.new_tokens],
        threads=options.threads,
        dtype=dtype,
    )
    with bare as ask:
        yield lambda seed: int(ask(f"{seed} all")[0])


def rate(draw: Draw, seed: int, device: str) -> float:
    """Sampled tokens per second."""
    began = time.perf_counter()
    tokens = draw(seed)
    if device != "cpu":
        torch.cuda.synchronize()
    return tokens / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tokens per second of our engine and the other one, from alternating pairs of runs.

    Attributes:
        shape: name of the shape.
        size: of the model.
        against: the other one.
        pairs: (ours, other) of each pair.
        floor_rate: hardware limit in tokens per second.
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
        """Share of the hardware's limit that our engine reaches."""
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


def draw_in_turn(
    contenders: Mapping[str, Draw], options: argparse.Namespace
) -> Mapping[str, Sequence[float]]:
    """Measure tokens per second of each contender in alternating rounds."""
    rounds = [
        [rate(draw, seed, options.device) for draw in contenders.values()]
        for seed in range(1, options.pairs + 1)
    ]
    return dict(zip(contenders, zip(*rounds, strict=True), strict=True))


def best_generate(shape: Shape, options: argparse.Namespace) -> tuple[str, Draw]:
    """Find the fastest batch size with one run each."""
    trials = {
        batch: rate(make_generate(shape, options, batch), 0, options.device)
        for batch in options.batches or BATCHES[shape.stage][options.device]
    }
    best = max(trials, key=lambda batch: trials[batch])
    part = f", on {shape.part} of the prompts" if shape.part < len(shape.prompts) else ""
    return f"`generate`, batch {best}{part}", make_generate(shape, options, best)


def find_best_vllm_dtype(shape: Shape, options: argparse.Namespace) -> str:
    """Find the fastest data type of the weights with one run each."""
    kinds: list[str] = options.vllm_dtypes or [options.dtype]
    if len(kinds) == 1:
        return kinds[0]
    rates = {}
    for dtype in kinds:
        with vllm_draw(shape, options, dtype) as draw:
            rate(draw, 0, options.device)  # the first call compiles
            rates[dtype] = rate(draw, 0, options.device)
    return max(rates, key=lambda dtype: rates[dtype])


def comparisons(
    stage: str, size: str, options: argparse.Namespace, ceilings: Ceilings
) -> Iterator[Comparison]:
    """List the contenders for one model and one stage on this machine."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as running:
        shape = make_shape(stage, size, Path(temporary), options)
        ours = make_ours(shape)
        contenders = {"ours": ours}
        if not options.skip_generate:
            contenders |= [best_generate(shape, options)]
        if not options.skip_vllm and options.device == "cpu" and VLLM_PYTHON.exists():
            dtype = find_best_vllm_dtype(shape, options)
            vllm = running.enter_context(vllm_draw(shape, options, dtype))
            contenders[f"vLLM's CPU build, {dtype}"] = vllm
            rate(vllm, 0, options.device)
        rate(ours, 0, options.device)
        rates = draw_in_turn(contenders, options)
        floor_rate = shape.floor_rate(options, ceilings)
        for against in contenders.keys() - {"ours"}:
            pairs = list(zip(rates["ours"], rates[against], strict=True))
            yield Comparison(stage, size, against, pairs, floor_rate)


def measure(*, pairs: int) -> Iterator[Row]:
    """Yield rows of the table for models of 5 M and 30 M parameters on two CPU threads."""
    yield from measure_shapes(read_options(["--pairs", str(pairs)]))


def measure_shapes(options: argparse.Namespace) -> Iterator[Row]:
    """Yield rows of all shapes and models in the options."""
    torch.set_num_threads(options.threads)
    ceilings = measure_ceilings(options.device, options.dtype)
    for stage in options.shapes:
        for size in options.models:
            for found in comparisons(stage, size, options, ceilings):
                contender = "vLLM" if "vLLM" in found.against else "generate"
                mine, theirs = found.medians
                yield Row(
                    name=f"{stage} stage with its files, {size}, transformers engine: {contender}",
                    against=found.against,
                    ratios=found.ratios,
                    at_least=WANTED[stage, size, contender],
                    note=f"{_describe(stage, options)}; {options.dtype};"
                    f" {mine:,.0f} against {theirs:,.0f} tokens/s;"
                    f" {found.share_of_floor:.0%} of the hardware's limit",
                )


def _describe(stage: str, options: argparse.Namespace) -> str:
    limit = f"of {options.new_tokens} tokens"
    if stage == "judge":
        return f"{options.prompts} prompts x {options.judgments} samples {limit}"
    count = options.responses * options.judgments * (options.judgments - 1)
    return f"{count} prompts of {options.responses} response(s), a reply {limit} each"


def read_options(
    arguments: Sequence[str] | None = None, *, description: str | None = __doc__
) -> argparse.Namespace:
    """Run with arguments from the command line by default."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["5M", "30M"])
    parser.add_argument("--shapes", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", default=None, help="Data type. Default: float32 on a CPU, otherwise bfloat16."
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=4, help="judge prompts")
    parser.add_argument(
        "--responses", type=int, default=1, help="Number of responses whose judgments are compared."
    )
    parser.add_argument(
        "--judgments", type=int, default=11, help="Distinct judgments per compared response."
    )
    parser.add_argument("--new-tokens", type=int, default=100)
    words = Lengths()
    parser.add_argument("--response-words", type=int, nargs=2, default=words.response)
    parser.add_argument("--judgment-words", type=int, nargs=2, default=words.judgment)
    parser.add_argument("--vllm-dtypes", nargs="+", help="Data types to try with vLLM.")
    parser.add_argument("--max-batch-tokens", type=int, default=65_536)
    parser.add_argument(
        "--batches", type=int, nargs="+", help="Batch sizes to try with `generate`."
    )
    parser.add_argument(
        "--generate-part", type=int, default=22, help="Number of meta-judge prompts for `generate`."
    )
    parser.add_argument(
        "--generate-judge-part", type=int, help="judge prompts that `generate` gets; all if absent"
    )
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
            for found in comparisons(name, size, options, ceilings):
                print(found, flush=True)
    if not (options.skip_vllm or VLLM_PYTHON.exists()):
        print(f"\nNot compared with vLLM: no {VLLM_PYTHON} here (make setup-vllm)")


if __name__ == "__main__":
    main()
