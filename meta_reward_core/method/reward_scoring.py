"""Step 3 with a reward model in place of the judge: one raw score for each response.

The score has no scale, and no text explains it. So there are no judgments to compare, and only
response pairs are built. Length control needs no scale: its tiers are shares of the distance
between the lowest and the highest score of a prompt.
"""

from collections.abc import Mapping, Sequence

from meta_reward_core.engines.base import Conversation, Progress, RewardModel
from meta_reward_core.method.generation import build_actor_conversation
from meta_reward_core.method.parsing import PROMPT_REFUSED
from meta_reward_core.models.chat import ChatOptions
from meta_reward_core.storage.records import Judgment, Response
from meta_reward_core.storage.shards import Counts


def score_by_reward_model(
    responses: Sequence[Response],
    reward_model: RewardModel,
    *,
    instructions: Mapping[str, str],
    options: ChatOptions,
    progress: Progress | None = None,
) -> tuple[list[Judgment], Counts]:
    """Score each response once.

    Args:
        instructions: text of each instruction by prompt_id.
        options: variables for the chat template of the reward model.

    Returns:
        One judgment without a text for each response, in order, and counts. A response that is too
        long for the reward model has no score.

    Source: Wu et al. 2024 compare with an external reward model that scores the same responses.
    """
    scores = reward_model.score(
        [_show(instructions[response.prompt_id], response.text) for response in responses],
        options=options,
        progress=progress,
    )
    judgments = [
        Judgment(
            prompt_id=response.prompt_id,
            response_id=response.response_id,
            judgment_id=f"{response.response_id}.j0",
            sample=0,
            text="",
            score=score,
            unscored_reason=PROMPT_REFUSED if score is None else None,
            tokens=0,
            finish_reason="refused" if score is None else "stop",
            readout="reward_model",
            refusal=_TOO_LONG if score is None else None,
        )
        for response, score in zip(responses, scores, strict=True)
    ]
    unscored = sum(score is None for score in scores)
    counts: Counts = {"judgments": len(judgments), "unscored": unscored, "tokens": 0}
    if unscored:
        counts[f"unscored_{PROMPT_REFUSED}"] = unscored
    return judgments, counts


_TOO_LONG = "prompt and response exceed the limit of the reward model"


def _show(instruction: str, response: str) -> Conversation:
    conversation = build_actor_conversation(instruction, system_prompt=None)
    return [*conversation, {"role": "assistant", "content": response}]
