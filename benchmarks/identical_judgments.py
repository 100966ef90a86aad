"""Battles saved because judgments with identical text battle as one.

python benchmarks/identical_judgments.py --prompts 60    # the real miniature's judge
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator

from miniature_files import miniature_files
from table import Row

from meta_reward_core.method.meta_judging import make_tie_break_rng
from meta_reward_core.method.pairing import (
    DropReason,
    score_responses,
    select_distinct_judgments,
    select_most_varied_response,
)
from meta_reward_core.storage.records import Judgment, Response, ResponseScore


def count_battles(prompts: int, *, seed: int) -> tuple[int, int]:
    """Count the battles of all readable judgments, and those of distinct ones."""
    with miniature_files(prompts, stages=("sample", "generate", "judge"), seed=seed) as files:
        responses, judgments = files.read_records(Response), files.read_records(Judgment)
    by_response: defaultdict[str, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        by_response[judgment.response_id].append(judgment)
    by_prompt: defaultdict[str, list[ResponseScore]] = defaultdict(list)
    for score in score_responses(responses, judgments):
        by_prompt[score.prompt_id].append(score)
    readable, distinct = 0, 0
    for prompt, scores in by_prompt.items():
        varied = select_most_varied_response(scores, rng=make_tie_break_rng(1, prompt))
        if isinstance(varied, DropReason):
            continue
        group = by_response[varied.response_id]
        count = sum(one.score is not None for one in group)
        readable += count * (count - 1)
        found = select_distinct_judgments(group)
        if not isinstance(found, DropReason):
            distinct += len(found) * (len(found) - 1)
    return readable, distinct


def measure(*, pairs: int) -> Iterator[Row]:
    """Measure the toy task's judge, one seed after the other."""
    fought = [count_battles(60, seed=seed) for seed in range(1, pairs + 1)]
    yield Row(
        "identical judgments battle once, the miniature",
        "all readable judgments battle",
        [everything / distinct for everything, distinct in fought],
        None,
        "battles; always on, part of the method",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    battles, distinct = count_battles(options.prompts, seed=options.seed)
    print(f"{battles:,} battles of all readable judgments, {distinct:,} of distinct ones")


if __name__ == "__main__":
    main()
