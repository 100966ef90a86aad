"""Battles of the miniature world, fought by a meta-judge of any noise, and an oracle as auditor."""

import random
from dataclasses import dataclass
from itertools import permutations

from meta_reward_core.data.prompt_files import compute_prompt_id
from meta_reward_core.method.parsing import parse_score, parse_verdict
from meta_reward_core.review.sampling_units import (
    JudgedPair,
    Outcome,
    build_judged_pairs,
    build_pair_units,
)
from meta_reward_core.storage.records import Battle, Judgment, Prompt, Response
from meta_reward_core.tasks.toy import ground_truth, task
from tests.core.review.simulated_battles import World

NOISE = {"good": 0.05, "poor": 0.25, "coin": 0.5}
"""Chance of rechecking a slot wrongly; at a half the meta-judge knows nothing."""


@dataclass(frozen=True, slots=True)
class Fought:
    """What an iteration of the miniature would have left in its files."""

    prompts: list[Prompt]
    responses: list[Response]
    judgments: list[Judgment]
    battles: list[Battle]


def fight(prompts: int, *, noise: float, seed: int, judgments: int = 4) -> Fought:
    """Write responses and judgments as the miniature's seed would, and let them battle."""
    rng = random.Random(seed)
    fought = Fought([], [], [], [])
    for instruction in task.sample_pool_prompts(prompts, seed=seed):
        prompt = compute_prompt_id(instruction)
        draft = task.draft_judged_response(rng, instruction)
        response = f"{prompt[:12]}.0"
        fought.prompts.append(Prompt(prompt, instruction))
        fought.responses.append(Response(prompt, response, 0, draft.response, 10, "stop"))
        said = {}
        for sample in range(judgments):
            verdicts = task.sample_verdicts(rng, draft, task.SEED_JUDGE_NOISE)
            text = task.write_judgment(draft, verdicts)
            name = f"{response}.{sample}"
            said[name] = verdicts
            score = parse_score(text).score
            fought.judgments.append(Judgment(prompt, response, name, sample, text, score, None, 9))
        for first, second in permutations(said, 2):
            text = task.write_meta_judgment(rng, draft, said[first], said[second], noise=noise)
            verdict = parse_verdict(text).verdict
            fought.battles.append(Battle(prompt, response, first, second, text, verdict, None, 9))
    return fought


def ask_oracle(instruction: str, response: str, first: str, second: str) -> Outcome:
    """Answer an item by the truth, from nothing but what an auditor sees."""
    better = ground_truth.pick_better_judgment(instruction, response, first, second)
    if better is None:
        return "tie"
    return "first" if better == "A" else "second"


def audited_world(fought: Fought) -> World:
    """The population of pairs, with the oracle's answer to each."""
    instructions = {prompt.prompt_id: prompt.text for prompt in fought.prompts}
    responses = {response.response_id: response.text for response in fought.responses}
    judgments = {judgment.judgment_id: judgment for judgment in fought.judgments}
    pairs = build_judged_pairs(fought.battles, judgments, [], [])

    def answer(pair: JudgedPair) -> Outcome:
        asked = instructions[pair.first.prompt_id], responses[pair.first.response_id]
        return ask_oracle(*asked, pair.first.text, pair.second.text)

    return World(
        {pair.key: pair for pair in pairs},
        {pair.key: answer(pair) for pair in pairs},
        build_pair_units(pairs),
    )
