"""Our decoding loop against `generate`, on the judge's work: many samples of each prompt.

    python benchmarks/engine.py --pairs 5

Both draw the same number of samples of the same prompts from the same weights with the same
number of threads, in turn (A B A B ...), in one process. The figure to quote is the ratio.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from meta_reward_core.engines.base import Conversation, Sampling
from meta_reward_core.engines.transformers import load_transformers_engine
from meta_reward_core.miniature import world
from meta_reward_core.miniature.seed import shipped_seed

SAMPLING = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=48)


def conversations(count: int) -> list[Conversation]:
    items = world.held_out_judge_items(count, seed=1)
    return [
        [{"role": "user", "content": world.write_judge_prompt(instruction, response)}]
        for instruction, response, _ in items
    ]


def make_ours(folder: Path, prompts: list[Conversation], samples: int) -> Callable[[int], int]:
    engine = load_transformers_engine(
        folder,
        dtype="float32",
        device="cpu",
        threads=torch.get_num_threads(),
        batch_tokens=65_536,
        max_model_tokens=None,
    )

    def draw(seed: int) -> int:
        drawn = engine.sample(prompts, samples, sampling=SAMPLING, seed=seed)
        return sum(completion.tokens for row in drawn for completion in row)

    return draw


def make_generate(
    folder: Path, prompts: list[Conversation], samples: int, batch: int
) -> Callable[[int], int]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = [
        tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]

    def draw(seed: int) -> int:
        torch.manual_seed(seed)
        tokens = 0
        for start in range(0, len(texts), batch):
            inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            with torch.inference_mode():
                output = model.generate(
                    **inputs,
                    do_sample=True,
                    temperature=SAMPLING.temperature,
                    top_p=SAMPLING.top_p,
                    top_k=0,
                    max_new_tokens=SAMPLING.max_new_tokens,
                    num_return_sequences=samples,
                )
            replies = output[:, inputs["input_ids"].shape[1] :]
            tokens += int((replies != tokenizer.pad_token_id).sum())
        return tokens

    return draw


def rate(draw: Callable[[int], int], seed: int) -> float:
    began = time.perf_counter()
    tokens = draw(seed)
    return tokens / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prompts = conversations(options.prompts)
    ours = make_ours(shipped_seed(), prompts, options.samples)
    batches = (8, 32, 64)
    theirs = {b: make_generate(shipped_seed(), prompts, options.samples, b) for b in batches}
    best = max(batches, key=lambda batch: rate(theirs[batch], seed=0))
    rate(ours, seed=0)
    rates = [(rate(ours, seed), rate(theirs[best], seed)) for seed in range(1, options.pairs + 1)]
    print(
        f"{options.prompts} judge prompts x {options.samples} samples, {options.threads} thread(s)"
    )
    print(f"generate's best batch size of {batches}: {best}")
    print("| run | ours, tokens/s | generate, tokens/s | ratio |\n|---|--:|--:|--:|")
    for run, (mine, other) in enumerate(rates, start=1):
        print(f"| {run} | {mine:,.0f} | {other:,.0f} | {mine / other:.2f} |")
    print(f"median ratio {median(mine / other for mine, other in rates):.2f}")


if __name__ == "__main__":
    main()
