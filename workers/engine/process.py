"""The process that loads and runs a model: `python -m workers.engine.process`.

It uses only files and the method, neither the database nor a queue. Requests are lines of JSON on
standard input, one at a time; messages are lines of JSON on the original standard output. All
output of libraries goes to standard error, the end of which the worker keeps. A shard writes its
files; requested completions are returned in the response.

    in   {"artifact_root", "scratch", "experiment", "uuid", "iteration", "stage", "shard"}
         {"artifact_root", "experiment", "number", "conversations", "samples", "sampling", "seed"}
    out  {"progress": [done, tokens]} ...
         {"log": {...}} ... then one of
         {"finished": counts, "reused": whether the files were there, "device": where}
         {"finished": by conversation, the completions, "device": where}
         {"failed": message, "kind": class of the error, "retryable": ...}
"""

import contextlib
import functools
import json
import os
import resource
import select
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Final

from filelock import FileLock

from meta_reward_core.context import StageResources
from meta_reward_core.engines.base import Completion, SamplingParams
from meta_reward_core.errors import ArtifactError, MetaRewardError
from meta_reward_core.experiment import Experiment, compute_experiment_stamp, open_experiment
from meta_reward_core.iteration import STAGES, Stage
from meta_reward_core.models.library_errors import explain_library_error
from meta_reward_core.planning.engine_loading import load_engine, load_reward_model
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.system.settings import read_settings

PROGRESS_SECONDS: Final = 0.25
IDLE_SECONDS: Final = 600.0
"""Idle time after which a child process exits to free its memory."""


class Reporter:
    """Writes messages, with rate-limited progress."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._reported_at = 0.0

    def send(self, **message: Any) -> None:
        """Write one message."""
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()

    def report_progress(self, done: int, tokens: int) -> None:
        """Report the progress of the engine."""
        now = time.monotonic()
        if now - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = now
            self.send(progress=[done, tokens])

    def report_log_row(self, row: dict[str, float]) -> None:
        """Report a row of the training log."""
        self.send(log=row)


def main() -> None:
    """Serve requests until the input ends."""
    _limit_memory(read_settings().engine_memory_mb)
    reporter = Reporter(_take_standard_output())
    resources = StageResources(
        load_engine=load_engine,
        load_reward_model=load_reward_model,
        scratch=Path(),
        progress=reporter.report_progress,
        on_log=reporter.report_log_row,
    )
    for request in _iter_requests(sys.stdin):
        handle_request(request, resources, reporter)


def handle_request(request: dict[str, Any], resources: StageResources, reporter: Reporter) -> None:
    """Handle a request and report its result."""
    try:
        answer = (
            run_shard(request, resources)
            if "stage" in request
            else sample_completions(request, resources)
        )
    except MetaRewardError as error:
        reporter.send(failed=str(error), kind=type(error).__name__, retryable=error.retryable)
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker must hear of it
        traceback.print_exc()
        message = explain_library_error(error) or str(error)
        reporter.send(failed=message, kind=type(error).__name__, retryable=True, fault=True)
    else:
        reporter.send(**answer, device=_get_device())


def run_shard(request: dict[str, Any], resources: StageResources) -> dict[str, Any]:
    """Run one shard, unless its finished files exist.

    Returns:
        The counts in its manifest, and whether an earlier attempt had finished it.
    """
    stage = next(stage for stage in STAGES if stage.name == request["stage"])
    experiment = _open_experiment(request)
    resources.scratch = Path(request["scratch"])
    with _lock_training_scratch(stage, resources.scratch):
        context = experiment.build_context(request["iteration"])
        done = stage.find_finished_shard(context, request["shard"])
        if done is not None:
            return {"finished": done.counts, "reused": True}
        made = stage.run_shard(context, request["shard"], resources)
        return {"finished": made.counts, "reused": False}


def sample_completions(request: dict[str, Any], resources: StageResources) -> dict[str, Any]:
    """Sample completions from one of an experiment's models, which stays loaded."""
    experiment = _open_experiment(request)
    engine = resources.get_engine(experiment.get_model(request["number"]), experiment.recipe.engine)
    sampled = engine.sample(
        request["conversations"],
        request["samples"],
        sampling=_complete_sampling(experiment, request["sampling"]),
        seed=request["seed"],
        progress=resources.progress,
    )
    return {
        "finished": [[_to_message(completion) for completion in replies] for replies in sampled]
    }


def _complete_sampling(experiment: Experiment, asked: dict[str, Any]) -> SamplingParams:
    """Complete sampling parameters with the experiment's date."""
    sampling = SamplingParams(**asked)
    return replace(sampling, chat_date=sampling.chat_date or experiment.chat_date)


def _to_message(completion: Completion) -> dict[str, Any]:
    """Convert a completion to a message, without token ids, which only training needs."""
    return asdict(replace(completion, token_ids=None))


@contextlib.contextmanager
def _lock_training_scratch(stage: Stage, scratch: Path) -> Iterator[None]:
    """Allow one training at a time in a scratch folder.

    A frozen worker loses its shard while its child continues to train. The next worker waits here
    and then finds the finished files. The lock is released when its process ends.
    """
    if stage.resource != "trainer":
        yield
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with FileLock(scratch / ".training.lock"):
        yield


def _open_experiment(request: dict[str, Any]) -> Experiment:
    """Open an experiment, if its own files still exist."""
    artifact_root, name = request["artifact_root"], request["experiment"]
    stamp = compute_experiment_stamp(ArtifactStore(artifact_root), name)
    experiment = _load_experiment(artifact_root, name, stamp)
    if request.get("uuid") not in {None, "", str(experiment.uuid)}:
        raise ArtifactError(
            f"the files of experiment {name!r} under {artifact_root} belong to another "
            f"experiment with this name: restore the files of this one, or delete it"
        )
    return experiment


@functools.lru_cache(maxsize=4)
def _load_experiment(artifact_root: str, name: str, stamp: str) -> Experiment:  # noqa: ARG001
    """Load with a cache by settings and model, because hashing the base model is slow."""
    experiment = open_experiment(ArtifactStore(artifact_root), name)
    if experiment is None:
        raise ArtifactError(f"the files of experiment {name!r} are missing in {artifact_root}")
    return experiment


def _iter_requests(stream: IO[str]) -> Iterator[dict[str, Any]]:
    while select.select([stream], [], [], IDLE_SECONDS)[0]:
        line = stream.readline()
        if not line:
            return
        yield json.loads(line)


def _take_standard_output() -> IO[str]:
    """Reserve standard output for messages; other output goes to standard error."""
    taken = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(taken, "w", encoding="utf-8")


def _limit_memory(megabytes: int | None) -> None:
    """Make allocations beyond the limit fail in this process, before the kernel kills one."""
    if megabytes is not None:
        limit = megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _get_device() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "cpu"


if __name__ == "__main__":
    main()
