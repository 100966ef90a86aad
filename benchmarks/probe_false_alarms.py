"""Share of good toy runs that the judge probe stops, and of bad judges that pass.

    python -m benchmarks.probe_false_alarms --models 1 2 3   # trains these seed models first
    python -m benchmarks.probe_false_alarms                  # the shipped one, and scripted judges

Good runs: each seed model, loop seeds 1 to 5 and three probe seeds, with judge pairs and without,
which covers the probes of all arms (arms with equal settings start identically). Scripted judges
write the replies of the `scripted` engine, and a share of them is replaced by the fault, either
reply by reply or prompt by prompt, which is harder to distinguish from a bad prompt. Exits with 1
if more than 1% of the good runs are stopped, or a judge all of whose replies are faulty passes.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Final

from meta_reward_core.context import PromptTemplates
from meta_reward_core.engines.base import Conversation, Engine
from meta_reward_core.engines.scripted import Reply, ScriptedEngine, make_fake_reply
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.engines.transformers import load_transformers_engine
from meta_reward_core.evaluation.judge_health import Finding
from meta_reward_core.evaluation.judge_probe import run_judge_probe
from meta_reward_core.evaluation.probe_gate import make_limits
from meta_reward_core.experiment import load_templates
from meta_reward_core.method.prompt_sampling import sample_prompts
from meta_reward_core.planning.prompt_pool import read_pool
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.records import Prompt
from meta_reward_core.tasks.registry import get_task_templates
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from meta_reward_core.tasks.toy.base_model_variants import SeedModelVariant, ensure_variant

LOOP_SEEDS: Final = range(1, 6)
PROBE_SEEDS: Final = range(3)
ARMS: Final = ("miniature", "miniature-self-rewarding")
FAULTS: Final[dict[str, Reply]] = {
    "unreadable": "It is a nice answer.",
    "wrong format": '{"score": "high"}',
    "cut off": ("The answer begins well, and", "length"),
    "constant": "It holds.\nScore: 4",
}
SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="*", default=[], metavar="SFT_SEED")
    parser.add_argument("--folder", type=Path, help="Folder of base models.")
    parser.add_argument("--scripted-only", action="store_true")
    options = parser.parse_args()
    stopped = 0 if options.scripted_only else print_good_runs(options.models, options.folder)
    sys.exit(bool(print_scripted_judges()) or stopped > 0.01)


def probe(
    recipe: Recipe,
    templates: PromptTemplates,
    pool: Sequence[Prompt],
    engine: Engine,
    seeds: tuple[int, int],
) -> tuple[Finding, ...]:
    """Run the probe of a run like `probe_gate`, and return its findings."""
    loop_seed, probe_seed = seeds
    sampled = sample_prompts(
        pool,
        used=(),
        count=recipe.probe.prompts,
        allow_reuse=False,
        seed=derive_seed(loop_seed, "iteration", 1, "sample", 0),
    )
    return run_judge_probe(
        sampled,
        recipe,
        templates,
        engine=engine,
        judge=engine,
        iteration=1,
        seed=derive_seed(loop_seed, "probe", probe_seed),
        seconds=3600.0,
        limits=make_limits(recipe.probe),
    ).report.findings


def print_good_runs(sft_seeds: Sequence[int], folder: Path | None) -> float:
    """Compute the share of toy probes that stop their run."""
    folders = list(list_models(sft_seeds, folder)) or [get_shipped_seed_model()]
    found: list[tuple[Finding, ...]] = []
    for path, arm in product(folders, ARMS):
        recipe = load_recipe(arm)
        templates = load_templates(recipe, get_task_templates(recipe.task))
        pool, _ = read_pool(None, recipe)
        engine = load_transformers_engine(
            path,
            dtype=recipe.engine.dtype,
            device=recipe.engine.device,
            threads=recipe.engine.threads,
            max_batch_tokens=recipe.engine.max_batch_tokens,
            max_model_len=recipe.engine.max_model_len,
        )
        try:
            made = [
                probe(recipe, templates, pool.prompts, engine, seeds)
                for seeds in product(LOOP_SEEDS, PROBE_SEEDS)
            ]
        finally:
            engine.close()
        found += made
        print(f"{path.name}, {arm}: {sum(map(bool, made))} of {len(made)} stopped", flush=True)
    share = sum(map(bool, found)) / len(found)
    print(f"good runs stopped: {share:.1%} of {len(found)}\n")
    return share


def list_models(sft_seeds: Sequence[int], folder: Path | None) -> Iterator[Path]:
    """Return base models of the toy task; train missing ones."""
    models = folder or Path(tempfile.gettempdir()) / "miniature-models"
    for sft_seed, noisy in product(sft_seeds, (False, True)):
        variant = SeedModelVariant(sft_seed, noisy=noisy)
        yield ensure_variant(variant, models, scratch=models / "scratch", say=print)


def print_scripted_judges() -> int:
    """Print how often each fault stops a run, by share; return how many useless judges passed."""
    recipe = load_recipe("miniature", changes=["engine.kind=scripted"])
    templates = load_templates(recipe, get_task_templates(recipe.task))
    pool, _ = read_pool(None, recipe)
    passed = 0
    print(f"| fault | spread over | {' | '.join(f'{share:.0%}' for share in SHARES)} |")
    print(f"|---|---|{'--:|' * len(SHARES)}")
    for fault, by_prompt in product(FAULTS, (False, True)):
        stopped = []
        for share in SHARES:
            runs = [
                bool(
                    probe(
                        recipe,
                        templates,
                        pool.prompts,
                        ScriptedEngine(FaultyJudge(fault, share, seeds, by_prompt=by_prompt)),
                        seeds,
                    )
                )
                for seeds in product(LOOP_SEEDS, PROBE_SEEDS)
            ]
            stopped.append(f"{sum(runs)}/{len(runs)}")
            passed += runs.count(False) if share == 1.0 else 0
        where = "prompts" if by_prompt else "replies"
        print(f"| {fault} | {where} | {' | '.join(stopped)} |", flush=True)
    return passed


class FaultyJudge:
    """Build a judge with a fault in a share of its replies."""

    def __init__(
        self, fault: str, share: float, seeds: tuple[int, int], *, by_prompt: bool
    ) -> None:
        self._reply, self._share = FAULTS[fault], share
        self._seeds, self._by_prompt = seeds, by_prompt

    def __call__(self, conversation: Conversation, sample: int, seed: int) -> Reply:
        usual = make_fake_reply(conversation, sample, seed)
        if "\nScore:" not in usual:
            return usual
        asked = conversation[-1]["content"]
        what = [asked.partition("\nReply :")[0]] if self._by_prompt else [asked, sample, seed]
        draw = derive_seed(*self._seeds, "fault", *what) % 10_000
        return self._reply if draw < self._share * 10_000 else usual


if __name__ == "__main__":
    main()
