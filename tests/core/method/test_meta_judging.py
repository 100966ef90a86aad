"""Battles in rounds: fewer calls, the same keys, the same pair where the order is plain."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from meta_reward_core.engines.base import Completion, Conversation, SamplingParams
from meta_reward_core.engines.scripted import ScriptedEngine
from meta_reward_core.method.battles import compute_position_weights
from meta_reward_core.method.judge_pairs import rate_judgments
from meta_reward_core.method.meta_judging import ComparisonSet, PlannedBattle, run_battles
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.storage.records import Battle, Judgment, ResponseScore
from meta_reward_core.storage.shards import Counts

TEMPLATE = PromptTemplate(
    "meta_judge", "{rubric}|{instruction}|{response}|{judgment_a}|{judgment_b}"
)
RESPONSES = ("r0", "r1")


def judgments_of(response: str) -> tuple[Judgment, ...]:
    return tuple(
        Judgment("p", response, f"{response}.j{n}", n, f"judgment {n}", 3.0, None, 5)
        for n in range(8)
    )


PLANNED = [
    PlannedBattle("a question", response, first, second)
    for response in RESPONSES
    for first, second in permutations(judgments_of(response), 2)
]


def fight(adaptive_z: float | None) -> tuple[list[Battle], Counts, list[tuple[int, int]]]:
    """The judgment of the higher number wins; says how many conversations each call had."""
    calls: list[tuple[int, int]] = []

    class Counting(ScriptedEngine):
        def sample(
            self, conversations: Sequence[Conversation], n: int, **rest: Any
        ) -> list[list[Completion]]:
            calls.append((len(conversations), rest["seed"]))
            return super().sample(conversations, n, **rest)

    def script(conversation: Conversation, sample: int, seed: int) -> str:
        *_, first, second = conversation[0]["content"].split("|")
        return f"Winner: Judgement {'A' if first > second else 'B'}"

    battles, counts = run_battles(
        PLANNED,
        Counting(script),
        template=TEMPLATE,
        rubric="rubric",
        hide_score_line=False,
        sampling=SamplingParams(0.8, 0.95, 20),
        seed=7,
        adaptive_z=adaptive_z,
    )
    return battles, counts, calls


def best_and_worst(battles: Sequence[Battle], response: str) -> tuple[str, str]:
    score = ResponseScore("p", response, 0, 8, 3.0, 1.0, 10, 3, "stop")
    ratings = rate_judgments(
        [ComparisonSet(score, judgments_of(response))],
        {response: [one for one in battles if one.response_id == response]},
        weights=compute_position_weights(battles),
        prior=1e-4,
    )
    ordered = sorted(ratings, key=lambda rating: rating.elo)
    return ordered[-1].judgment_id, ordered[0].judgment_id


def test_without_the_option_all_battles_are_one_call_with_the_seed_as_it_is() -> None:
    battles, counts, calls = fight(None)
    assert calls == [(len(PLANNED), 7)]
    assert counts["battles"] == len(battles) == len(PLANNED) == 112
    assert "skipped" not in counts


def test_rounds_leave_battles_out_and_keep_the_best_and_the_worst() -> None:
    everything, _, _ = fight(None)
    battles, counts, calls = fight(2.0)
    assert counts["battles"] == len(battles) < len(PLANNED)
    assert counts["battles"] + counts["skipped"] == len(PLANNED)
    assert sum(size for size, _ in calls) == len(battles)
    assert len({seed for _, seed in calls}) == len(calls), "no round draws as another did"
    for response in RESPONSES:
        assert best_and_worst(battles, response) == best_and_worst(everything, response)
        assert best_and_worst(battles, response) == (f"{response}.j7", f"{response}.j0")


def test_what_was_fought_stands_in_the_planned_order_with_its_own_verdict() -> None:
    everything, _, _ = fight(None)
    battles, _, _ = fight(2.0)
    by_key = {(one.first_judgment_id, one.second_judgment_id): one for one in everything}
    assert [by_key[one.first_judgment_id, one.second_judgment_id] for one in battles] == battles
    places = [everything.index(one) for one in battles]
    assert places == sorted(places)


def test_the_same_seed_fights_the_same_battles() -> None:
    assert fight(2.0) == fight(2.0)


def test_a_verdict_at_which_the_token_limit_struck_is_none() -> None:
    """At the limit "Judgement A" could have become "Judgement A and B are equal"."""
    battles, _ = run_battles(
        PLANNED[:1],
        ScriptedEngine(lambda conversation, sample, seed: ("Winner: Judgement A", "length")),
        template=TEMPLATE,
        rubric="rubric",
        hide_score_line=False,
        sampling=SamplingParams(0.8, 0.95, 20),
        seed=7,
    )
    assert (battles[0].verdict, battles[0].unparsed_reason) == (None, "judgment_cut_off")
