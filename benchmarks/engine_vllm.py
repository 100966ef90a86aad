"""vLLM's side of engine_shapes.py: waits for seeds on its input, draws all prompts for each.

Runs in vLLM's own environment: `.venv-vllm/bin/python benchmarks/engine_vllm.py work.json`.
"""

import json
import os
import sys
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
        kv_cache_memory_bytes=2 * 2**30,
        max_num_seqs=256,
        enforce_eager=True,
        enable_prefix_caching=True,
        seed=0,
    )
    temperature, top_p, new_tokens = work["sampling"]
    params = SamplingParams(
        n=work["samples"], temperature=temperature, top_p=top_p, max_tokens=new_tokens
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in work["prompts"]]
    for line in sys.stdin:
        torch.manual_seed(int(line))
        llm.reset_prefix_cache()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        tokens = sum(len(reply.token_ids) for output in outputs for reply in output.outputs)
        print("drawn", tokens, flush=True)


if __name__ == "__main__":
    main()
