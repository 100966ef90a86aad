"""Step 5: the meta-judge compares the judgments of the response whose scores vary most."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    Engine,
    Progress,
    SamplingParams,
    offset_progress,
)
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.method.adaptive_battles import (
    OrderedPair,
    find_undecided_judgments,
    select_remaining_battles,
    split_into_rounds,
    tally_win_records,
)
from meta_reward_core.method.forced_readout import (
    VERDICT_LINE,
    ForcedValue,
    force_values,
    list_probabilities,
)
from meta_reward_core.method.pairing import (
    DropReason,
    select_distinct_judgments,
    select_most_varied_response,
)
from meta_reward_core.method.parsing import (
    PROMPT_REFUSED,
    find_closing_verdict,
    parse_verdict,
    remove_score_lines,
)
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import (
    Battle,
    Judgment,
    ResponseScore,
    Verdict,
    VerdictReadout,
)
from meta_reward_core.storage.shards import Counts


@dataclass(frozen=True, slots=True)
class PlannedBattle:
    """Two judgments of one response, in the order in which the meta-judge sees them."""

    instruction: str
    response: str
    first: Judgment
    second: Judgment


@dataclass(frozen=True, slots=True)
class ComparisonSet:
    """The judgments of one response that battle each other, by ascending sample."""

    response: ResponseScore
    judgments: tuple[Judgment, ...]


def select_comparison_set(
    scores: Sequence[ResponseScore],
    judgments: Mapping[str, Sequence[Judgment]],
    *,
    seed: int,
    max_judgments: int | None,
) -> ComparisonSet | DropReason:
    """Select the judgments of a prompt that battle, or return why none do.

    The result depends only on the arguments, so it is the same in every step.

    Args:
        scores: scores of all responses of one prompt.
        judgments: judgments by response_id.
        seed: decides between responses of equal variance.
        max_judgments: maximum number of judgments that battle; those with the lowest `sample` are
            used.

    Source: Wu et al. 2024, section 2.2.
    """
    prompt_id = scores[0].prompt_id if scores else ""
    response = select_most_varied_response(scores, rng=make_tie_break_rng(seed, prompt_id))
    if isinstance(response, DropReason):
        return response
    distinct = select_distinct_judgments(judgments.get(response.response_id, ()))
    if isinstance(distinct, DropReason):
        return distinct
    return ComparisonSet(response, tuple(distinct[:max_judgments]))


def make_tie_break_rng(seed: int, prompt_id: str) -> random.Random:
    """Create the generator that selects among responses with equal score variance."""
    return random.Random(derive_seed(seed, "most-varied", prompt_id))


def list_ordered_pairs(
    judgments: Sequence[Judgment], *, max_score_gap: float | None
) -> list[tuple[Judgment, Judgment]]:
    """List all ordered pairs, with those that share the first judgment next to each other.

    Source: Wu et al. 2024, section 2.2: each pair in both orders.
    """
    return [
        (first, second)
        for first, second in permutations(judgments, 2)
        if max_score_gap is None or _compute_score_gap(first, second) <= max_score_gap
    ]


def _compute_score_gap(first: Judgment, second: Judgment) -> float:
    if first.score is None or second.score is None:
        raise ValueError("only scored judgments can take part in battles")
    return abs(first.score - second.score)


def run_battles(
    battles: Sequence[PlannedBattle],
    engine: Engine,
    *,
    template: PromptTemplate,
    rubric: str,
    hide_score_line: bool,
    sampling: SamplingParams,
    seed: int,
    adaptive_z: float | None = None,
    readout: VerdictReadout = "free",
    progress: Progress | None = None,
) -> tuple[list[Battle], Counts]:
    """Run each planned battle once.

    Args:
        readout: how a verdict is produced; see `forced_readout` for `forced`.
        adaptive_z: see `adaptive_battles`; if set, battles that can no longer change a pair are
            skipped. The rounds of all responses run together.

    Returns:
        One battle for each planned battle that ran, in order, keyed by the judgments' ids; and
        counts.

    Source: Wu et al. 2024, section 2.2.
    """

    def run_round(some: Sequence[PlannedBattle], number: int, before: int) -> list[Battle]:
        conversations = [
            _build_conversation(battle, template, rubric=rubric, hide_score_line=hide_score_line)
            for battle in some
        ]
        sampled = engine.sample(
            conversations,
            1,
            sampling=sampling,
            seed=derive_seed(seed, "round", number) if number else seed,
            progress=offset_progress(progress, before),
        )
        found = [
            _parse_battle(battle, completions[0])
            for battle, completions in zip(some, sampled, strict=True)
        ]
        if readout == "free":
            return found
        forced = force_values(
            engine,
            conversations,
            sampled,
            VERDICT_LINE,
            find_closing_line=find_closing_verdict,
            sampling=sampling,
            derive_draw_seed=lambda place, _: derive_seed(
                seed,
                "forced verdict",
                some[place].first.judgment_id,
                some[place].second.judgment_id,
            ),
        )
        return [
            _make_forced_battle(free, values[0]) for free, values in zip(found, forced, strict=True)
        ]

    if adaptive_z is None:
        finished = run_round(battles, 0, 0)
    else:
        finished = run_adaptive_battles(battles, run_round, adaptive_z=adaptive_z)
    return finished, _count_battles(finished, planned=len(battles))


BattleRunner = Callable[[Sequence[PlannedBattle], int, int], list[Battle]]


def run_adaptive_battles(
    battles: Sequence[PlannedBattle], run_round: BattleRunner, *, adaptive_z: float
) -> list[Battle]:
    """Run battles in rounds, and skip battles of judgments whose rank is decided.

    Args:
        battles: the planned battles of any number of responses.
        run_round: runs some battles; it is called with the battles, the number of the round (from
            0) and the number of earlier battles.
        adaptive_z: see `adaptive_battles.find_undecided_judgments`.
    """
    planned = {_to_ordered_pair(battle.first, battle.second): battle for battle in battles}
    orders: defaultdict[str, list[OrderedPair]] = defaultdict(list)
    for order, battle in planned.items():
        orders[battle.first.response_id].append(order)
    rounds = {name: split_into_rounds(all_of_it) for name, all_of_it in orders.items()}
    verdicts: defaultdict[str, dict[OrderedPair, str | None]] = defaultdict(dict)
    finished: dict[OrderedPair, Battle] = {}
    for number in range(max(map(len, rounds.values()), default=0)):
        due = {
            order
            for name, its_rounds in rounds.items()
            for order in _select_due_battles(
                its_rounds, number, orders[name], verdicts[name], adaptive_z
            )
        }
        some = [battle for order, battle in planned.items() if order in due]
        for done in run_round(some, number, len(finished)) if some else ():
            order = done.first_judgment_id, done.second_judgment_id
            finished[order] = done
            verdicts[done.response_id][order] = done.verdict
    return [finished[order] for order in planned if order in finished]


def _select_due_battles(
    rounds: Sequence[Sequence[OrderedPair]],
    number: int,
    orders: Sequence[OrderedPair],
    verdicts: Mapping[OrderedPair, str | None],
    adaptive_z: float,
) -> Sequence[OrderedPair]:
    """Select the battles of one response that a round still needs; the first round needs all."""
    if number >= len(rounds) or number == 0:
        return rounds[number] if number == 0 else ()
    standings = tally_win_records(orders, verdicts)
    return select_remaining_battles(
        rounds[number], find_undecided_judgments(standings, deviations=adaptive_z)
    )


def _to_ordered_pair(first: Judgment, second: Judgment) -> OrderedPair:
    return first.judgment_id, second.judgment_id


def _build_conversation(
    battle: PlannedBattle, template: PromptTemplate, *, rubric: str, hide_score_line: bool
) -> Conversation:
    shown = [battle.first.text, battle.second.text]
    if hide_score_line:
        shown = [remove_score_lines(text) for text in shown]
    values: Mapping[str, str] = {
        "rubric": rubric,
        "instruction": battle.instruction,
        "response": battle.response,
        "judgment_a": shown[0],
        "judgment_b": shown[1],
    }
    return [{"role": "user", "content": template.fill(**values)}]


def _parse_battle(battle: PlannedBattle, completion: Completion) -> Battle:
    is_cut_off = completion.finish_reason == "length"
    parsed = parse_verdict(completion.text, is_cut_off=is_cut_off)
    refused = completion.finish_reason == "refused"
    return Battle(
        prompt_id=battle.first.prompt_id,
        response_id=battle.first.response_id,
        first_judgment_id=battle.first.judgment_id,
        second_judgment_id=battle.second.judgment_id,
        text=completion.text,
        verdict=None if refused else parsed.verdict,
        unparsed_reason=PROMPT_REFUSED if refused else parsed.reason,
        tokens=completion.tokens,
        finish_reason=completion.finish_reason,
        readout="free",
        refusal=completion.refusal,
    )


def _make_forced_battle(free: Battle, value: ForcedValue | None) -> Battle:
    """Build a battle with a forced verdict; without a value it has no verdict."""
    if value is None:
        return replace(free, verdict=None, unparsed_reason=PROMPT_REFUSED, readout="forced")
    verdicts: tuple[Verdict, ...] = ("A", "B")
    return replace(
        free,
        text=value.text,
        verdict=verdicts[value.index],
        unparsed_reason=None,
        readout="forced",
        probabilities=list_probabilities(VERDICT_LINE, value),
    )


def _count_battles(battles: Sequence[Battle], *, planned: int) -> Counts:
    verdicts = Counter(battle.verdict for battle in battles)
    skipped = {"skipped": planned - len(battles)} if planned > len(battles) else {}
    return {
        "battles": len(battles),
        "won_by_first": verdicts["A"],
        "won_by_second": verdicts["B"],
        "ties": verdicts["tie"],
        "unparsed": verdicts[None],
        "tokens": sum(battle.tokens for battle in battles),
        **skipped,
    }
