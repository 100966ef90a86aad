"""Published results of the paper, for comparison.

Source: Wu et al. 2024, "Meta-Rewarding Language Models", arXiv 2407.19594, tables 1 to 7. Their
models have 8 billion parameters; the results are a target for models of that size, and not
comparable with the miniature.
"""

from typing import Final

Row = tuple[str, ...]
_NONE = "–"

ALPACA_EVAL: Final[tuple[Row, ...]] = (
    ("seed (Llama-3-8B-Instruct)", "22.92", "22.57", "1,899"),
    ("SFT on EFT", "25.47", "25.10", "1,943"),
    ("Self-Rewarding + LC, iteration 1", "26.93", _NONE, _NONE),
    ("Self-Rewarding + LC, iteration 2", "30.38", _NONE, _NONE),
    ("Self-Rewarding + LC, iteration 3", "34.87", _NONE, _NONE),
    ("Self-Rewarding + LC, iteration 4", "35.49", _NONE, _NONE),
    ("Meta-Rewarding, iteration 1", "27.85", "27.62", "1,949"),
    ("Meta-Rewarding, iteration 2", "32.66", "33.29", "2,001"),
    ("Meta-Rewarding, iteration 3", "35.45", "37.24", "2,064"),
    ("Meta-Rewarding, iteration 4", "39.44", "39.45", "2,003"),
)
"""Table 1: length-controlled win rate, win rate, characters."""

ARENA_HARD: Final[tuple[Row, ...]] = (
    ("seed (Llama-3-8B-Instruct)", "20.6", _NONE),
    ("SFT on EFT", "24.2", _NONE),
    ("Self-Rewarding + LC, iteration 4", "27.3", _NONE),
    ("Meta-Rewarding, iteration 4", "29.1", "26.8 to 31.2"),
)
"""Table 2: score (version 0.1), 95% band."""

JUDGE_AND_MODEL: Final[tuple[Row, ...]] = (
    ("SFT on EFT", "51.48", "51.79", _NONE),
    ("Meta-Rewarding, iteration 3", "58.63", "61.24", _NONE),
    ("Meta-Rewarding, iteration 4", "57.44", "59.54", _NONE),
)
"""Table 3: agreement with GPT-4 in percent, with and without ties; Spearman is not reported."""

LENGTH_CONTROL: Final[tuple[Row, ...]] = (
    ("Meta-Rewarding, iteration 4, rho 0", "2,212"),
    ("Meta-Rewarding, iteration 4, rho 0.4", "2,003"),
)
"""Table 4: characters of the answers."""

META_JUDGE_BIAS: Final[tuple[Row, ...]] = (
    ("Meta-Rewarding, iteration 1", "63.04", "43.92", _NONE),
    ("Meta-Rewarding, iteration 2", "97.68", "68.11", _NONE),
)
"""Table 5: percent won by the higher score, position bias (secondary texts)."""

MT_BENCH: Final[tuple[Row, ...]] = (
    ("seed (Llama-3-8B-Instruct)", "8.116", "8.319", "7.911"),
    ("Meta-Rewarding, iteration 4", "8.288", "8.738", "7.838"),
)
"""Table 6: all turns, turn 1, turn 2."""

JUDGE_AND_HUMANS: Final[tuple[Row, ...]] = (
    ("SFT on EFT", "63.20", "64.59", "0.321"),
    ("Self-Rewarding, iteration 2", "64.14", "67.17", "0.347"),
    ("Meta-Rewarding, iteration 2", "66.64", "68.33", "0.382"),
)
"""Table 7: agreement with people in percent, with and without ties; Spearman's correlation."""
