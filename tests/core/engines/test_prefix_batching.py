"""Batches and their shared prefixes are planned from token ids and counts alone."""

import random

from hypothesis import given
from hypothesis import strategies as st

from meta_reward_core.engines.prefix_batching import (
    MIN_SHARED_TOKENS,
    PrefixLevels,
    PromptBatch,
    count_cached_tokens,
    find_prefix_levels,
    make_batch,
    plan_padded_batches,
    plan_shared_batches,
    sort_by_prefix_family,
)

Prompt = tuple[int, ...]
# Pieces longer and shorter than what pays to share, so that families of every form arise.
PIECES = [(1,), (2, 3), (4,) * 20, (5,) * 40, (6,) * 70]
prompts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(
    lambda pieces: tuple(token for piece in pieces for token in piece)
)
calls = st.dictionaries(prompts, st.integers(1, 12), min_size=1, max_size=12)


def read_by(levels: PrefixLevels, row: int) -> Prompt:
    """What a row reads, and that it reads it in order."""
    read: Prompt = ()
    for level in levels:
        for segment in level:
            if segment.first_row <= row < segment.first_row + segment.rows:
                assert segment.start == len(read)
                read += segment.tokens
    return read


@given(calls)
def test_every_row_reads_its_prompt_but_for_the_last_token(wanted: dict[Prompt, int]) -> None:
    ordered = sort_by_prefix_family(list(wanted))
    batch = make_batch(ordered, [wanted[prompt] for prompt in ordered])
    levels = find_prefix_levels(batch)
    owners = [prompt for prompt in ordered for _ in range(wanted[prompt])]
    assert [read_by(levels, row) for row in range(batch.rows)] == [p[:-1] for p in owners]
    assert all(
        len(segment.tokens) >= MIN_SHARED_TOKENS for level in levels[:-1] for segment in level
    )


@given(calls, st.integers(1, 3000), st.integers(1, 60), st.randoms())
def test_batches_hold_every_row_within_the_budget_whatever_the_order_of_the_call(
    wanted: dict[Prompt, int], budget: int, new_tokens: int, shuffler: random.Random
) -> None:
    for plan in (plan_shared_batches, plan_padded_batches):
        batches = plan(wanted, max_new_tokens=new_tokens, max_batch_tokens=budget)
        planned: dict[Prompt, int] = {}
        for batch in batches:
            for prompt, copies in zip(batch.prompts, batch.copies, strict=True):
                planned[prompt] = planned.get(prompt, 0) + copies
        assert planned == wanted
        items = list(wanted.items())
        shuffler.shuffle(items)
        again = plan(dict(items), max_new_tokens=new_tokens, max_batch_tokens=budget)
        assert again == batches
    for batch in plan_shared_batches(wanted, max_new_tokens=new_tokens, max_batch_tokens=budget):
        held = count_cached_tokens(find_prefix_levels(batch)) + batch.rows * new_tokens
        assert held <= budget or batch.rows == 1


def test_prompts_of_a_meta_judge_fall_into_three_levels() -> None:
    """All share 100 tokens; those with the same first judgment 40 more; 30 are each one's own."""
    trunk: Prompt = (1,) * 100
    judgments: list[Prompt] = [(10 + number,) * 40 for number in range(4)]
    wanted = {trunk + a + b[:31]: 1 for a in judgments for b in judgments if a != b}
    [batch] = plan_shared_batches(wanted, max_new_tokens=10, max_batch_tokens=4096)
    levels = find_prefix_levels(batch)
    assert [[len(item.tokens) for item in level] for level in levels] == [
        [100],
        [40] * 4,
        [30] * 12,
    ]
    assert [[item.rows for item in level] for level in levels] == [[12], [3] * 4, [1] * 12]


def test_a_shared_token_counts_once_in_the_budget() -> None:
    """A judge prompt of 101 tokens, 9 samples of 10: 100 + 90 tokens and not 9 x 111."""
    prompt: Prompt = tuple(range(101))
    assert len(plan_shared_batches({prompt: 9}, max_new_tokens=10, max_batch_tokens=191)) == 1
    assert len(plan_padded_batches({prompt: 9}, max_new_tokens=10, max_batch_tokens=191)) == 9
    assert len(plan_shared_batches({prompt: 9}, max_new_tokens=10, max_batch_tokens=189)) == 2


def test_a_chain_of_prompts_that_continue_each_other_is_planned() -> None:
    chain: dict[Prompt, int] = {(1,) * length: 1 for length in range(1, 1200)}
    batches = plan_shared_batches(chain, max_new_tokens=4, max_batch_tokens=50_000)
    assert sum(batch.rows for batch in batches) == len(chain)


def test_plain_batches_are_planned_longest_first() -> None:
    """20 tokens a batch, 2 new ones: prompts of 8 and 4 tokens give 2 and 3 rows a batch."""
    long: Prompt = (1,) * 8
    short: Prompt = (2,) * 4
    other: Prompt = (3,) * 4
    plan = plan_padded_batches({short: 2, long: 3, other: 2}, max_new_tokens=2, max_batch_tokens=20)
    assert [(batch.prompts, batch.copies) for batch in plan] == [
        ((long,), (2,)),
        ((long,), (1,)),
        ((short,), (2,)),
        ((other,), (2,)),
    ]


def test_a_batch_has_a_row_even_when_one_exceeds_the_bound() -> None:
    for plan in (plan_padded_batches, plan_shared_batches):
        prompt: Prompt = (1,) * 50
        rows = [b.rows for b in plan({prompt: 2}, max_new_tokens=5, max_batch_tokens=1)]
        assert rows == [1, 1]


def test_an_empty_call_has_no_batches() -> None:
    assert plan_shared_batches({}, max_new_tokens=5, max_batch_tokens=100) == []
    assert sort_by_prefix_family([]) == []
    assert isinstance(make_batch([], []), PromptBatch)
