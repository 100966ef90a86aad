"""The prompt pool of a new experiment, from a file or from the recipe's task."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from meta_reward_core.data.prompt_files import (
    REJECT_TEXT,
    PromptFile,
    compute_prompt_id,
    find_reject_reason,
    read_prompts,
)
from meta_reward_core.data.prompt_filters import read_held_out, remove_contaminated, remove_held_out
from meta_reward_core.errors import TaskError
from meta_reward_core.planning.experiment_request import (
    SKIP_BAD_ROWS,
    compute_task_pool_size,
    get_task_prompts,
)
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.records import Prompt
from meta_reward_core.tasks.fixed_items import FixedItems


def read_pool(
    path: Path | None,
    recipe: Recipe,
    items: Sequence[FixedItems] = (),
    *,
    skip_bad_rows: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[PromptFile, list[FixedItems]]:
    """Load the prompts of a new experiment, from a file or from the recipe's task.

    Args:
        items: evaluation and development items; prompts similar to their prompts are left out.
        skip_bad_rows: whether to skip unusable rows of the file instead of refusing the file.

    Returns:
        The prompts, and the items with the number of prompts left out for each.

    Raises:
        InputError: there are no prompts, or the file cannot be read as prompts.
    """
    pool = _read_whole_pool(path, recipe, skip_bad_rows=skip_bad_rows, say=say)
    if recipe.sample.held_out is not None:
        pool = remove_held_out(pool, read_held_out([Path(recipe.sample.held_out)]))
        say(f"{pool.held_out} prompt(s) of the pool left out: held out for evaluation")
    if not items:
        return pool, []
    texts = {str(number): one.prompts for number, one in enumerate(items)}
    pool, left_out = remove_contaminated(pool, texts)
    say(
        f"{pool.contaminated} prompt(s) of the pool left out: they equal or nearly equal a prompt "
        "of evaluation.tasks or development.tasks"
    )
    return pool, [
        replace(one, left_out_of_pool=left_out[str(number)]) for number, one in enumerate(items)
    ]


def _describe_left_out(found: PromptFile) -> Iterator[str]:
    """Describe the rows of a file that are not used as prompts."""
    if found.duplicates:
        yield f"{found.duplicates:,} duplicate(s) left out"
    if found.other_turns:
        yield f"{found.other_turns:,} later or assistant turn(s) of conversations left out"
    if found.rejected:
        yield f"{len(found.rejected):,} row(s) skipped: {found.describe_rejected()}"


def _read_whole_pool(
    path: Path | None, recipe: Recipe, *, skip_bad_rows: bool, say: Callable[[str], None]
) -> PromptFile:
    if path is not None:
        found = read_prompts(path)
        found.require_good_rows(path.name, skip=skip_bad_rows, option=SKIP_BAD_ROWS)
        for note in _describe_left_out(found):
            say(f"{path.name}: {note}")
        return found
    texts = get_task_prompts(recipe).sample(compute_task_pool_size(recipe))
    return _build_task_pool(recipe, texts)


def _build_task_pool(recipe: Recipe, texts: Sequence[str]) -> PromptFile:
    """Build a pool from the prompts of a task.

    Raises:
        TaskError: a prompt occurs twice, or cannot be stored.
    """
    if len(set(texts)) < len(texts):
        raise TaskError(f"the task {recipe.task!r} supplies the same prompt twice: fix the task")
    for text in texts:
        if (reason := find_reject_reason(text)) is not None:
            raise TaskError(
                f"the task {recipe.task!r} supplies a prompt that cannot be used: "
                f"{REJECT_TEXT[reason]} ({text!r:.80})"
            )
    prompts = [Prompt(compute_prompt_id(text), text) for text in texts]
    return PromptFile(prompts=prompts, duplicates=0, rejected=[])
