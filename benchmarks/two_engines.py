"""One worker with two engine processes of one core each, against two bare engine processes.

    python benchmarks/table.py two_engines --pairs 2 --collect pairs.json    # several times

Real workers run the judge and the meta-judge stage of the toy task: messages through a broker,
rows, engine processes, files. Their time is from the first claim of the judge stage to the last
finished shard of the meta-judge stage. A bare process has the same engine on one core, loaded, and
makes the same calls (prompts, samples, seeds) for every second shard of each stage; the rates of
both are added. All engines are loaded before. What is not measured waits, or is stopped (SIGSTOP),
also the reconciler and the command that follows the iteration: they belong to the site.
"""

import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from subprocess_client import Ask, asked_process
from table import Row

sys.path.insert(0, str(Path(__file__).parents[1]))

from meta_reward_core.context import ModelRef, StageResources
from meta_reward_core.engines.base import Completion, Conversation, Progress, SamplingParams
from meta_reward_core.experiment import Experiment, open_experiment
from meta_reward_core.iteration import STAGES
from meta_reward_core.planning.engine_loading import load_engine
from meta_reward_core.recipes.schema import EngineRecipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.services import broker
from tests.workers.cluster import Cluster, Process, cluster

STAGE_NAMES = ("judge", "meta_judge")
SHARDS = 8
PROMPTS_PER_SHARD = 12
SETTINGS = (
    f"sample.prompts={PROMPTS_PER_SHARD * SHARDS}", f"prompts_per_shard={PROMPTS_PER_SHARD}",
    "judge.samples=160", "meta_judge.max_judgments=8", "train_on=[[actor,judge]]",
    "audit.required=true", "engine.threads=1",
)  # fmt: skip
"""Training waits for an audit, which never comes."""
WARM = ("sample.prompts=8", "prompts_per_shard=2", "judge.samples=8")
"""Less of it, to load engines."""
SPAN = (
    "select (julianday(max(a.finished)) - julianday(min(a.started))) * 86400 "
    "from experiments_attempt a join experiments_shard s on s.id = a.shard_id "
    "join experiments_stage t on t.id = s.stage_id "
    "join experiments_iteration i on i.id = t.iteration_id "
    "join experiments_experiment e on e.id = i.experiment_id "
    "where t.name in ('judge', 'meta_judge') and a.status = 'finished' and e.name = '{}'"
)
ENDED = (
    "select 1 from experiments_iteration i join experiments_experiment e on e.id = i.experiment_id "
    "where i.status not in ('waiting', 'running') and e.name = '{}'"
)
"""The iteration waits for the audit."""
STARTED = (
    "select 1 from experiments_shard s join experiments_stage t on t.id = s.stage_id "
    "join experiments_iteration i on i.id = t.iteration_id "
    "join experiments_experiment e on e.id = i.experiment_id "
    "where t.name = 'judge' and s.status = 'running' and e.name = '{}'"
)


@dataclass(frozen=True)
class Call:
    """One call of an engine by a shard."""

    conversations: list[Conversation]
    samples: int
    sampling: dict[str, Any]
    seed: int


@dataclass
class CallRecorder:
    """An engine that records its calls, and returns no text."""

    calls: list[Call] = field(default_factory=list)

    def sample(
        self,
        conversations: Sequence[Conversation],
        n: int,
        *,
        sampling: SamplingParams,
        seed: int,
        progress: Progress | None = None,  # noqa: ARG002
    ) -> list[list[Completion]]:
        self.calls.append(Call(list(conversations), n, asdict(sampling), seed))
        return [[Completion("", 1, "stop")] * n for _ in conversations]

    def close(self) -> None:
        """Nothing is held."""


def list_calls(experiment: Experiment, stages: Sequence[str] = STAGE_NAMES) -> list[list[Call]]:
    """List the calls of each shard of these stages."""
    context = experiment.build_context(1)
    found = []
    for stage in STAGES:
        for shard in range(stage.plan_shards(context)) if stage.name in stages else ():
            recorder = CallRecorder()
            stage.run(
                context,
                shard,
                StageResources(load_engine=partial(_give, recorder), scratch=Path()),
            )
            found.append(recorder.calls)
    return found


def _give(engine: CallRecorder, model: ModelRef, recipe: EngineRecipe) -> CallRecorder:  # noqa: ARG001
    return engine


def count_tokens(experiment: Experiment) -> int:
    """Count the tokens that both stages generated."""
    manifests = experiment.get_files(1).list_manifests()
    return sum(made.counts["tokens"] for made in manifests if made.stage in STAGE_NAMES)


