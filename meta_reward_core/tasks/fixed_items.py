"""The evaluation items of an experiment, read once at creation and used for every model.

They are stored with the experiment as `evaluation-data/<task>.json`, so that M0, M1, ... answer the
same prompts on every machine, even if the source file changes. Data that is absent when the
experiment starts is recorded as absent: its task is then not evaluated, which is neither a pass nor
a failure.

The items of the tasks that select checkpoints (development items) are stored with them. They are
required, and must not have a prompt in common with the evaluation.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from meta_reward_core.data.prompt_filters import NearDuplicateIndex
from meta_reward_core.errors import ArtifactError, TaskError
from meta_reward_core.recipes.schema import EvaluationTaskRecipe, Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json
from meta_reward_core.storage.layout import ExperimentLayout
from meta_reward_core.system.untrusted_input import parse_json
from meta_reward_core.tasks.protocol import Benchmark, BenchmarkItem, select_items
from meta_reward_core.tasks.registry import get_task

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FixedItems:
    """Items of one task of `evaluation.tasks` or `development.tasks`.

    Attributes:
        version: version of the task.
        source: name of the file or folder from which the items were read.
        source_sha256: SHA-256 of the source; None if the source was absent.
        items: the items, in the order of the data; empty if there is an `obstacle`.
        obstacle: why the task is not evaluated; None if the task is evaluated.
        left_out_of_pool: prompts of the experiment's pool that were left out because they equal or
            nearly equal a prompt of these items.
    """

    task: str
    version: int
    source: str
    source_sha256: str | None
    items: tuple[BenchmarkItem, ...]
    obstacle: str | None = None
    left_out_of_pool: int = 0

    @property
    def prompts(self) -> list[str]:
        """Distinct prompt texts."""
        return list(dict.fromkeys(item.prompt for item in self.items))

    def to_json(self) -> bytes:
        """Encode the items; the same items give the same bytes."""
        return encode_canonical_json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> "FixedItems":
        """Parse the items.

        Raises:
            ValueError, KeyError, TypeError: the bytes are not evaluation items.
        """
        values = parse_json(data)
        if not isinstance(values, dict):
            raise TypeError("is not an object")
        items = tuple(BenchmarkItem(**item) for item in values.pop("items"))
        return cls(items=items, **values)


def get_benchmark(name: str) -> Benchmark:
    """Return the benchmark of a task.

    Raises:
        TaskError: the task is not installed here, or has no benchmark.
    """
    benchmark = get_task(name).benchmark
    if benchmark is None:
        raise TaskError(
            f"the task {name!r} has no benchmark: evaluation.tasks and development.tasks accept "
            f"tasks with one, such as ifeval and labelled-pairs"
        )
    return benchmark


def read_fixed_items(recipe: Recipe) -> list[FixedItems]:
    """Read the items of every task of a recipe's `evaluation.tasks`.

    Raises:
        TaskError: a task is not installed here, or has no benchmark.
        EvaluationFileError: data exists but is malformed.
    """
    return [_read_task_items(wanted) for wanted in recipe.evaluation.tasks]


def read_development_items(recipe: Recipe, evaluated: Sequence[FixedItems]) -> list[FixedItems]:
    """Read the items of every task of a recipe's `development.tasks`.

    Args:
        evaluated: the evaluation items, which must not have a prompt in common with the development
            items.

    Raises:
        TaskError: a task is not installed here, or has no benchmark; its data or a package is
            missing; or a prompt equals or nearly equals one of the evaluation.
        EvaluationFileError: data is malformed.
    """
    found = [_read_task_items(wanted) for wanted in recipe.development.tasks]
    for one in found:
        if one.obstacle is not None:
            raise TaskError(f"development.tasks: {one.task} cannot be used: {one.obstacle}")
        near = NearDuplicateIndex(one.prompts)
        for other in evaluated:
            shared = sum(near.find(text) is not None for text in other.prompts)
            if shared:
                raise TaskError(
                    f"development.tasks: {shared} prompt(s) of {other.task} in evaluation.tasks "
                    f"equal or nearly equal a prompt of {one.task}. Use other data: a model that "
                    "was selected by a prompt cannot be evaluated on it."
                )
    return found


def _read_task_items(wanted: EvaluationTaskRecipe) -> FixedItems:
    benchmark = get_benchmark(wanted.name)
    path = Path(wanted.data)
    absent = FixedItems(wanted.name, get_task(wanted.name).version, path.name, None, ())
    if not path.exists():
        return replace(
            absent,
            obstacle=f"its data file {path.name} was missing when the experiment was created",
        )
    obstacle = benchmark.find_obstacle()
    if obstacle is not None:
        return replace(absent, obstacle=f"when the experiment was created, {obstacle}")
    items = select_items(benchmark.read_items(path), wanted.prompts)
    return replace(absent, source_sha256=_hash_source(path), items=tuple(items))


def _hash_source(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and hashes of a folder's files."""
    if path.is_dir():
        lines = [f"{one.name} {_hash_source(one)}" for one in sorted(path.iterdir())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def get_items_path(task: str) -> str:
    """Return the path of a task's items, relative to the experiment's folder."""
    return ExperimentLayout("").get_evaluation_items(task)


def get_development_path(task: str) -> str:
    """Return the path of a development task's items, relative to the experiment's folder."""
    return ExperimentLayout("").get_development_items(task)


def load_fixed_items(store: ArtifactStore, experiment: ExperimentLayout, task: str) -> FixedItems:
    """Load the evaluation items of an experiment.

    Raises:
        ArtifactError: the items no longer exist, or cannot be read.
    """
    return _load_items(store, experiment.get_evaluation_items(task))


def load_development_items(
    store: ArtifactStore, experiment: ExperimentLayout, task: str
) -> FixedItems:
    """Load the items by which an experiment selects checkpoints.

    Raises:
        ArtifactError: the items no longer exist, or cannot be read.
    """
    return _load_items(store, experiment.get_development_items(task))


def _load_items(store: ArtifactStore, name: str) -> FixedItems:
    if not store.exists(name):
        raise ArtifactError(
            f"{store.get_path(name)} is missing: restore it, or create another experiment"
        )
    try:
        return FixedItems.from_json(store.read(name))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{store.get_path(name)} is damaged ({error}): restore it") from error
