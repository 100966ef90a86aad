"""Step 3: the judge scores each response N times."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    Engine,
    ForcedLine,
    Progress,
    SamplingParams,
)
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.method.forced_readout import (
    ForcedValue,
    force_values,
    list_probabilities,
    make_score_line,
)
from meta_reward_core.method.parsing import (
    MAX_SCORE,
    PROMPT_REFUSED,
    UnscoredReason,
    find_closing_score,
    parse_score,
)
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Judgment, Readout, Response
from meta_reward_core.storage.shards import Counts


def build_judge_conversation(
    template: PromptTemplate, *, rubric: str, instruction: str, response: str
) -> Conversation:
    """Build the conversation that shows a response to the judge.

    Judge pairs are trained on the same conversation.
    """
    content = template.fill(rubric=rubric, instruction=instruction, response=response)
    return [{"role": "user", "content": content}]


def format_instruction(conversation: Conversation) -> str:
    """Write a conversation into the instruction placeholder of the judge prompt.

    A single message is used unchanged, as in the whole loop. Several messages are written with
    their roles: a follow-up such as "shorter, please" has no meaning without the earlier ones.
    """
    if len(conversation) == 1:
        return conversation[0]["content"]
    return "\n\n".join(
        f"{message['role'].capitalize()}: {message['content']}" for message in conversation
    )


def judge_responses(
    responses: Sequence[Response],
    engine: Engine,
    *,
    instructions: Mapping[str, str],
    template: PromptTemplate,
    rubric: str,
    samples: int,
    sampling: SamplingParams,
    seed: int,
    max_score: float = MAX_SCORE,
    readout: Readout = "free",
    progress: Progress | None = None,
) -> tuple[list[Judgment], Counts]:
    """Sample the judgments of responses.

    Args:
        readout: how a score is produced; see `forced_readout` for values other than `free`.
        instructions: text of each instruction by prompt_id.
        max_score: maximum score of the rubric; see `parse_score`.

    Returns:
        N judgments for each response, in order, each with a score or the reason why it has none;
        and counts.

    Source: Wu et al. 2024, section 2.1 (N = 11); the rubric is Yuan et al. 2024's.
    """
    line = make_score_line(max_score)
    conversations = [
        build_judge_conversation(
            template,
            rubric=rubric,
            instruction=instructions[response.prompt_id],
            response=response.text,
        )
        for response in responses
    ]
    sampled = engine.sample(conversations, samples, sampling=sampling, seed=seed, progress=progress)
    judgments = [
        [
            _parse_judgment(response, sample, completion, max_score)
            for sample, completion in enumerate(completions)
        ]
        for response, completions in zip(responses, sampled, strict=True)
    ]
    if readout != "free":
        forced = force_values(
            engine,
            conversations,
            sampled,
            line,
            find_closing_line=partial(find_closing_score, max_score=max_score),
            sampling=sampling,
            derive_draw_seed=lambda number, sample: derive_seed(
                seed, "forced score", responses[number].response_id, sample
            ),
        )
        judgments = [
            [
                _make_forced_judgment(judgment, value, line, readout=readout, max_score=max_score)
                for judgment, value in zip(free, values, strict=True)
            ]
            for free, values in zip(judgments, forced, strict=True)
        ]
    flat = [judgment for family in judgments for judgment in family]
    return flat, _count_judgments(flat)


def _parse_judgment(
    response: Response, sample: int, completion: Completion, max_score: float
) -> Judgment:
    score, reason = _parse_completion_score(completion, max_score)
    return Judgment(
        prompt_id=response.prompt_id,
        response_id=response.response_id,
        judgment_id=f"{response.response_id}.j{sample}",
        sample=sample,
        text=completion.text,
        score=score,
        unscored_reason=reason,
        tokens=completion.tokens,
        finish_reason=completion.finish_reason,
        readout="free",
        token_ids=completion.token_ids,
        refusal=completion.refusal,
    )


def _make_forced_judgment(
    free: Judgment,
    value: ForcedValue | None,
    line: ForcedLine,
    *,
    readout: Readout,
    max_score: float,
) -> Judgment:
    """Build a judgment with a forced score; without a value it has no score."""
    if value is None:
        return replace(free, score=None, unscored_reason=PROMPT_REFUSED, readout=readout)
    value_index = value.expected_index if readout == "expected" else float(value.index)
    return replace(
        free,
        text=value.text,
        score=value_index * (MAX_SCORE / max_score),
        unscored_reason=None,
        readout=readout,
        probabilities=list_probabilities(line, value),
        token_ids=value.token_ids,
        injected_at=value.injected_at,
    )


def _parse_completion_score(
    completion: Completion, max_score: float
) -> tuple[float | None, UnscoredReason | None]:
    """Parse the score; `parsing` defines what counts in a truncated completion."""
    if completion.finish_reason == "refused":
        return None, PROMPT_REFUSED
    is_cut_off = completion.finish_reason == "length"
    parsed = parse_score(completion.text, max_score=max_score, is_cut_off=is_cut_off)
    return parsed.score, parsed.reason


def _count_judgments(judgments: Sequence[Judgment]) -> Counts:
    unscored = Counter(j.unscored_reason for j in judgments if j.unscored_reason is not None)
    decimal = sum(j.score is not None and not j.score.is_integer() for j in judgments)
    return {
        "judgments": len(judgments),
        "unscored": unscored.total(),
        "decimal_scores": decimal,
        "tokens": sum(judgment.tokens for judgment in judgments),
        **{f"unscored_{reason}": count for reason, count in sorted(unscored.items())},
    }
