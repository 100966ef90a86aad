"""From rows of experiments to what a report is made of."""

from collections.abc import Sequence

from meta_reward_core.artifacts import ArtifactStore
from meta_reward_core.reporting.runs import Run, read_run
from meta_reward_core.summary import Summary
from webapp.experiments.models import Experiment, RunStatus


def read_row(row: Experiment, *, seed_model: str | None = None, look: bool = False) -> Run:
    """Read an experiment's files with the summaries that its rows keep.

    Args:
        seed_model: which M0, in words; by default its hash.
        look: read all answers and look for such as play the judge.

    Raises:
        ArtifactError: its files are gone or damaged.
    """
    return read_run(
        ArtifactStore(row.artifact_root),
        row.name,
        summaries=summaries_of(row),
        seed_model=seed_model,
        look_at_answers=look,
    )


def summaries_of(row: Experiment) -> dict[int, Summary]:
    """Summaries of the finished iterations, with the seconds that only rows know."""
    finished = row.iterations.filter(status=RunStatus.FINISHED)
    return {one.number: one.metrics for one in finished if one.metrics}


def report_title(names: Sequence[str]) -> str:
    """What a report of these experiments is called."""
    return f"Report: {', '.join(names)}"
