"""Descriptions of shipped recipes that were reworded, with the first wording.

The hash of a recipe depends on its description, so the first wording stays part of the hash.
"""

from typing import Final

RENAMED_DESCRIPTIONS: Final = (
    (
        "The paper's schedule on the language model of google/gemma-3-4b-it; needs "
        "data-centre GPUs.",
        "The paper's schedule on the language model of google/gemma-3-4b-it; needs "
        "data-center GPUs.",
    ),
    (
        "The schedule of llama3-1-8b, all weights trained on eight 80 GB GPUs (FSDP 2).",
        "The schedule of llama3-1-8b, training all weights on eight 80 GB GPUs (FSDP 2).",
    ),
    (
        "The paper's schedule on meta-llama/Llama-3.1-8B-Instruct; needs data-centre GPUs.",
        "The paper's schedule on meta-llama/Llama-3.1-8B-Instruct; needs data-center GPUs.",
    ),
    (
        "The miniature with judge pairs in every iteration, where the paper stops after two.",
        "The miniature with judge pairs in all iterations; the paper stops after the second.",
    ),
    (
        "The miniature with rho 0 - best against worst, whatever their length.",
        "The miniature without length control (rho 0): highest score against lowest.",
    ),
    (
        "The miniature from a seed whose meta-judge errs as the judge does, length bias included.",
        "The miniature with a meta-judge that makes the judge's errors, including length bias.",
    ),
    (
        "Self-Rewarding on half as many prompts again, so that four iterations take as "
        "many DPO steps.",
        "Self-Rewarding on 50% more prompts, with as many DPO steps in four iterations "
        "as Meta-Rewarding.",
    ),
    (
        "The miniature without meta-judge - the judge is never trained.",
        "The miniature without a meta-judge; the judge is never trained.",
    ),
    (
        "The paper's schedule in small, in a synthetic world, on two CPU cores.",
        "The paper's schedule at small scale, on the toy task, on two CPU cores.",
    ),
    (
        "The paper's experiment with prompts that do not warn of biases, to measure its Table 5.",
        "The paper's experiment with prompts that do not warn of biases, to reproduce its Table 5.",
    ),
    (
        "The paper's experiment on Llama-3-8B-Instruct; needs data-centre GPUs.",
        "The paper's experiment on Llama-3-8B-Instruct; needs data-center GPUs.",
    ),
    (
        "The paper's schedule on Qwen/Qwen3-4B without reasoning blocks; needs data-centre GPUs.",
        "The paper's schedule on Qwen/Qwen3-4B without reasoning blocks; needs data-center GPUs.",
    ),
    (
        "The paper's schedule on Qwen/Qwen3-8B without reasoning blocks; needs data-centre GPUs.",
        "The paper's schedule on Qwen/Qwen3-8B without reasoning blocks; needs data-center GPUs.",
    ),
    (
        "A whole iteration in under a minute on two CPU cores, to see that everything works.",
        "A complete iteration in under a minute on two CPU cores, to check that everything works.",
    ),
    (
        "smollm2-135m without meta-judge - the judge is never trained.",
        "smollm2-135m without a meta-judge; the judge is never trained.",
    ),
)
"""Pairs of a first and a current wording. `canonical` stores and hashes the first one."""
