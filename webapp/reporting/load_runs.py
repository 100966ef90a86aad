"""From rows of experiments to what a report is made of."""

from collections.abc import Sequence

from meta_reward_core.reporting.run_loader import ExperimentRun, read_run
from meta_reward_core.reporting.summary import Summary
from meta_reward_core.storage.artifact_store import ArtifactStore
from webapp.experiments.models import Experiment, RunStatus


def load_run(
    row: Experiment, *, seed_model: str | None = None, look: bool = False
) -> ExperimentRun:
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
        summaries=get_summaries(row),
        seed_model=seed_model,
        look_at_answers=look,
    )


def get_summaries(row: Experiment) -> dict[int, Summary]:
    """Summaries of the finished iterations, with the seconds that only rows know."""
    finished = row.iterations.filter(status=RunStatus.FINISHED)
    return {one.number: one.metrics for one in finished if one.metrics}


def format_report_title(names: Sequence[str]) -> str:
    """What a report of these experiments is called."""
    return f"Report: {', '.join(names)}"
