"""Names of the experiments of the filled site: tests say in which state, pages show a name."""

import re
from typing import Final

NAMES: Final = {
    "finished": "toy-baseline-seed-1",
    "running": "toy-baseline-rerun",
    "training": "toy-beta-0.2-seed-1",
    "paused": "toy-long-prompts",
    "failed": "toy-11-judgments",
    "no-pairs": "toy-strict-tiers",
    "held": "toy-audited-seed-1",
    "private": "toy-private-draft",
    "begun": "toy-next-recipe",
}
OTHER: Final = "toy-rho-0.6-seed-1"
"""A second real experiment, for the picture of a comparison."""

_STATE: Final = re.compile(rf"(/experiments/|name=)({'|'.join(NAMES)})(?=[/?&#]|$)")


def name_experiments(path: str) -> str:
    """Replace the states in a path by the names of the experiments in them."""
    return _STATE.sub(lambda found: found[1] + NAMES[found[2]], path)
