"""A plain vLLM for the benchmarks: reads "seed name" lines and makes the calls with that name.

Runs in vLLM's own environment: `.venv-vllm/bin/python benchmarks/engine_vllm.py work.json`.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

import torch
from vllm import LLM, SamplingParams


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(work["threads"])
    llm = LLM(
        model=work["folder"],
        dtype=work["dtype"],
        kv_cache_memory_bytes=work.get("cache_bytes", 2 * 2**30),
        max_num_seqs=work.get("max_num_seqs", 256),
        enforce_eager=True,
        enable_prefix_caching=True,
        disable_log_stats=False,
        seed=0,
    )
    temperature, top_p, new_tokens = work["sampling"]
    counted = prefix_counts(llm)
    for line in sys.stdin:
        seed, name = line.split()
        torch.manual_seed(int(seed))
        tokens, seconds = 0, 0.0
        for prompts, samples in work["calls"][name]:
            llm.reset_prefix_cache()
            params = SamplingParams(
                n=samples, temperature=temperature, top_p=top_p, max_tokens=new_tokens
            )
            given = [{"prompt_token_ids": prompt} for prompt in prompts]
            began = time.perf_counter()
            outputs = llm.generate(given, params, use_tqdm=False)
            seconds += time.perf_counter() - began
            tokens += sum(len(reply.token_ids) for output in outputs for reply in output.outputs)
        before, counted = counted, prefix_counts(llm)
        looked_up, found = (now - then for now, then in zip(counted, before, strict=True))
        print("drawn", tokens, looked_up, found, seconds, flush=True)


def prefix_counts(llm: LLM) -> list[int]:
    """Return prompt tokens looked up and found in the prefix cache since the start."""
    found = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    return [int(found[f"vllm:prefix_cache_{name}"]) for name in ("queries", "hits")]


if __name__ == "__main__":
    main()
