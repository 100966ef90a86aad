"""Step 1: sample an iteration's prompts from the pool, each at most once per experiment."""

import random
from collections.abc import Collection, Sequence

from meta_reward_core.errors import InputError
from meta_reward_core.storage.records import Prompt


def sample_prompts(
    pool: Sequence[Prompt],
    *,
    used: Collection[str],
    count: int,
    allow_reuse: bool,
    seed: int,
) -> list[Prompt]:
    """Sample `count` prompts: unused ones first, used ones only if reuse is allowed.

    Args:
        pool: distinct prompts.
        used: ids of the prompts of earlier iterations.

    Raises:
        InputError: the pool is too small.

    Source: Wu et al. 2024, section 3 (20,000 instructions, 5,000 for each iteration).
    """
    rng = random.Random(seed)
    by_id = sorted(pool, key=lambda prompt: prompt.prompt_id)
    fresh = [prompt for prompt in by_id if prompt.prompt_id not in used]
    if len(fresh) >= count:
        return rng.sample(fresh, count)
    if not allow_reuse or len(by_id) < count:
        raise InputError(_describe_shortage(len(by_id), len(fresh), count, allow_reuse=allow_reuse))
    spent = [prompt for prompt in by_id if prompt.prompt_id in used]
    return fresh + rng.sample(spent, count - len(fresh))


def _describe_shortage(pool: int, fresh: int, count: int, *, allow_reuse: bool) -> str:
    remedy = (
        "add prompts or lower sample.prompts"
        if allow_reuse
        else "add prompts, lower sample.prompts, or set sample.allow_reuse=true"
    )
    return (
        f"this iteration needs {count} prompts, but only {fresh} of the {pool} prompts in "
        f"the pool have not been used by an earlier iteration: {remedy}"
    )
