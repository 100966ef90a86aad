"""Meta-Rewarding: train a language model to improve its answers and its judgments.

This package is the method: it does not depend on the web site, a queue or a database. Read
`meta_reward_core.iteration` first. The names below are the public Python API; each is imported when
it is first used, because some of them load torch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from meta_reward_core.method.elo import fit_elo
    from meta_reward_core.method.pairing import select_actor_pair, select_judge_pair
    from meta_reward_core.method.parsing import parse_score, parse_verdict
    from meta_reward_core.planning.engine_loading import make_stage_resources
    from meta_reward_core.planning.experiment_request import ExperimentRequest
    from meta_reward_core.planning.experiment_setup import open_or_create
    from meta_reward_core.recipes.loader import load_recipe
    from meta_reward_core.runner import RunCallback, run_iteration
    from meta_reward_core.storage.roots import StorageRoots

__all__ = [
    "ExperimentRequest",
    "RunCallback",
    "StorageRoots",
    "fit_elo",
    "load_recipe",
    "make_stage_resources",
    "open_or_create",
    "parse_score",
    "parse_verdict",
    "run_iteration",
    "select_actor_pair",
    "select_judge_pair",
]

_MODULES: Final = {
    "ExperimentRequest": "planning.experiment_request",
    "RunCallback": "runner",
    "StorageRoots": "storage.roots",
    "fit_elo": "method.elo",
    "load_recipe": "recipes.loader",
    "make_stage_resources": "planning.engine_loading",
    "open_or_create": "planning.experiment_setup",
    "parse_score": "method.parsing",
    "parse_verdict": "method.parsing",
    "run_iteration": "runner",
    "select_actor_pair": "method.pairing",
    "select_judge_pair": "method.pairing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


# libgomp threads spin for about 10 ms before they sleep. Two processes on the same cores then slow
# each other down tenfold (docs/decisions/0002). libgomp reads this once, when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
