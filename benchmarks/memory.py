"""Peak memory of each stage at 5,000 prompts compared with 500, over all shards.

    python benchmarks/table.py memory

Each stage runs in a separate process, all its shards sequentially, on the output of the previous
stage. A scripted engine replies immediately with texts of realistic length; training is real, with
a model so small that its memory would only grow with rows and logs. Peak memory does not depend on
other load, so each stage is measured once per size.
"""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from paper_scale import CUT_OFF, UNREADABLE, prompt_file, text
from synthetic_experiment import make_model_folder, stage_named
from table import Row

from meta_reward_core.context import ModelRef, StageResources
from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.scripted import Reply, Script, ScriptedEngine
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.experiment import create_experiment, open_experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore

SMALL, LARGE = 500, 5000
MIB = 2**20
RECIPE = {
    "name": "memory",
    "pairing": {"rho": 0.32, "max_chosen_chars": 2500},
    "meta_judge": {"max_chosen_judgment_chars": 1100, "max_new_tokens": 4096},
    "actor": {"max_new_tokens": 4096},
    "judge": {"max_new_tokens": 4096},
    "training": {
        "epochs": 1,
        "device_batch_size": 8,
        "max_length": 4096,
        "dtype": "float32",
        "gradient_checkpointing": False,
    },
}


def reply_by(write: Callable[[random.Random], Reply]) -> Script:
    """A script whose replies depend on the conversation, the sample and the seed."""

    def script(conversation: Conversation, sample: int, seed: int) -> Reply:
        return write(random.Random(derive_seed(seed, conversation[-1]["content"], sample)))

    return script


def _response(rng: random.Random) -> Reply:
    return text(rng, 200, 3000), "length" if rng.random() < CUT_OFF else "stop"


def _judgment(rng: random.Random) -> Reply:
    last = "" if rng.random() < UNREADABLE else f"\nScore: {rng.randrange(6)}"
    return text(rng, 300, 1400) + last


def _battle(rng: random.Random) -> Reply:
    last = "" if rng.random() < UNREADABLE else f"\nWinner: Judgement {rng.choice('AB')}"
    return text(rng, 150, 700) + last


SCRIPTS = {
    "generate": reply_by(_response),
    "judge": reply_by(_judgment),
    "meta_judge": reply_by(_battle),
}


def begin(root: Path, prompts: int) -> None:
    """An experiment named after its number of prompts."""
    recipe = Recipe.model_validate(RECIPE | {"sample": {"prompts": prompts}})
    model = root / "model"
    create_experiment(
        ArtifactStore(str(root)),
        f"prompts-{prompts}",
        recipe=recipe,
        seed=1,
        seed_model=ModelRef("M0", model, hash_model_folder(model)),
        prompts=prompt_file(prompts, 1),
    )


def run_stage(root: str, prompts: int, name: str) -> int:
    """Runs in a separate process; returns its peak resident memory in bytes."""
    experiment = open_experiment(ArtifactStore(root), f"prompts-{prompts}")
    assert experiment is not None
    context, stage = experiment.build_context(1), stage_named(name)
    resources = StageResources(
        load_engine=lambda *_: ScriptedEngine(SCRIPTS[name]), scratch=Path(root) / "scratch"
    )
    for shard in range(stage.plan_shards(context)):
        stage.run_shard(context, shard, resources)
    # Not ru_maxrss, which is never below the memory of the parent at the fork.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def peak(root: Path, prompts: int, name: str) -> float:
    command = [sys.executable, __file__, json.dumps([str(root), prompts, name])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def measure(*, pairs: int) -> Iterator[Row]:  # noqa: ARG001 once is enough, see above
    """Yield a row for each stage."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_model_folder(root / "model", "tiny", dtype="float32", vocabulary=64)
        for prompts in (SMALL, LARGE):
            begin(root, prompts)
        for stage in STAGES:
            less, more = (peak(root, prompts, stage.name) for prompts in (SMALL, LARGE))
            yield Row(
                name=f"peak memory of {stage.name} at {LARGE:,} prompts, all shards",
                against=f"at {SMALL}",
                ratios=[more / less],
                at_least=1.3,
                note=f"{more / MIB:.0f} MiB against {less / MIB:.0f} MiB; measured once",
                at_most=True,
            )


if __name__ == "__main__":
    print(run_stage(*json.loads(sys.argv[1])))
