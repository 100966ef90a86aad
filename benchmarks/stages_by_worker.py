"""A worker that runs the judge and meta-judge stages on command: see vllm_stages.py.

    python benchmarks/stages_by_worker.py ROOT MODEL < seeds

Runs in vLLM's environment. Each input line is a seed: scripts create two experiments and run them
up to their stage; then the stage runs as in a worker, with messages, rows, an engine process and
files. Only the broker is replaced by a list.
"""

import sys
import time
from pathlib import Path
from unittest.mock import patch

import django

sys.path.insert(0, str(Path(__file__).parents[1]))
django.setup()

from django.core.management import call_command  # noqa: E402
from simulated_workers import Messages  # noqa: E402
from synthetic_experiment import begin, prepare  # noqa: E402
from vllm_stages import ENGINE, SIZES  # noqa: E402

from meta_reward_core.experiment import Experiment  # noqa: E402
from webapp.experiments.models import RunStatus, Shard  # noqa: E402
from workers.engine.client import HOST  # noqa: E402
from workers.pipeline import dispatch, run_shard, transitions  # noqa: E402
from workers.pipeline.control import submit_to_workers  # noqa: E402
from workers.pipeline.sync_rows import record_experiment  # noqa: E402


def run_stage(experiment: Experiment, stage: str, messages: Messages) -> tuple[int, float]:
    """Submit the experiment and work until the stage is finished.

    Returns:
        Tokens drawn in the stage, and its seconds.
    """
    row = record_experiment(experiment, artifact_root=str(experiment.store.root))
    iteration = submit_to_workers(experiment, row, target_iteration=1)
    shards, seconds = Shard.objects.select_related("stage"), 0.0
    while messages.waiting:
        shard = shards.get(pk=messages.waiting.popleft())
        began = time.perf_counter()
        run_shard.run_shard(shard.pk)
        if shard.stage.name == stage:
            seconds += time.perf_counter() - began
        if iteration.stages.filter(name=stage, status="finished").exists():
            break
    messages.waiting.clear()
    transitions.stop_iteration(iteration, status=RunStatus.CANCELLED, message="measured")
    made = shards.filter(stage__iteration=iteration, stage__name=stage)
    return sum(shard.counts["tokens"] for shard in made), seconds


def main() -> None:
    root, model = map(Path, sys.argv[1:])
    call_command("migrate", verbosity=0)
    messages = Messages()
    patch.object(dispatch, "app", messages).start()
    try:
        for line in sys.stdin:
            found = []
            for stage, size in SIZES.items():
                experiment = begin(
                    root / "artifacts", f"{stage.replace('_', '-')}-{line.strip()}",
                    model=model, size=size, engine=ENGINE, seed=int(line),
                )  # fmt: skip
                prepare(experiment, before=stage)
                found.append(run_stage(experiment, stage, messages))
            tokens, seconds = (sum(column) for column in zip(*found, strict=True))
            print("drawn", tokens, seconds, flush=True)
    finally:
        HOST.kill()


if __name__ == "__main__":
    main()
