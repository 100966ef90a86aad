"""Step 3: the judge scores each response N times."""

from collections import Counter
from collections.abc import Mapping, Sequence

from meta_reward_core.engines.base import Completion, Conversation, Engine, Progress, Sampling
from meta_reward_core.parsing import (
    JUDGMENT_CUT_OFF,
    NO_SCORE_LINE,
    PROMPT_REFUSED,
    UnscoredReason,
    parse_score,
)
from meta_reward_core.records import Judgment, Response
from meta_reward_core.shards import Counts
from meta_reward_core.templates import PromptTemplate

_END_OF_NUMBER = frozenset(".0123456789")


def judge_conversation(
    template: PromptTemplate, *, rubric: str, instruction: str, response: str
) -> Conversation:
    """Show a response to the judge. Judge pairs train on this very prompt."""
    content = template.fill(rubric=rubric, instruction=instruction, response=response)
    return [{"role": "user", "content": content}]


def judge_responses(
    responses: Sequence[Response],
    engine: Engine,
    *,
    instructions: Mapping[str, str],
    template: PromptTemplate,
    rubric: str,
    samples: int,
    sampling: Sampling,
    seed: int,
    progress: Progress | None = None,
) -> tuple[list[Judgment], Counts]:
    """Let the judge score.

    Args:
        instructions: prompt_id -> text of the instruction.

    Returns:
        N judgments for each response, in order, scored or with the reason why not; counts.

    Source: Wu et al. 2024, section 2.1 (N = 11); the rubric is Yuan et al. 2024's.
    """
    conversations = [
        judge_conversation(
            template,
            rubric=rubric,
            instruction=instructions[response.prompt_id],
            response=response.text,
        )
        for response in responses
    ]
    drawn = engine.sample(conversations, samples, sampling=sampling, seed=seed, progress=progress)
    judgments = [
        _read_judgment(response, sample, completion)
        for response, completions in zip(responses, drawn, strict=True)
        for sample, completion in enumerate(completions)
    ]
    return judgments, _count(judgments)


def _read_judgment(response: Response, sample: int, completion: Completion) -> Judgment:
    score, reason = _read_score(completion)
    return Judgment(
        prompt_id=response.prompt_id,
        response_id=response.response_id,
        judgment_id=f"{response.response_id}.j{sample}",
        sample=sample,
        text=completion.text,
        score=score,
        unscored_reason=reason,
        tokens=completion.tokens,
    )


def _read_score(completion: Completion) -> tuple[float | None, UnscoredReason | None]:
    """Read the points; a number at which the token limit struck may have lost its end."""
    if completion.finish_reason == "refused":
        return None, PROMPT_REFUSED
    parsed = parse_score(completion.text)
    if completion.finish_reason == "length" and (
        parsed.reason == NO_SCORE_LINE or completion.text.rstrip()[-1:] in _END_OF_NUMBER
    ):
        return None, JUDGMENT_CUT_OFF
    return parsed.score, parsed.reason


def _count(judgments: Sequence[Judgment]) -> Counts:
    unscored = Counter(j.unscored_reason for j in judgments if j.unscored_reason is not None)
    decimal = sum(j.score is not None and not j.score.is_integer() for j in judgments)
    return {
        "judgments": len(judgments),
        "unscored": unscored.total(),
        "decimal_scores": decimal,
        "tokens": sum(judgment.tokens for judgment in judgments),
        **{f"unscored_{reason}": count for reason, count in sorted(unscored.items())},
    }
