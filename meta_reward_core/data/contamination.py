"""Keep prompts that a model is evaluated on out of the prompts that it is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from meta_reward_core.data.prompt_files import PromptFile
from meta_reward_core.data.prompt_filters import NearDuplicateIndex
from meta_reward_core.errors import InputError


def remove_contaminated(
    pool: PromptFile, evaluated: Mapping[str, Sequence[str]]
) -> tuple[PromptFile, dict[str, int]]:
    """Leave out the prompts that equal or nearly equal an evaluation prompt.

    Nearly equal is a ROUGE-L of at least 0.7; see `near_duplicates`.

    Args:
        evaluated: prompts of each evaluation, by its name.

    Returns:
        The pool with the number of prompts that were left out, and how many were left out for each
        evaluation; a prompt of several counts for the first.

    Raises:
        InputError: nothing is left.
    """
    exact = {name: frozenset(texts) for name, texts in evaluated.items()}
    near = {name: NearDuplicateIndex(texts) for name, texts in evaluated.items()}
    left_out = dict.fromkeys(evaluated, 0)
    kept = []
    for prompt in pool.prompts:
        text = prompt.text
        found = next(
            (name for name in evaluated if text in exact[name] or near[name].find(text)), None
        )
        if found is None:
            kept.append(prompt)
        else:
            left_out[found] += 1
    if pool.prompts and not kept:
        raise InputError(
            "every prompt of the pool equals or nearly equals a prompt of evaluation.tasks: give "
            "other prompts"
        )
    return replace(pool, prompts=kept, contaminated=len(pool.prompts) - len(kept)), left_out
