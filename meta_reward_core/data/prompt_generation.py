"""Generate new prompts from a few examples (8-shot self-instruct), with filters and their reasons.

Each request shows some seed prompts and some generated prompts, and asks for another prompt. Each
reply passes through the filters in order; the first filter that rejects it determines the drop
reason. All randomness comes from the seed, so an interrupted run resumes from the cached
completions.

Source: arXiv 2401.10020, section 2.2 and 3.1 (8-shot, temperature 0.6, top-p 0.9); arXiv
2212.10560, section 2.2 (6 seed prompts and 2 generated prompts, ROUGE-L below 0.7). The wording and
the filters of length and language are ours.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from meta_reward_core.data.prompt_files import compute_prompt_id, find_reject_reason
from meta_reward_core.data.prompt_filters import (
    SIMILARITY_THRESHOLD,
    HeldOutPrompts,
    NearDuplicateIndex,
    is_in_language,
)
from meta_reward_core.engines.base import Completion, Conversation, Engine, SamplingParams
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.errors import InputError
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Prompt

GenerationDropReason = Literal[
    "prompt_refused",
    "cut_off",
    "no_task_marked",
    "not_usable",
    "too_short",
    "too_long",
    "other_language",
    "held_out",
    "near_duplicate",
]

PLACEHOLDERS: Final = frozenset({"examples"})
MAX_IDLE_ROUNDS: Final = 3
"""Consecutive rounds without a new prompt after which generation stops."""

_TASK = re.compile(r"<task>(.*?)</task>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PromptFilters:
    """Requirements for a prompt.

    Attributes:
        min_chars: minimum length in characters.
        max_chars: maximum length in characters.
        languages: ISO 639-1 codes of the allowed languages; empty: any language.
        rouge_threshold: minimum ROUGE-L with another prompt at which a prompt counts as a near
            duplicate.
        held_out: held-out prompts, which a new prompt must not repeat.
    """

    min_chars: int = 10
    max_chars: int = 2000
    languages: tuple[str, ...] = ("en",)
    rouge_threshold: float = SIMILARITY_THRESHOLD
    held_out: HeldOutPrompts = field(default_factory=lambda: HeldOutPrompts.from_texts([]))


@dataclass(frozen=True, slots=True)
class FewShotSettings:
    """Settings of the few-shot request.

    Attributes:
        template: template with the placeholder `{examples}`.
        seed_prompts: number of examples from the seed prompts.
        generated: number of generated examples, once there are enough; until then, seed prompts
            take their place.
        requests: number of requests per round; prompts generated in a round can be examples from
            the next round on.
        samples: number of replies to each request.
        sampling: sampling parameters for the replies.
    """

    template: PromptTemplate
    sampling: SamplingParams
    seed_prompts: int = 6
    generated: int = 2
    requests: int = 16
    samples: int = 4


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """Result of a generation. generated + rejected = replies.

    Attributes:
        prompts: (prompt, round that generated it), in the order of generation.
        left_out: (text, reason, most similar prompt or None) of each dropped reply, in order.
        replies: number of replies that were read.
        rounds: number of rounds of requests.
    """

    prompts: tuple[tuple[Prompt, int], ...]
    left_out: tuple[tuple[str, GenerationDropReason, str | None], ...]
    replies: int
    rounds: int

    @property
    def counts(self) -> dict[str, int]:
        """Number of dropped replies by reason, most frequent first."""
        return dict(Counter(reason for _, reason, _ in self.left_out).most_common())


def generate_prompts(
    engine: Engine,
    seed_prompts: Sequence[str],
    *,
    count: int,
    shots: FewShotSettings,
    filters: PromptFilters,
    seed: int,
    tell: Callable[[int, int], None] | None = None,
) -> GenerationResult:
    """Generate prompts until there are `count`, or until no new ones appear.

    Args:
        engine: the engine that writes the prompts; closed by the caller.
        seed_prompts: distinct human-written prompts.
        count: number of prompts to generate.
        shots: settings of the few-shot requests.
        filters: requirements for the generated prompts.
        seed: random seed for the choice of examples and for the engine.
        tell: called with (number of prompts generated, number of replies read) after each round.

    Raises:
        InputError: there are fewer seed prompts than examples, or all of them are held out.
        EngineError: the engine failed as a whole.
    """
    pool = [text for text in seed_prompts if text not in filters.held_out]
    if len(pool) < shots.seed_prompts + shots.generated:
        raise InputError(
            f"each request shows {shots.seed_prompts + shots.generated} examples, but only "
            f"{len(pool)} seed prompts are not held out: add more seed prompts"
        )
    making = _GenerationState(pool, filters)
    rounds = idle = 0
    while len(making.made) < count and idle < MAX_IDLE_ROUNDS:
        before = len(making.made)
        asked = [_build_request(making, shots, seed, rounds, n) for n in range(shots.requests)]
        sampled = engine.sample(
            asked, shots.samples, sampling=shots.sampling, seed=derive_seed(seed, "round", rounds)
        )
        rounds += 1
        for completion in (completion for row in sampled for completion in row):
            if len(making.made) < count:
                making.read(completion, rounds)
        idle = idle + 1 if len(making.made) == before else 0
        if tell is not None:
            tell(len(making.made), making.replies)
    return GenerationResult(tuple(making.made), tuple(making.left_out), making.replies, rounds)


class _GenerationState:
    """Accepted prompts so far, and the reasons of dropped replies."""

    def __init__(self, seed_prompts: Sequence[str], filters: PromptFilters) -> None:
        self.seed_prompts = seed_prompts
        self.made: list[tuple[Prompt, int]] = []
        self.left_out: list[tuple[str, GenerationDropReason, str | None]] = []
        self.replies = 0
        self._filters = filters
        self._known = NearDuplicateIndex(
            [*seed_prompts, *filters.held_out.texts], rouge_threshold=filters.rouge_threshold
        )

    def read(self, completion: Completion, number: int) -> None:
        self.replies += 1
        text = parse_task(completion.text)
        reason = _find_task_failure(completion, text) or find_drop_reason(text or "", self._filters)
        similar = None if reason is not None else self._known.find(text or "")
        if reason is None and similar is not None:
            reason = "near_duplicate"
        if reason is None and text is not None:
            self._known.add(text)
            self.made.append((Prompt(compute_prompt_id(text), text), number))
        elif reason is not None:
            shown = completion.text if text is None else text
            self.left_out.append((shown, reason, similar[0] if similar else None))


def parse_task(reply: str) -> str | None:
    """Parse the last marked task of a reply, without surrounding whitespace."""
    marked = _TASK.findall(reply)
    return marked[-1].strip() if marked else None


def _find_task_failure(completion: Completion, text: str | None) -> GenerationDropReason | None:
    if completion.finish_reason == "refused":
        return "prompt_refused"
    if text is not None:
        return None
    return "cut_off" if completion.finish_reason == "length" else "no_task_marked"


def find_drop_reason(text: str, filters: PromptFilters) -> GenerationDropReason | None:
    """Return the first filter, apart from similarity, that rejects a prompt; None if none does."""
    if find_reject_reason(text) is not None:
        return "not_usable"
    if len(text) < filters.min_chars:
        return "too_short"
    if len(text) > filters.max_chars:
        return "too_long"
    if text in filters.held_out:
        return "held_out"
    if filters.languages and not is_in_language(text, filters.languages):
        return "other_language"
    return None


def _build_request(
    making: _GenerationState, shots: FewShotSettings, seed: int, number: int, place: int
) -> Conversation:
    """Build a request with examples in random order: seeds, and generated prompts if enough."""
    rng = random.Random(derive_seed(seed, "shots", number, place))
    own = [prompt.text for prompt, _ in making.made]
    chosen = rng.sample(own, shots.generated) if len(own) >= shots.generated else []
    chosen += rng.sample(
        list(making.seed_prompts), shots.seed_prompts + shots.generated - len(chosen)
    )
    rng.shuffle(chosen)
    examples = "\n\n".join(f"<task>\n{text}\n</task>" for text in chosen)
    return [{"role": "user", "content": shots.template.fill(examples=examples)}]
