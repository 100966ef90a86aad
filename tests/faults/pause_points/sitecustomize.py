"""Hold a process at a named point until a test has done its worst.

Python reads this file when it starts, where a test has put its folder into PYTHONPATH. Nothing in
the production code knows of it: the functions below are wrapped as their modules are loaded.

    <FAULTS_FOLDER>/<step>.<point>.armed     written by the test: the next process shall stop here
    <FAULTS_FOLDER>/<step>.<point>.reached   the process that stands there; its id is inside
    <FAULTS_FOLDER>/<step>.<point>.go        written by the test: it may go on
"""

import functools
import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(os.environ.get("FAULTS_FOLDER", "/nowhere"))


def hold(step: str, point: str) -> None:
    """Stop here, if a test wants it; one process alone does."""
    place = FOLDER / f"{step}.{point}"
    arriving = FOLDER / f"{step}.{point}.{os.getpid()}"
    try:
        place.with_name(f"{place.name}.armed").rename(arriving)
    except OSError:
        return
    arriving.write_text(str(os.getpid()))
    arriving.rename(place.with_name(f"{place.name}.reached"))
    while not place.with_name(f"{place.name}.go").exists():
        time.sleep(0.02)


def _working(module: Any) -> None:
    """The engine's process is about to make a shard."""
    run = module.Stage.run_shard

    @functools.wraps(run)
    def run_shard(stage: Any, *arguments: Any) -> Any:
        hold(stage.name, "working")
        return run(stage, *arguments)

    module.Stage.run_shard = run_shard


def _writing(module: Any) -> None:
    """The parts of a shard are written and its manifest is not; then it is, and nobody knows."""
    put = module.IterationFiles._put

    @functools.wraps(put)
    def put_and_hold(files: Any, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        step = name.rpartition("-")[0]
        if folder == "manifests":
            hold(step, "unpromised")
        put(files, path, data)
        if folder == "manifests":
            hold(step, "untold")

    module.IterationFiles._put = put_and_hold


def _told(module: Any) -> None:
    """The row says that a shard is finished; what follows from that has not been done."""
    finish = module.finish_attempt

    @functools.wraps(finish)
    def finish_and_hold(attempt: Any, **values: Any) -> Any:
        won = finish(attempt, **values)
        hold(attempt.shard.stage.name, "told")
        return won

    module.finish_attempt = finish_and_hold


def _before(name: str, step: str) -> Callable[[Any], None]:
    def wrap(module: Any) -> None:
        function = getattr(module, name)

        @functools.wraps(function)
        def hold_first(*arguments: Any, **named: Any) -> Any:
            hold(step, "working")
            return function(*arguments, **named)

        setattr(module, name, hold_first)

    return wrap


def _one_after_the_other(module: Any) -> None:
    """Each stage waits for all earlier ones, so that one step is struck at a time.

    Otherwise the one worker could be held in a stage while a test waits for the stage before.
    """
    names = [spec.name for spec in module.STAGE_SPECS]
    module.WHOLE_INPUTS = {name: tuple(names[:place]) for place, name in enumerate(names)}
    module.STREAMED_INPUTS = dict.fromkeys(names, ())


WRAPPED: dict[str, Callable[[Any], None]] = {
    "meta_reward_core.recipes.dataflow": _one_after_the_other,
    "meta_reward_core.iteration": _working,
    "meta_reward_core.storage.shards": _writing,
    "workers.pipeline.shard_claims": _told,
    "webapp.audit.annotation_queue": _before("submit_answer", "answer"),
    "workers.management.commands.export_pairs": _before("_read_pairs", "export"),
}


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, wrap: Callable[[Any], None]) -> None:
        self._loader = loader
        self._wrap = wrap

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._wrap(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in WRAPPED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, WRAPPED[name])
        return spec


if "FAULTS_FOLDER" in os.environ:
    sys.meta_path.insert(0, _Finder())