@dataclass
class WorkerSite:
    """Workers that run one experiment after the other."""

    cluster: Cluster
    reconciler: Process
    settings: Sequence[str]

    def warm_up(self) -> Experiment:
        """Run a small experiment, which loads the engines."""
        return self.run("first", 1, changed=WARM)[0]

    def run(self, name: str, seed: int, *, changed: Sequence[str] = ()) -> tuple[Experiment, float]:
        """Run an experiment up to its training; return it and its tokens per second."""
        site = self.cluster.site
        settings = (*self.settings, *changed)
        changes = [word for setting in settings for word in ("--set", setting)]
        options = ("--experiment", name, "--recipe", str(site.recipe), "--seed", str(seed))
        with self.running():
            following = self.cluster.start(
                "manage.py", "run_iteration", *options, *changes, "--queue"
            )
            self._wait_for(STARTED.format(name))
            self._stop_others(following)
            self._wait_for(ENDED.format(name))
            self.cluster.kill_tree(following)
        experiment = open_experiment(ArtifactStore(str(site.artifacts)), name)
        assert experiment is not None
        ((seconds,),) = site.rows(SPAN.format(name))
        return experiment, count_tokens(experiment) / float(seconds)

    def _wait_for(self, question: str) -> None:
        self.cluster.wait_until(
            lambda: self.cluster.site.rows(question), seconds=900, every_seconds=0.5
        )

    def _stop_others(self, following: Process) -> None:
        """Stop the reconciler and the command, which run on the machine of a site, not here."""
        for process in (self.reconciler, following):
            process.send_signal(signal.SIGSTOP)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the processes run in the block, and no longer."""
        self.send(signal.SIGCONT)
        try:
            yield
        finally:
            self.send(signal.SIGSTOP)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the workers, their engines and the reconciler."""
        for process in self.cluster.processes:
            if process.poll() is None:
                for one in (*psutil.Process(process.pid).children(recursive=True), process):
                    os.kill(one.pid, number)


@contextmanager
def start_workers(
    root: Path, *, workers: int, python: Path | None, settings: Sequence[str]
) -> Iterator[WorkerSite]:
    """Start one worker with two engine processes, or two workers of one core each."""
    with broker() as redis, cluster(root, redis) as here:
        here.python = str((python or Path(sys.executable)).absolute())
        for core in range(workers):
            process = here.start_worker(processes=2 // workers)
            if workers > 1:
                psutil.Process(process.pid).cpu_affinity([core])
        yield WorkerSite(here, here.start_reconciler(), settings)


class BareEngines:
    """Two processes with an engine each, on one core each."""

    def __init__(self, processes: Sequence[Ask], root: Path) -> None:
        self._processes = processes
        self._root = root

    def run(self, experiment: Experiment) -> float:
        """Make the calls of both stages; return the sum of the tokens per second."""
        shards = list_calls(experiment)
        for number in range(2):
            mine = [asdict(call) for calls in shards[number::2] for call in calls]
            (self._root / f"{number}.json").write_text(json.dumps(mine))
        for ask in self._processes:
            ask.send("calls")
        answers = [ask.receive() for ask in self._processes]
        return sum(tokens / seconds for tokens, seconds in answers)


@contextmanager
def start_bare_engines(root: Path, model: Path, engine: EngineRecipe) -> Iterator[BareEngines]:
    """Load two engines."""
    root.mkdir()
    (root / "engine.json").write_text(engine.model_dump_json())
    with ExitStack() as running:
        asks = [
            running.enter_context(
                asked_process(
                    Path(sys.executable), Path(__file__).name, str(root), str(model), str(number)
                )
            )
            for number in range(2)
        ]
        yield BareEngines(asks, root)


def serve_calls() -> None:
    """In a bare process: load the engine and make the calls of its file for each line."""
    root, model, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    os.sched_setaffinity(0, {number})
    recipe = EngineRecipe.model_validate_json((root / "engine.json").read_text())
    engine = load_engine(ModelRef("M0", model, ""), recipe)
    for _ in sys.stdin:
        calls = json.loads((root / f"{number}.json").read_text())
        tokens, began = 0, time.perf_counter()
        for call in calls:
            replies = engine.sample(
                call["conversations"],
                call["samples"],
                sampling=SamplingParams(**call["sampling"]),
                seed=call["seed"],
            )
            tokens += sum(one.tokens for some in replies for one in some)
        print("drawn", tokens, time.perf_counter() - began, flush=True)


def measure(*, pairs: int) -> Iterator[Row]:
    """Measure in turn."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        root = Path(folder)
        worker = running.enter_context(
            start_workers(root / "site", workers=1, python=None, settings=SETTINGS)
        )
        first = worker.warm_up()
        bare = running.enter_context(
            start_bare_engines(root / "bare", get_shipped_seed_model(), first.recipe.engine)
        )
        bare.run(first)
        found = []
        for seed in range(2, 2 + pairs):
            experiment, mine = worker.run(f"pair-{seed}", seed)
            found.append((mine, bare.run(experiment)))
            print("tokens/s: " + ", ".join(f"{rate:,.0f}" for rate in found[-1]), flush=True)
    mine, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    yield Row(
        name="judge + meta-judge stage, one worker with two engine processes of one core each",
        against="two bare engine processes of one core each, same calls",
        ratios=[one / two for one, two in found],
        at_least=0.97,
        note=f"toy task, {SHARDS} shards of {PROMPTS_PER_SHARD} prompts a stage; "
        f"{mine:,.0f} against {theirs:,.0f} tokens/s",
    )


if __name__ == "__main__":
    serve_calls()
