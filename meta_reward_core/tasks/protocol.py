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
        """Return `count` distinct prompts, 1 <= count <= size, the same on every call."""


@runtime_checkable
class BaseModelSource(Protocol):
    """Base models (M0) that a task trains or ships."""

    def provides(self, name: str | None) -> bool:
        """Whether a recipe's `model` is one of these models; None is the task's default."""

    def find(self, name: str | None, models: Path) -> Path | None:
        """Find the folder of a base model without writing, training or network.

        Args:
            name: name of a model that this source provides.
            models: folder in which created models are stored.

        Returns:
            The folder; None if the model must be created first.

        Raises:
            TrainingError: the model was created earlier, but is not usable.
        """

    def ensure(
        self, name: str | None, models: Path, *, scratch: Path, say: Callable[[str], None]
    ) -> Path:
        """Return the folder of a base model, creating it if necessary.

        Args:
            name: name of a model that this source provides.
            models: folder in which created models are stored.
            scratch: private folder for temporary files.
            say: called with progress messages.

        Raises:
            TrainingError: the model could not be created.
        """


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """A model to evaluate.

    Attributes:
        engine: engine of the model; closed by the caller.
        model: name of the model, such as `M1`.
        recipe: the experiment's recipe, with the sampling parameters of the three roles and the
            sizes of the evaluation.
        templates: prompt templates of judge and meta-judge.
        seed: seed of the experiment.
    """

    engine: Engine
    model: str
    recipe: Recipe
    templates: PromptTemplates
    seed: int


@runtime_checkable
class Evaluator(Protocol):
    """Measures models against its own ground truth."""

    def measure(self, request: EvaluationRequest) -> Iterable["Measurement | ItemResult"]:
        """Measure a model; return rows of the table `evaluation`.

        The rows include results of single items, which are the same for every model; the intervals
        of changes between models are computed from them. Their metric has the form
        `<subject>.<metric>`, after the measurement to which they belong.

        The same request gives the same rows.

        Raises:
            EngineError: the engine failed as a whole.
        """


@runtime_checkable
class ResponseGrader(Protocol):
    """An evaluator whose ground truth grades any response to a prompt, without a model."""

    def grade_response(self, prompt: str, response: str) -> float:
        """Return the true quality of a response; higher is better."""


@dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """An item of a benchmark's data.

    Attributes:
        item_id: id of the item, unique in the data.
        prompt: the prompt that the model answers, or whose responses it judges.
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
        item_id: id of the item.
        prompt_id: id of the item's prompt; intervals are clustered by prompt.
        metric: name of the metric, which is the mean of these values over all items.
        part: number of the check if an item has several checks; otherwise 0.
        value: the result, in [0, 1] for a benchmark and on the scale of the measurement for an
            evaluator; None if nothing could be read.
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
        engine: engine of the model; closed by the caller.
        model: name of the model, such as `M1`.
        actor: sampling parameters for responses.
        judge: sampling parameters for judgments.
        meta_judge: sampling parameters for comparisons.
        judgments: number of judgments of each response.
        score_readout: how a score is read or forced.
        templates: prompts of the judge and the meta-judge.
        max_score: top of the rubric's scale.
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
        """Return why the benchmark cannot run, such as a missing package; None if it can run."""

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
        """Version of the prompts and the ground truth; results of different versions differ."""

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
        """Whether the task's default model is requested."""
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
    """A task composed of its parts; see `Task`.

    Attributes:
        judgment_format: how to read a judgment, for people; empty if its text explains itself.
    """

    name: str
    title: str
    version: int = 1
    prompts: PromptSource | None = None
    base_model: BaseModelSource | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    evaluators: Sequence[Evaluator] = ()
    benchmark: Benchmark | None = None
    judgment_format: str = ""
