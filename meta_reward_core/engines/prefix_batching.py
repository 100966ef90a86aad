"""Group rows into batches, and find the common prefixes of their prompts.

Plans depend only on token ids and counts, not on model, device or free memory, so the same call
gives the same batches everywhere.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from meta_reward_core.engines.prompt_encoder import TokenIds

# Each level of sharing costs a few products per layer and token, which only pays off from this
# length.
MIN_SHARED_TOKENS = 32


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Rows decoded together.

    Attributes:
        prompts: prompts of at least one token each; if prefixes are shared, prompts of one family
            are adjacent.
        copies: number of rows for each prompt.
        commons: number of leading tokens that each prompt has in common with the previous prompt.
    """

    prompts: tuple[TokenIds, ...]
    copies: tuple[int, ...]
    commons: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of completions of the batch."""
        return sum(self.copies)

    def select_prompts(self, first: int, count: int) -> "PromptBatch":
        """Select `count` prompts of this batch from `first` on."""
        chosen = slice(first, first + count)
        return PromptBatch(self.prompts[chosen], self.copies[chosen], self.commons[chosen])


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens that adjacent rows of a batch have in common.

    Attributes:
        start: position of the first token in the rows' prompts.
        tokens: the tokens, at least one.
        first_row: the first row that reads them.
        rows: number of rows that read them.
    """

    start: int
    tokens: TokenIds
    first_row: int
    rows: int


PrefixLevels = list[list[Segment]]
"""Segments by depth, each level in the order of rows.

A row reads at most one segment per level; the segments that it reads on all levels, in order, are
its prompt without the last token.
"""


def plan_shared_batches(
    wanted: Mapping[TokenIds, int], *, max_new_tokens: int, max_batch_tokens: int
) -> list[PromptBatch]:
    """Plan batches with shared prefixes, prompts of one family next to each other.

    Args:
        wanted: number of completions for each prompt.
        max_new_tokens: maximum length of a reply, in tokens.
        max_batch_tokens: maximum number of tokens in a batch; a shared token counts once. The
            samples of a prompt stay together unless they exceed this limit; a batch has at least
            one row.
    """

    def count_max_copies(prompt: TokenIds) -> int:
        return (max_batch_tokens - len(prompt)) // max_new_tokens

    def fits(batch: PromptBatch) -> bool:
        held = count_cached_tokens(find_prefix_levels(batch)) + batch.rows * max_new_tokens
        return held <= max_batch_tokens

    return _pack_batches(sort_by_prefix_family(list(wanted)), wanted, count_max_copies, fits)


def plan_padded_batches(
    wanted: Mapping[TokenIds, int], *, max_new_tokens: int, max_batch_tokens: int
) -> list[PromptBatch]:
    """Plan batches with a padded cache per row: rows x (longest prompt + completion).

    Longest prompts first, so that a prompt that does not fit into memory fails immediately.
    """

    def count_max_copies(prompt: TokenIds) -> int:
        return max_batch_tokens // (len(prompt) + max_new_tokens)

    def fits(batch: PromptBatch) -> bool:
        longest = max(len(prompt) for prompt in batch.prompts)
        return batch.rows * (longest + max_new_tokens) <= max_batch_tokens

    by_length = sorted(wanted, key=lambda ids: (-len(ids), ids))
    return _pack_batches(by_length, wanted, count_max_copies, fits)


def _pack_batches(
    prompts: Sequence[TokenIds],
    wanted: Mapping[TokenIds, int],
    count_max_copies: Callable[[TokenIds], int],
    fits: Callable[[PromptBatch], bool],
) -> list[PromptBatch]:
    """Split prompts, in this order, into batches of maximum size."""
    units = [
        (prompt, copies)
        for prompt in prompts
        for copies in _split_copies(wanted[prompt], maximum=max(1, count_max_copies(prompt)))
    ]
    everything = make_batch([prompt for prompt, _ in units], [copies for _, copies in units])
    batches: list[PromptBatch] = []
    first = 0
    while first < len(units):

        def fit_together(count: int, first: int = first) -> bool:
            return fits(everything.select_prompts(first, count))

        count = _find_largest_fitting(len(units) - first, fit_together)
        batches.append(everything.select_prompts(first, count))
        first += count
    return batches


