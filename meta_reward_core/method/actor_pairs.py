"""Step 4: select one preference pair per prompt, best against worst response, with length control.

`pairing.select_actor_pair` selects the responses; this module adds the texts.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meta_reward_core.engines.base import Conversation
from meta_reward_core.method.generation import build_actor_conversation
from meta_reward_core.method.pairing import ActorPair, LengthUnit, select_actor_pair
from meta_reward_core.storage.records import Dropped, Prompt, Response, ResponseScore


def build_actor_pairs(
    prompts: Sequence[Prompt],
    responses: Iterable[Response],
    scores: Iterable[ResponseScore],
    *,
    iteration: int,
    rho: float,
    max_chosen_chars: int | None,
    length_unit: LengthUnit,
    system_prompt: str | None,
) -> tuple[list[dict[str, Any]], list[Dropped]]:
    """Build at most one pair per prompt.

    Returns:
        Rows of the table `actor_pairs`, and one `Dropped` for every prompt without a pair.

    Source: Wu et al. 2024, section 2.1 (length control).
    """
    texts = {response.response_id: response.text for response in responses}
    by_prompt: defaultdict[str, list[ResponseScore]] = defaultdict(list)
    for score in scores:
        by_prompt[score.prompt_id].append(score)
    pairs: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    for prompt in prompts:
        selected = select_actor_pair(
            by_prompt[prompt.prompt_id],
            rho=rho,
            max_chosen_chars=max_chosen_chars,
            length_unit=length_unit,
        )
        if isinstance(selected, ActorPair):
            conversation = build_actor_conversation(prompt.text, system_prompt=system_prompt)
            pairs.append(_build_pair_row(prompt, selected, texts, conversation, iteration))
        else:
            dropped.append(Dropped(prompt.prompt_id, "actor", selected))
    return pairs, dropped


def _build_pair_row(
    prompt: Prompt,
    pair: ActorPair,
    texts: Mapping[str, str],
    conversation: Conversation,
    iteration: int,
) -> dict[str, Any]:
    return {
        "prompt": conversation,
        "chosen": [{"role": "assistant", "content": texts[pair.chosen_response_id]}],
        "rejected": [{"role": "assistant", "content": texts[pair.rejected_response_id]}],
        "kind": "actor",
        "iteration": iteration,
        "prompt_id": prompt.prompt_id,
        "score_chosen": pair.score_chosen,
        "score_rejected": pair.score_rejected,
        "chosen_response_id": pair.chosen_response_id,
        "rejected_response_id": pair.rejected_response_id,
    }
