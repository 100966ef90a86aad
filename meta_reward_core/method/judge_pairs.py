"""Step 6: fit Elo ratings from battles, and pair the highest with the lowest rated judgment.

`battles`, `elo` and `pairing.select_judge_pair` decide; this module adds the texts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.method.battles import (
    PositionWeights,
    build_battle_matrix,
    compute_readable_shares,
)
from meta_reward_core.method.elo import fit_elo
from meta_reward_core.method.judging import build_judge_conversation
from meta_reward_core.method.meta_judging import (
    ComparisonSet,
    PlannedBattle,
    list_ordered_pairs,
    select_comparison_set,
)
from meta_reward_core.method.pairing import DropReason, JudgePair, select_judge_pair
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import (
    Battle,
    Dropped,
    Judgment,
    Prompt,
    Rating,
    Response,
    ResponseScore,
)

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class JudgedPrompts:
    """Prompts with their responses, judgments and scores, by id."""

    prompts: Sequence[Prompt]
    responses: Mapping[str, Response]
    judgments: Mapping[str, Sequence[Judgment]]
    scores: Mapping[str, Sequence[ResponseScore]]

    @classmethod
    def from_records(
        cls,
        prompts: Sequence[Prompt],
        responses: Iterable[Response],
        judgments: Iterable[Judgment],
        scores: Iterable[ResponseScore],
    ) -> "JudgedPrompts":
        """Group records by id: judgments by response, scores by prompt."""
        return cls(
            prompts,
            {response.response_id: response for response in responses},
            _group_by(judgments, lambda judgment: judgment.response_id),
            _group_by(scores, lambda score: score.prompt_id),
        )

    def select_comparison_set(
        self, prompt: Prompt, *, seed: int, max_judgments: int | None
    ) -> ComparisonSet | DropReason:
        """Select the judgments of one prompt that battle, or return why none do."""
        return select_comparison_set(
            self.scores.get(prompt.prompt_id, ()),
            self.judgments,
            seed=seed,
            max_judgments=max_judgments,
        )


def _group_by(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def plan_battles(
    judged: JudgedPrompts, *, seed: int, max_judgments: int | None, max_score_gap: float | None
) -> list[PlannedBattle]:
    """List all battles of these prompts, with those that share a prefix next to each other."""
    planned = []
    for prompt in judged.prompts:
        contenders = judged.select_comparison_set(prompt, seed=seed, max_judgments=max_judgments)
        if isinstance(contenders, DropReason):
            continue
        response = judged.responses[contenders.response.response_id].text
        planned += [
            PlannedBattle(prompt.text, response, first, second)
            for first, second in list_ordered_pairs(
                contenders.judgments, max_score_gap=max_score_gap
            )
        ]
    return planned


def build_judge_pairs(
    judged: JudgedPrompts,
    battles: Iterable[Battle],
    *,
    weights: PositionWeights,
    iteration: int,
    template: PromptTemplate,
    rubric: str,
    elo_prior: float,
    min_readable_share: float,
    max_chosen_judgment_chars: int | None,
    max_judgments: int | None,
    seed: int,
) -> tuple[list[dict[str, Any]], list[Rating], list[Dropped]]:
    """Build at most one pair per prompt.

    Args:
        weights: position weights of the whole iteration, not of these prompts alone.

    Returns:
        Rows of the table `judge_pairs`, the ratings behind them, and one `Dropped` for every
        prompt without a pair. A pair's prompt is the judge prompt that produced both judgments.

    Source: Wu et al. 2024, section 2.2.
    """
    battles_by_response = _group_by(battles, lambda battle: battle.response_id)
    chosen = {
        prompt.prompt_id: judged.select_comparison_set(
            prompt, seed=seed, max_judgments=max_judgments
        )
        for prompt in judged.prompts
    }
    fielded = [found for found in chosen.values() if isinstance(found, ComparisonSet)]
    ratings = rate_judgments(fielded, battles_by_response, weights=weights, prior=elo_prior)
    elo = {rating.judgment_id: rating.elo for rating in ratings}
    pairs: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    for prompt in judged.prompts:
        selected = _select_pair(
            chosen[prompt.prompt_id],
            elo,
            battles_by_response,
            weights=weights,
            min_readable_share=min_readable_share,
            max_chars=max_chosen_judgment_chars,
        )
        if isinstance(selected, DropReason):
            dropped.append(Dropped(prompt.prompt_id, "judge", selected))
            continue
        response = judged.responses[selected.response_id]
        conversation = build_judge_conversation(
            template, rubric=rubric, instruction=prompt.text, response=response.text
        )
        texts = {j.judgment_id: j.text for j in judged.judgments[selected.response_id]}
        pairs.append(_build_pair_row(selected, conversation, texts, iteration))
    return pairs, ratings, dropped


def rate_judgments(
    fielded: Sequence[ComparisonSet],
    battles: Mapping[str, Sequence[Battle]],
    *,
    weights: PositionWeights,
    prior: float,
) -> list[Rating]:
    """Fit the Elo ratings of the judgments of all responses at once.

    Args:
        battles: response_id -> its battles.
    """
    names = [[j.judgment_id for j in contenders.judgments] for contenders in fielded]
    matrices = [
        build_battle_matrix(ids, battles.get(contenders.response.response_id, ()), weights)
        for ids, contenders in zip(names, fielded, strict=True)
    ]
    return [
        Rating(judgment.prompt_id, judgment.response_id, judgment.judgment_id, float(elo))
        for contenders, ratings in zip(fielded, fit_elo(matrices, prior=prior), strict=True)
        for judgment, elo in zip(contenders.judgments, ratings, strict=True)
    ]


def _select_pair(
    contenders: ComparisonSet | DropReason,
    elo: Mapping[str, float],
    battles: Mapping[str, Sequence[Battle]],
    *,
    weights: PositionWeights,
    min_readable_share: float,
    max_chars: int | None,
) -> JudgePair | DropReason:
    if isinstance(contenders, DropReason):
        return contenders
    return select_judge_pair(
        contenders.judgments,
        elo,
        weights=weights,
        readable=compute_readable_shares(battles.get(contenders.response.response_id, ())),
        min_readable_share=min_readable_share,
        max_chosen_judgment_chars=max_chars,
    )


def _build_pair_row(
    pair: JudgePair, conversation: Conversation, texts: Mapping[str, str], iteration: int
) -> dict[str, Any]:
    return {
        "prompt": conversation,
        "chosen": [{"role": "assistant", "content": texts[pair.chosen_judgment_id]}],
        "rejected": [{"role": "assistant", "content": texts[pair.rejected_judgment_id]}],
        "kind": "judge",
        "iteration": iteration,
        "prompt_id": pair.prompt_id,
        "score_chosen": pair.score_chosen,
        "score_rejected": pair.score_rejected,
        "response_id": pair.response_id,
        "chosen_judgment_id": pair.chosen_judgment_id,
        "rejected_judgment_id": pair.rejected_judgment_id,
    }


def cap_judge_pairs(
    pairs: Sequence[dict[str, Any]], *, actor_pairs: int, max_share: float, seed: int
) -> tuple[list[dict[str, Any]], list[Dropped]]:
    """Limit judge pairs to `max_share` of all pairs; `seed` selects the remaining pairs.

    Source: an option, off by default; NeMo-Aligner's documentation advises 15%.
    """
    allowed = int(actor_pairs * max_share / (1 - max_share) + 1e-9)
    shuffled = sorted(pairs, key=lambda pair: derive_seed(seed, "cap", pair["prompt_id"]))
    kept = {pair["prompt_id"] for pair in shuffled[:allowed]}
    over = [
        Dropped(pair["prompt_id"], "judge", DropReason.OVER_PAIR_SHARE)
        for pair in pairs
        if pair["prompt_id"] not in kept
    ]
    return [pair for pair in pairs if pair["prompt_id"] in kept], over
