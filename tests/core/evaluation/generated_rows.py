"""Rows of public benchmarks that are generated alike on every machine.

The comparison tests state what the public tools' own code made of exactly these rows, and
`benchmarks/tool_roundtrip_*.py` runs that code on them again.
"""

import random
from collections.abc import Sequence
from typing import Any

from meta_reward_core.evaluation.reward_bench import SECTIONS

Row = dict[str, Any]


def reward_bench_rows(seed: int = 1) -> list[Row]:
    """RewardBench 1: 5 to 9 scored pairs of each subset, scores 0 to 5 in halves, a tenth equal."""
    draw = random.Random(seed)
    subsets = [subset for weights in SECTIONS.values() for subset in weights]
    return [
        {
            "id": number,
            "subset": subset,
            "scores_chosen": draw.randrange(2, 11) / 2,
            "scores_rejected": draw.randrange(0, 9) / 2,
        }
        for place, subset in enumerate(sorted(subsets))
        for number in range(5 + place % 5)
    ]


def best_of_four_rows(seed: int = 2) -> list[Row]:
    """RewardBench 2 without Ties: 12 items of each subset, the first 4 with the next 4's ids."""
    draw = random.Random(seed)
    return [
        {
            "id": str(number + 4 if number < 4 else number),
            "subset": subset,
            "num_correct": 1,
            "scores": [draw.randrange(3, 11) / 2] + [draw.randrange(0, 10) / 2 for _ in range(3)],
        }
        for subset in ("Factuality", "Focus", "Math", "Precise IF", "Safety")
        for number in range(12)
    ]


def ties_rows(seed: int = 3) -> list[Row]:
    """RewardBench 2's Ties: 15 prompts, each with an item ref:<n> and one tied:<n>."""
    draw = random.Random(seed)
    rows = []
    for number in range(15):
        for kind, correct in (("ref", 1), ("tied", 2 + number % 3)):
            right = [draw.randrange(6, 11) / 2 for _ in range(correct)]
            wrong = [draw.randrange(0, 8) / 2 for _ in range(3 + number % 2)]
            rows.append(
                {
                    "id": f"{kind}:{number}",
                    "subset": "Ties",
                    "num_correct": correct,
                    "scores": right + wrong,
                }
            )
    return rows


def alpaca_rows(
    size: int, *, seed: int, quality: float = 0.4, unrated: Sequence[int] = ()
) -> list[Row]:
    """Annotations in which longer answers win more often.

    Args:
        size: how many instructions.
        seed: of everything.
        quality: shifts the share of the preference that the model wins.
        unrated: rows without a preference.
    """
    draw = random.Random(seed)
    rows = []
    for number in range(size):
        base, own = draw.randrange(200, 2400), draw.randrange(400, 3200)
        share = draw.random() * 0.5 + 0.5 * ((own - base) / 6000 + quality > draw.random())
        rows.append(
            {
                "instruction": f"instruction {number}",
                "dataset": ("helpful_base", "koala", "vicuna")[number % 3],
                "output_1": f"b{number:05d}".ljust(base, "x"),
                "generator_1": "base",
                "output_2": f"m{number:05d}".ljust(own, "y"),
                "generator_2": "mine",
                "annotator": "judge",
                "preference": None if number in unrated else 1 + round(share, 3),
                "instruction_difficulty": round(draw.gauss(0.0, 1.0), 3),
            }
        )
    return rows
