"""Step 3: the judge scores each response N times."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    Engine,
    ForcedLine,
    Progress,
    SamplingParams,
    offset_progress,
)
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.method.adaptive_judging import (
    PartialScore,
    find_still_in_play,
    split_into_rounds,
)
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
    """Build the conversation that shows a response to the judge. Judge pairs train on it too."""
    content = template.fill(rubric=rubric, instruction=instruction, response=response)
    return [{"role": "user", "content": content}]


def format_instruction(conversation: Conversation) -> str:
    """Write a conversation into the instruction placeholder of the judge prompt.

    A single message stands as it is, as everywhere in the loop. Of several each is told with who
    said it: a follow-up such as "shorter, please" says nothing without what was said before.
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
    early_stop_z: float | None = None,
    rho: float = 0.0,
    min_valid_judgments: int = 1,
    readout: Readout = "free",
    progress: Progress | None = None,
) -> tuple[list[Judgment], Counts]:
    """Sample the judgments of responses.

    Args:
        readout: how a score comes about; see `forced_readout` for others than `free`.
        instructions: prompt_id -> text of the instruction.
        max_score: maximum score of the rubric; see `parse_score`.
        early_stop_z: see `adaptive_judging.find_still_in_play`; with it, responses that can no
            longer be chosen or rejected get no more judgments.
        rho: with `early_stop_z`: width of the tiers.
        min_valid_judgments: with `early_stop_z`: nobody is given up with fewer readable ones.

    Returns:
        N judgments for each response that was not given up, in order, scored or with the reason
        why not; counts.

    Source: Wu et al. 2024, section 2.1 (N = 11); the rubric is Yuan et al. 2024's.
    """
    drawn_before = 0
    line = make_score_line(max_score)

    def sample_round(some: Sequence[Response], first: int, count: int) -> JudgmentsByResponse:
        nonlocal drawn_before
        conversations = [
            build_judge_conversation(
                template,
                rubric=rubric,
                instruction=instructions[response.prompt_id],
                response=response.text,
            )
            for response in some
        ]
        drawn = engine.sample(
            conversations,
            count,
            sampling=sampling,
            seed=derive_seed(seed, "judgments from", first) if first else seed,
            progress=offset_progress(progress, drawn_before),
        )
        drawn_before += len(some) * count
        free = {
            response.response_id: [
                _parse_judgment(response, first + sample, completion, max_score)
                for sample, completion in enumerate(completions)
            ]
            for response, completions in zip(some, drawn, strict=True)
        }
        if readout == "free":
            return free
        forced = force_values(
            engine,
            conversations,
            drawn,
            line,
            find_closing_line=partial(find_closing_score, max_score=max_score),
            sampling=sampling,
            derive_draw_seed=lambda number, sample: derive_seed(
                seed, "forced score", some[number].response_id, first + sample
            ),
        )
        return {
            name: [
                _make_forced_judgment(judgment, value, line, readout=readout, max_score=max_score)
                for judgment, value in zip(judgments, values, strict=True)
            ]
            for (name, judgments), values in zip(free.items(), forced, strict=True)
        }

    if early_stop_z is None:
        found = sample_round(responses, 0, samples)
    else:
        rounds = split_into_rounds(samples, at_least=min_valid_judgments)
        found = sample_adaptively(
            responses,
            sample_round,
            rounds=rounds,
            rho=rho,
            early_stop_z=early_stop_z,
            min_valid_judgments=min_valid_judgments,
        )
    judgments = [judgment for response in responses for judgment in found[response.response_id]]
    return judgments, _count_judgments(judgments, planned=samples * len(responses))


JudgmentsByResponse = Mapping[str, Sequence[Judgment]]
"""By response."""

JudgmentSampler = Callable[[Sequence[Response], int, int], JudgmentsByResponse]
"""Samples judgments of some responses: given the first sample's number and how many."""


def sample_adaptively(
    responses: Sequence[Response],
    sample_round: JudgmentSampler,
    *,
    rounds: Sequence[int],
    rho: float,
    early_stop_z: float,
    min_valid_judgments: int,
) -> JudgmentsByResponse:
    """Sample judgments in rounds, each for the responses that can still be in a pair.

    Args:
        responses: of any number of prompts.
        sample_round: samples judgments of some responses.
        rounds: number of judgments of a response in each round.
        rho: width of the tiers.
        early_stop_z: see `adaptive_judging.find_still_in_play`.
        min_valid_judgments: nobody is given up with fewer readable ones.
    """
    judgments: dict[str, list[Judgment]] = {response.response_id: [] for response in responses}
    in_play, first = list(responses), 0
    for number, count in enumerate(rounds):
        for name, more in sample_round(in_play, first, count).items():
            judgments[name] += more
        first += count
        scores = {
            name: [one.score for one in had if one.score is not None]
            for name, had in judgments.items()
        }
        remaining = dict.fromkeys((one.response_id for one in in_play), sum(rounds[number + 1 :]))
        named = {name for name, had in scores.items() if len(had) < min_valid_judgments}
        for family in _group_by_prompt(responses):
            judged = {name: PartialScore(scores[name], remaining.get(name, 0)) for name in family}
            named |= find_still_in_play(judged, rho=rho, deviations=early_stop_z)
        in_play = [response for response in in_play if response.response_id in named]
    return judgments


def _group_by_prompt(responses: Sequence[Response]) -> list[list[str]]:
    """Group responses by prompt id."""
    families: defaultdict[str, list[str]] = defaultdict(list)
    for response in responses:
        families[response.prompt_id].append(response.response_id)
    return list(families.values())


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


def _count_judgments(judgments: Sequence[Judgment], *, planned: int) -> Counts:
    unscored = Counter(j.unscored_reason for j in judgments if j.unscored_reason is not None)
    decimal = sum(j.score is not None and not j.score.is_integer() for j in judgments)
    return {
        "judgments": len(judgments),
        **({"skipped": planned - len(judgments)} if planned > len(judgments) else {}),
        "unscored": unscored.total(),
        "decimal_scores": decimal,
        "tokens": sum(judgment.tokens for judgment in judgments),
        **{f"unscored_{reason}": count for reason, count in sorted(unscored.items())},
    }
