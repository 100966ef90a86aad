"""Keep the weights of every saved epoch, and publish those with the best development score.

A candidate is written in the form of a checkpoint while the training runs, before the training
state is marked as complete, so that a resumed training has the candidates of all its epochs. The
candidates are scored after the training has ended, when its devices are free for an engine.
"""

import gc
import json
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from meta_reward_core.errors import TrainingError
from meta_reward_core.models.validation import ADAPTER_FOLDER
from meta_reward_core.system.untrusted_input import parse_json
from meta_reward_core.training.export_weights import publish_weights
from meta_reward_core.training.result import OnLog, TrainingOutcome
from meta_reward_core.training.resume import WEIGHT_FILES, publish_model

CANDIDATES_FOLDER: Final = "candidates"
SCORE_METRIC: Final = "development_score"

CheckpointScorer = Callable[[Path, int], Mapping[str, float]]
"""Measures the model in a folder, given its number of steps; returns a score by task."""


class CandidateExport(TrainerCallback):
    """Writes the weights of each state in the form of a checkpoint; all processes take part."""

    def __init__(self, trainer: Trainer, *, start: Path, scratch: Path, keep_adapter: bool) -> None:
        self._trainer = trainer
        self._start = start
        self._scratch = scratch
        self._keep_adapter = keep_adapter

    def on_save(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Write a candidate after the trainer has written its state."""
        publish_weights(
            self._trainer,
            start=self._start,
            checkpoint=_get_folder(self._scratch, state.global_step),
            scratch=self._scratch,
            keep_adapter=self._keep_adapter,
        )


def remove_later_candidates(scratch: Path, *, step: int) -> None:
    """Remove the candidates after a step, because a resumed training repeats the later steps."""
    for number, folder in _iter_candidates(scratch):
        if number > step:
            shutil.rmtree(folder)
            _get_score_file(folder).unlink(missing_ok=True)


def publish_best_candidate(
    outcome: TrainingOutcome,
    *,
    start: Path,
    checkpoint: Path,
    scratch: Path,
    score_checkpoint: CheckpointScorer,
    on_log: OnLog | None,
) -> TrainingOutcome:
    """Score all candidates, publish the one with the highest mean, and delete the scratch folder.

    Scores are stored in the scratch folder, so that a resumed selection measures no candidate
    twice. Of candidates with the same score, the earliest is published.

    Returns:
        The outcome, with the published step, and with the scores of all candidates in its log.

    Raises:
        TrainingError: there is no candidate.
    """
    _free_memory()
    rows = []
    for step, folder in _iter_candidates(scratch):
        scores = _score(folder, step, score_checkpoint)
        epoch = step * outcome.kept_epoch / outcome.kept_step  # scaled from the last step
        row = {"step": step, "epoch": epoch, SCORE_METRIC: statistics.fmean(scores.values())}
        row |= {f"{SCORE_METRIC}/{task}": score for task, score in sorted(scores.items())}
        rows.append(row)
        if on_log is not None:
            on_log(row)
    if not rows:
        raise TrainingError(
            "The training saved no weights to select from. Start the training again."
        )
    best = max(rows, key=lambda row: row[SCORE_METRIC])
    folder = _get_folder(scratch, int(best["step"]))
    published = publish_model(
        lambda target: _copy_weights(folder, target),
        start=start,
        checkpoint=checkpoint,
        job_name=f"{scratch.name}-selected",
        write_more=lambda target: _copy_adapter(folder, target),
    )
    shutil.rmtree(scratch)
    return replace(
        outcome,
        log=[*outcome.log, *rows],
        kept_step=int(best["step"]),
        kept_epoch=best["epoch"],
        published=published,
    )


def _free_memory() -> None:
    """Free the memory of a training in this process before an engine is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _score(folder: Path, step: int, score_checkpoint: CheckpointScorer) -> Mapping[str, float]:
    file = _get_score_file(folder)
    if not file.is_file():
        scores = dict(score_checkpoint(folder, step))
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(scores), encoding="utf-8")
        partial.rename(file)
    known: dict[str, float] = parse_json(file.read_bytes())
    return known


def _iter_candidates(scratch: Path) -> Iterator[tuple[int, Path]]:
    """Yield the step and the folder of each complete candidate, in order."""
    folders = scratch.joinpath(CANDIDATES_FOLDER).glob("step-*")
    found = {int(folder.name.partition("-")[2]): folder for folder in folders if folder.is_dir()}
    yield from sorted(found.items())


def _get_folder(scratch: Path, step: int) -> Path:
    return scratch / CANDIDATES_FOLDER / f"step-{step}"


def _get_score_file(folder: Path) -> Path:
    return folder.with_name(f"score-of-{folder.name}.json")


def _copy_weights(candidate: Path, target: Path) -> None:
    for pattern in WEIGHT_FILES:
        for file in candidate.glob(pattern):
            shutil.copyfile(file, target / file.name)


def _copy_adapter(candidate: Path, target: Path) -> None:
    if (candidate / ADAPTER_FOLDER).is_dir():
        shutil.copytree(candidate / ADAPTER_FOLDER, target / ADAPTER_FOLDER)
