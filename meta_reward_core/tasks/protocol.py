"""The task protocol: what a task supplies to an experiment, and how it evaluates models.

A task may supply prompts, a base model and prompt templates, which are used when an experiment is
created, and evaluators, which only the evaluation stage calls, after training. Each part is
optional. A task may instead, or also, be a benchmark: then it measures the models of any experiment
on data that a user supplies. `registry` describes how tasks are found.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from meta_reward_core.context import PromptTemplates
from meta_reward_core.engines.base import Engine, Progress, SamplingParams
from meta_reward_core.evaluation.scorecard import Measurement, Scorecard
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.records import Readout


@runtime_checkable
class PromptSource(Protocol):
    """Source of prompts for the pool of an experiment."""

    @property
    def size(self) -> int:
        """Number of distinct prompts."""

    def sample(self, count: int) -> Sequence[str]:
        """Return `count` distinct prompts, 1 <= count <= size, always the same ones."""


@runtime_checkable
class BaseModelSource(Protocol):
    """Base models (M0) that a task trains or ships."""

    def provides(self, name: str | None) -> bool:
        """Whether a recipe's `model` is one of them; None is the task's default."""

    def find(self, name: str | None, models: Path) -> Path | None:
        """Find the folder of a base model without writing, training or network.

        Args:
            name: a name that it provides.
            models: folder in which models that were made are kept.

        Returns:
            None if the model has yet to be made.

        Raises:
            TrainingError: it was made before and cannot serve.
        """

    def ensure(
        self, name: str | None, models: Path, *, scratch: Path, say: Callable[[str], None]
    ) -> Path:
        """Return the folder of a base model, creating it if necessary.

        Args:
            name: a name that it provides.
            models: folder in which models that were made are kept.
            scratch: private folder for the work.
            say: called with progress messages.

        Raises:
            TrainingError: it could not be made.
        """


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """A model to evaluate.

    Attributes:
        engine: of the model; closed by the caller.
        model: its name, such as `M1`.
        recipe: of the experiment: sampling of the three roles, sizes of the evaluation.
        templates: in which judge and meta-judge are asked.
        seed: of the experiment.
    """

    engine: Engine
    model: str
    recipe: Recipe
    templates: PromptTemplates
    seed: int


@runtime_checkable
class Evaluator(Protocol):
    """Measures models by its own ground truth."""

    def measure(self, request: EvaluationRequest) -> Iterable["Measurement | ItemResult"]:
        """Measure a model; return rows of the table `evaluation`.

        Results of single items, which are the same for every model, give the intervals of changes
        between models. Their metric is `<subject>.<metric>` of a measurement.

        The same request gives the same rows.

        Raises:
            EngineError: the engine failed as a whole.
        """


@dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """An item of a benchmark's data.

    Attributes:
        item_id: unique in the data.
        prompt: the instruction that the model answers, or about which it judges.
        values: everything else that the benchmark needs, as JSON.
    """

    item_id: str
    prompt: str
    values: Mapping[str, Any] = field(default_factory=dict)


def select_items(items: Sequence[BenchmarkItem], prompts: int | None) -> list[BenchmarkItem]:
    """Select the items of this many prompts by a hash of their texts; all if None."""
    texts = sorted(
        {item.prompt for item in items}, key=lambda text: hashlib.sha256(text.encode()).digest()
    )
    kept = set(texts[:prompts])
    return [item for item in items if item.prompt in kept]


@dataclass(frozen=True, slots=True)
class ItemResult:
    """A measurement of a model on one item.

    Attributes:
        item_id: of the item.
        prompt_id: of its prompt; intervals are clustered by it.
        metric: name of the figure whose mean over all results it is a part of.
        part: number of the check, where an item has several; else 0.
        value: in [0, 1] for a benchmark, on the scale of the measurement for an evaluator; None
            where nothing could be read.
    """

    item_id: str
    prompt_id: str
    metric: str
    part: int
    value: float | None


@dataclass(frozen=True, slots=True)
class BenchmarkRequest:
    """A model to evaluate on the items of a benchmark.

    Attributes:
        engine: of the model; closed by the caller.
        model: its name, such as `M1`.
        actor: how responses are sampled.
        judge: how judgments are sampled.
        meta_judge: how comparisons are sampled.
        judgments: number of judgments of each response.
        score_readout: how a score is read or forced.
        templates: prompts of the judge and the meta-judge.
        max_score: end of the rubric's scale.
        system_prompt: a system message before every prompt that is answered.
        seed: random seed.
        progress: see `Engine.sample`.
    """

    engine: Engine
    model: str
    actor: SamplingParams
    judge: SamplingParams
    meta_judge: SamplingParams
    judgments: int
    score_readout: Readout
    templates: PromptTemplates
    max_score: float
    system_prompt: str | None
    seed: int
    progress: Progress | None = None


@runtime_checkable
class Benchmark(Protocol):
    """Measures models on user-provided data with human labels or programmatic checks."""

    def find_obstacle(self) -> str | None:
        """Return what prevents it from running, such as a missing package, or None."""

    def read_items(self, data: Path) -> Sequence[BenchmarkItem]:
        """Read the items of a file or folder.

        Raises:
            EvaluationFileError: the data is missing, malformed or empty.
        """

    def evaluate(
        self, request: BenchmarkRequest, items: Sequence[BenchmarkItem]
    ) -> Sequence[ItemResult]:
        """Measure a model; the same request gives the same results.

        Raises:
            EngineError: the engine failed as a whole.
        """

    def score(self, results: Sequence[ItemResult], *, model: str) -> Scorecard:
        """Summarize results as metrics with intervals."""


@runtime_checkable
class Task(Protocol):
    """A task."""

    @property
    def name(self) -> str:
        """Name in recipes, which is the name of its entry point."""

    @property
    def title(self) -> str:
        """Display name: a noun phrase."""

    @property
    def version(self) -> int:
        """Version of its prompts and its ground truth: results of other versions differ."""

    @property
    def prompts(self) -> PromptSource | None:
        """Prompts for experiments; None if users must provide them."""

    @property
    def base_model(self) -> BaseModelSource | None:
        """Base models for experiments; None if users must name one."""

    @property
    def templates(self) -> Mapping[str, str]:
        """Prompt templates for recipes: name -> text.

        A name ends in its role (`judge`, `meta_judge` or `rubric`) and differs from built-in names.
        """

    @property
    def evaluators(self) -> Sequence[Evaluator]:
        """Evaluators with a ground truth, in the order of their rows."""

    @property
    def benchmark(self) -> Benchmark | None:
        """Benchmark for `evaluation.tasks` of any recipe; None if it needs no user data."""


@dataclass(frozen=True, slots=True)
class StaticPrompts:
    """A prompt source with fixed texts."""

    texts: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of texts."""
        return len(self.texts)

    def sample(self, count: int) -> Sequence[str]:
        """Return the first `count` texts."""
        return self.texts[:count]


@dataclass(frozen=True, slots=True)
class StaticModel:
    """A base model shipped as a folder, available as the task's default only."""

    folder: Path

    def provides(self, name: str | None) -> bool:
        """Whether the default is requested."""
        return name is None

    def find(self, name: str | None, models: Path) -> Path | None:  # noqa: ARG002
        """Return the folder."""
        return self.folder

    def ensure(
        self,
        name: str | None,  # noqa: ARG002
        models: Path,  # noqa: ARG002
        *,
        scratch: Path,  # noqa: ARG002
        say: Callable[[str], None],  # noqa: ARG002
    ) -> Path:
        """Return the folder."""
        return self.folder


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """A task composed of its parts; see `Task`."""

    name: str
    title: str
    version: int = 1
    prompts: PromptSource | None = None
    base_model: BaseModelSource | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    evaluators: Sequence[Evaluator] = ()
    benchmark: Benchmark | None = None
