"""Peak memory of each stage at 5,000 prompts against 500, each in a process of its own.

    python benchmarks/table.py memory

The files are those of `paper_scale.py`: no model, no generation, texts of realistic length. Stages
that work shard by shard run one shard with an engine that answers at once; the others run whole.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from paper_scale import World, write
from table import Row, in_turn

from meta_reward_core.context import Tools
from meta_reward_core.engines.plausible import plausible_reply
from meta_reward_core.engines.scripted import ScriptedEngine
from meta_reward_core.iteration import STAGES

SMALL, LARGE = 500, 5000
STAGES_MEASURED = ("generate", "judge", "pair_actor", "meta_judge", "pair_judge")
MIB = 2**20


def run_stage(root: str, prompts: int, name: str) -> int:
    """In a process of its own: the peak of its resident memory in bytes."""
    context = World(root, f"prompts-{prompts}", 1, prompts).open().context(1)
    stage = next(stage for stage in STAGES if stage.name == name)
    tools = Tools(
        load_engine=lambda *_: ScriptedEngine(plausible_reply), scratch=Path(root) / "scratch"
    )
    stage.run(context, 0, tools)
    # Not ru_maxrss: that is never below what the parent had when it forked.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def peak(root: str, prompts: int, name: str) -> float:
    command = [sys.executable, __file__, json.dumps([root, prompts, name])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(*, pairs: int) -> Iterator[Row]:
    """A row for each stage."""
    with tempfile.TemporaryDirectory() as root:
        for prompts in (SMALL, LARGE):
            write(World(root, f"prompts-{prompts}", 1, prompts), 2)
        for name in STAGES_MEASURED:
            found = in_turn(
                partial(peak, root, LARGE, name), partial(peak, root, SMALL, name), pairs=pairs
            )
            most, least = (statistics.median(column) for column in zip(*found, strict=True))
            yield Row(
                name=f"peak memory of {name} at {LARGE:,} prompts",
                against=f"at {SMALL}",
                ratios=[more / less for more, less in found],
                at_least=1.3,
                note=f"{most / MIB:.0f} MiB against {least / MIB:.0f} MiB, without a model",
                at_most=True,
            )


if __name__ == "__main__":
    print(run_stage(*json.loads(sys.argv[1])))