def make_batch(prompts: Sequence[TokenIds], copies: Sequence[int]) -> PromptBatch:
    """Build a batch of these prompts in this order."""
    return PromptBatch(tuple(prompts), tuple(copies), tuple(_measure_common_prefixes(prompts)))


def _split_copies(copies: int, *, maximum: int) -> list[int]:
    """Decide how many rows of one prompt go into one batch: all of them, or as many as fit."""
    full, rest = divmod(copies, maximum)
    return [maximum] * full + [rest] * (rest > 0)


def _find_largest_fitting(limit: int, fits: Callable[[int], bool]) -> int:
    """Find the largest count up to `limit` that fits, by bisection; at least 1."""
    good, bad = 1, 2
    while bad <= limit and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def count_cached_tokens(levels: PrefixLevels) -> int:
    """Count cached tokens: each level is padded to its longest segment."""
    return sum(len(level) * max(len(item.tokens) for item in level) for level in levels)


def find_prefix_levels(batch: PromptBatch) -> PrefixLevels:
    """Find the shared prefixes of a batch whose prompts are in family order.

    Inner segments are ordered by depth. The ends of all prompts are on the last level, where every
    segment has the same number of rows (the samples of a prompt) and lengths are similar.
    """
    firsts = [0]
    for copies in batch.copies:
        firsts.append(firsts[-1] + copies)

    def segment(low: int, high: int, start: int, stop: int) -> Segment:
        tokens = batch.prompts[low][start:stop]
        return Segment(start, tokens, firsts[low], firsts[high] - firsts[low])

    inner: PrefixLevels = []
    ends: list[Segment] = []
    open_groups = [(0, len(batch.prompts), 0, 0)]
    while open_groups:
        low, high, start, depth = open_groups.pop()
        stop, members = _split(batch.commons, low, high, len(batch.prompts[low]) - 1)
        if len(members) == 1:
            if stop > start:
                ends.append(segment(low, high, start, stop))
            continue
        if stop - start >= MIN_SHARED_TOKENS:
            inner.extend([] for _ in range(depth + 1 - len(inner)))
            inner[depth].append(segment(low, high, start, stop))
            start, depth = stop, depth + 1
        open_groups.extend((*member, start, depth) for member in reversed(members))
    return [*inner, ends] if ends else inner


def sort_by_prefix_family(prompts: Sequence[TokenIds]) -> list[TokenIds]:
    """Sort prompts so that those with a common prefix are adjacent, longest families first."""
    by_ids = sorted(prompts)
    commons = _measure_common_prefixes(by_ids)
    ordered: list[TokenIds] = []
    open_groups = [(0, len(by_ids))] if by_ids else []
    while open_groups:
        low, high = open_groups.pop()
        if high - low == 1:
            ordered.append(by_ids[low])
            continue
        _, members = _split(commons, low, high, 0)
        members.sort(key=lambda group: max(len(ids) for ids in by_ids[group[0] : group[1]]))
        open_groups.extend(members)
    return ordered


def _split(
    commons: Sequence[int], low: int, high: int, alone: int
) -> tuple[int, list[tuple[int, int]]]:
    """Return the common tokens of prompts low..high-1, and the groups that follow.

    A single prompt shares `alone` tokens with itself and remains one group.
    """
    if high - low == 1:
        return alone, [(low, high)]
    stop = min(commons[low + 1 : high])
    cuts = [low, *(at for at in range(low + 1, high) if commons[at] == stop), high]
    return stop, list(pairwise(cuts))


def _measure_common_prefixes(prompts: Sequence[TokenIds]) -> list[int]:
    """Return the common tokens of each prompt with its predecessor; 0 for the first.

    A prompt's last token is never shared: it is read for its logits, once for each sample.
    """
    return [0] + [
        _measure_common_prefix(before[:-1], after[:-1]) for before, after in pairwise(prompts)
    ]


def _measure_common_prefix(one: TokenIds, other: TokenIds) -> int:
    """Measure by bisection, because slice comparison runs at memory speed."""
    lengths = range(1, min(len(one), len(other)) + 1)
    return bisect_left(lengths, 1, key=lambda length: int(one[:length] != other[:length]))
