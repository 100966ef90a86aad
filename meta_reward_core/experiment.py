"""An experiment on disk: its recipe, templates, seed, prompts and lineage M0 -> M1 -> ...

The description is written once, at creation; from then on it defines the experiment's settings,
independent of the original recipe files. Each later change of values is stored next to it, once
(`recipes.settings_history`).
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from meta_reward_core.context import BeganWith, IterationContext, ModelRef, PromptTemplates
from meta_reward_core.data.prompt_files import PromptFile
from meta_reward_core.errors import ArtifactError, InputError, TemplateError
from meta_reward_core.models.fingerprint import ModelFiles
from meta_reward_core.models.template_files import choose_chat_date
from meta_reward_core.models.validation import iter_visible_files
from meta_reward_core.recipes.canonical import canonicalize_recipe, hash_recipe_values
from meta_reward_core.recipes.prompt_templates import PromptTemplate, load_template
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.recipes.settings_history import (
    SettingsHistory,
    list_settings_changes,
    read_settings,
)
from meta_reward_core.storage.artifact_store import ArtifactStore, hash_json
from meta_reward_core.storage.checkpoint_store import Checkpoint
from meta_reward_core.storage.experiment_files import Description, ExperimentFiles, get_uuid
from meta_reward_core.storage.schemas import build_table
from meta_reward_core.storage.shards import IterationFiles, StageOutput, compute_shard_key

_JUDGE_PLACEHOLDERS = frozenset({"instruction", "response"})
_META_JUDGE_PLACEHOLDERS = frozenset({"instruction", "response", "judgment_a", "judgment_b"})


def load_templates(recipe: Recipe, of_task: Mapping[str, str] | None = None) -> PromptTemplates:
    """Read the prompt templates that a recipe names.

    Args:
        of_task: texts of the templates of the recipe's task, by name; they take precedence over
            files.

    Raises:
        TemplateError: a file is missing, or lacks a required placeholder.
    """
    more = of_task or {}
    return PromptTemplates(
        judge=_load_template(
            "judge.template",
            recipe.judge.template,
            required=_JUDGE_PLACEHOLDERS,
            allowed=_JUDGE_PLACEHOLDERS | {"rubric"},
            more=more,
        ),
        meta_judge=_load_template(
            "meta_judge.template",
            recipe.meta_judge.template,
            required=_META_JUDGE_PLACEHOLDERS,
            more=more,
        ),
        rubric=_load_template(
            "judge.rubric", recipe.judge.rubric, allowed=frozenset(), more=more
        ).text,
    )


def _load_template(
    key: str, name: str, *, more: Mapping[str, str], **placeholders: frozenset[str]
) -> PromptTemplate:
    """Read a template, or raise an error that contains the recipe key."""
    try:
        return load_template(name, more=more, **placeholders)
    except TemplateError as error:
        raise TemplateError(f"{key}: {error}") from error


@dataclass(frozen=True, slots=True)
class Experiment:
    """An existing experiment on disk.

    Attributes:
        uuid: unique id; unlike the name, it is never reused after a deletion.
        recipe: the recipe after all changes, for future iterations.
        recipe_sha256: hash of the recipe stored at creation. It never changes, even if `recipe`
            now has values that did not exist then.
        settings: the values that apply to each iteration.
        seed_model: M0, with the hash of its folder at creation.
        seed_folder: path of M0 on the machine that created the experiment.
        chat_date: the date that chat templates use as the current date, YYYY-MM-DD; None if the
            template of M0 does not read the date, and in experiments created before it was
            recorded.
        reward_model: reward model that scores responses in place of the judge, or None.
    """

    name: str
    uuid: UUID
    recipe: Recipe
    recipe_sha256: str
    settings: SettingsHistory
    templates: PromptTemplates
    seed: int
    seed_model: ModelRef
    seed_folder: str
    store: ArtifactStore
    chat_date: str | None = None
    reward_model: ModelRef | None = None

    def get_files(self, number: int) -> IterationFiles:
        """Open the files of an iteration; number 0 contains the prompt pool."""
        return self.paths.get_iteration(number)

    @property
    def paths(self) -> ExperimentFiles:
        """All files of the experiment."""
        return ExperimentFiles(self.store, self.name, uuid=self.uuid)

    def get_model(self, number: int) -> ModelRef:
        """Find M_number.

        Raises:
            ArtifactError: the model does not exist yet.
        """
        if number == 0:
            return self.seed_model
        files = self.get_files(number)
        sha256 = files.get_checkpoint_sha256()
        if sha256 is None:
            raise ArtifactError(
                f"M{number} of experiment {self.name!r} does not exist yet: run iteration "
                f"{number} first"
            )
        return ModelRef(f"M{number}", files.checkpoint, sha256, self._get_base_model(number))

    def _get_base_model(self, number: int) -> ModelRef | None:
        """Return the base model of the adapter of M_number, if the adapter was kept."""
        return (
            self.get_model(number - 1) if self.get_recipe(number).training.keeps_adapter else None
        )

    def get_recipe(self, number: int) -> Recipe:
        """Return the values that apply to an iteration."""
        return self.settings.get_recipe(number) if self.settings.changes else self.recipe

    def build_context(self, number: int) -> IterationContext:
        """Collect the inputs of an iteration's stages."""
        began = replace(self.settings, changes=())
        return IterationContext(
            number=number,
            recipe=self.get_recipe(number),
            recipe_sha256=self.settings.get_recipe_sha256(number),
            templates=self.templates,
            seed=self.seed,
            model=self.get_model(number - 1),
            files=self.get_files(number),
            pool=self.get_files(0),
            earlier=tuple(self.get_files(earlier) for earlier in range(1, number)),
            began=BeganWith(began.get_recipe(), self.recipe_sha256, self.templates),
            chat_date=self.chat_date,
            reward_model=self.reward_model,
        )

    def count_finished_iterations(self) -> int:
        """Count the finished iterations before the first unfinished one."""
        return self.paths.count_finished_iterations()

    def lock(self) -> AbstractContextManager[None]:
        """Lock the experiment; the lock is released when its process dies, or soon after.

        Raises:
            ExperimentBusyError: another process holds the lock.
        """
        return self.paths.lock()


def create_experiment(
    store: ArtifactStore,
    name: str,
    *,
    recipe: Recipe,
    seed: int,
    seed_model: ModelRef,
    prompts: PromptFile,
    templates: PromptTemplates | None = None,
    documents: Mapping[str, bytes] | None = None,
    uuid: UUID | None = None,
    reward_model: ModelRef | None = None,
) -> Experiment:
    """Write a new experiment: first its prompts, last its description.

    Args:
        documents: additional files that never change, by path below the experiment's folder.
        templates: prompt templates; None for the templates that the recipe names.
        uuid: UUID that no other experiment has; None to generate one.
        reward_model: the reward model in `judge.reward_model`; None if the recipe has none.

    Raises:
        InputError: an experiment of this name exists.
        StorageFullError: the disk or the store is full.
    """
    if templates is None:
        templates = load_templates(recipe)
    files = ExperimentFiles(store, name)
    experiment = Experiment(
        name=name,
        uuid=uuid or uuid4(),
        recipe=recipe,
        recipe_sha256=recipe.sha256,
        settings=SettingsHistory(files.layout.description, canonicalize_recipe(recipe)),
        templates=templates,
        seed=seed,
        seed_model=seed_model,
        seed_folder=str(seed_model.source),
        store=store,
        chat_date=choose_chat_date(seed_model.folder),
        reward_model=reward_model,
    )
    store.require_first_writer_wins(files.layout.folder)
    with files.lock():
        if files.exists():
            raise InputError(f"experiment {name!r} already exists: choose another name")
        files.delete_leftovers()  # from an interrupted deletion of an experiment with this name
        with _remove_on_failure(files, documents or {}):
            _write_pool(files.pool, prompts)
            for path, data in (documents or {}).items():
                name_in_store = files.layout.get_path(path)
                # from an attempt that ended before it wrote the description
                store.delete(name_in_store)
                store.put_if_absent(name_in_store, data)
            # so that hosts without a shared folder find M0 next to M1, M2, ...
            if not store.is_local:
                files.pool.checkpoint.upload(seed_model.folder)
                if reward_model is not None:
                    files.reward_model.upload(reward_model.folder)
            files.write_description(_describe(experiment, len(prompts.prompts)))
    return experiment


@contextlib.contextmanager
def _remove_on_failure(files: ExperimentFiles, documents: Mapping[str, bytes]) -> Iterator[None]:
    """Remove the files of an experiment whose description could not be written."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ArtifactError, OSError):  # report the first error, not this one
            if not files.exists():
                for name in (files.pool.folder, *map(files.layout.get_path, documents)):
                    files.store.delete(name)
        raise


def _describe(experiment: Experiment, prompts: int) -> Description:
    templates = experiment.templates
    return {
        "name": experiment.name,
        "uuid": str(experiment.uuid),
        "recipe": canonicalize_recipe(experiment.recipe),
        "templates": {
            "judge": templates.judge.text,
            "meta_judge": templates.meta_judge.text,
            "rubric": templates.rubric,
        },
        "seed": experiment.seed,
        "seed_model": {
            "folder": experiment.seed_folder,
            "sha256": experiment.seed_model.sha256,
            **_describe_model_files(experiment.seed_model.files),
        },
        **_describe_reward_model(experiment.reward_model),
        "prompts": prompts,
        **({} if experiment.chat_date is None else {"chat_date": experiment.chat_date}),
    }


def _describe_reward_model(model: ModelRef | None) -> Description:
    if model is None:
        return {}
    known = {"folder": str(model.source), "sha256": model.sha256}
    return {"reward_model": known | _describe_model_files(model.files)}


def _describe_model_files(files: ModelFiles | None) -> Description:
    """Record hashes that later show which files of M0 changed and whether generation reads them."""
    return {} if files is None else {"drawing_sha256": files.drawing, "files": dict(files.hashes)}


def _write_pool(files: IterationFiles, prompts: PromptFile) -> None:
    rows = [
        {
            "prompt_id": prompt.prompt_id,
            "text": prompt.text,
            "extra": _encode_extra(prompts.extra.get(prompt.prompt_id)),
        }
        for prompt in prompts.prompts
    ]
    files.discard("pool", 0, ["prompts"])
    counts = {"prompts": len(rows), "held_out": prompts.held_out}
    if prompts.contaminated is not None:
        counts["contaminated"] = prompts.contaminated
    work = StageOutput({("prompts", 0): build_table("prompts", rows)}, counts)
    files.publish("pool", 0, key=compute_shard_key(stage="pool"), work=work, packages={})


def _encode_extra(values: Mapping[str, Any] | None) -> str | None:
    return json.dumps(values, ensure_ascii=False, default=str) if values else None


def open_experiment(store: ArtifactStore, name: str) -> Experiment | None:
    """Open an existing experiment, or return None.

    Raises:
        ArtifactError: its description cannot be read, or its seed model changed or is missing.
    """
    files = ExperimentFiles(store, name)
    found = files.read_description()
    if found is None:
        return None
    settings = read_settings(files, found)
    return Experiment(
        name=name,
        uuid=get_uuid(found, name=name),
        recipe=settings.get_recipe(),
        recipe_sha256=hash_recipe_values(found["recipe"]),
        settings=settings,
        templates=parse_templates(found["templates"]),
        seed=found["seed"],
        seed_model=_open_model(files, found["seed_model"], "M0", files.pool.checkpoint),
        seed_folder=found["seed_model"]["folder"],
        store=store,
        chat_date=found.get("chat_date"),
        reward_model=_open_model(files, found["reward_model"], "reward model", files.reward_model)
        if "reward_model" in found
        else None,
    )


def compute_experiment_stamp(store: ArtifactStore, name: str) -> str:
    """Return a short text that identifies the state of an experiment, without hashing its model.

    If the text differs, reopen the experiment: settings were changed, or files of M0 were
    rewritten.

    Raises:
        ArtifactError: the files are missing or cannot be read.
    """
    files = ExperimentFiles(store, name)
    description = files.require_description()
    models = [description[key] for key in ("seed_model", "reward_model") if key in description]
    written = (
        [
            [str(file), file.stat().st_size, file.stat().st_mtime_ns]
            for model in models
            for file in _list_files(Path(model["folder"]))
        ]
        if store.is_local
        else []
    )
    return hash_json([description, list_settings_changes(files), written])


def _list_files(folder: Path) -> list[Path]:
    """List the files of a folder; empty if it is missing, which opening it will report."""
    return list(iter_visible_files(folder)) if folder.is_dir() else []


def parse_templates(words: Mapping[str, str]) -> PromptTemplates:
    """Parse the templates stored in an experiment.

    Raises:
        TemplateError: a template cannot be used.
    """
    return PromptTemplates(
        judge=PromptTemplate("judge", words["judge"]),
        meta_judge=PromptTemplate("meta_judge", words["meta_judge"]),
        rubric=words["rubric"],
    )


def _open_model(
    files: ExperimentFiles, known: Description, name: str, copy: Checkpoint
) -> ModelRef:
    """Find M0 or the reward model, and check that it is the same as at the experiment's creation.

    Unused files may differ. The generation config may also differ, as long as the same ids end a
    reply: completions remain valid, and later training uses the current files.

    Raises:
        ArtifactError: the model is missing, or a file on which completions depend has changed.
    """
    sha256: str = known["sha256"]
    if not files.store.is_local:  # its hash is checked when it is copied from the store
        return ModelRef(name, copy, sha256, files=_parse_model_files(known))
    folder, title = Path(known["folder"]), "seed model" if name == "M0" else name
    if not folder.is_dir():
        raise ArtifactError(
            f"the {title} of experiment {files.name!r} is missing: {folder}. "
            "Restore it, or create another experiment"
        )
    now = ModelFiles.read(folder)
    if "files" not in known:  # an earlier version that only stored one hash of all files
        is_same, differing = now.sha256 == sha256, ""
    else:
        is_same = now.drawing == known["drawing_sha256"]
        differing = f" ({', '.join(now.list_differences(known['files']))})"
    if not is_same:
        raise ArtifactError(
            f"the {title} of experiment {files.name!r} has changed since the experiment "
            f"was created: {folder}{differing}. Restore it, or create another experiment"
        )
    return ModelRef(name, folder, sha256, files=now if "files" in known else None)


def _parse_model_files(known: Description) -> ModelFiles | None:
    if "files" not in known:
        return None
    return replace(ModelFiles.build(known["files"], end_ids=None), drawing=known["drawing_sha256"])


def check_same_beginning(
    experiment: Experiment,
    *,
    differences: Iterable[str],
    seed: int | None,
    prompts: PromptFile | None,
) -> None:
    """Refuse to resume an experiment if the request differs from its original settings.

    Args:
        differences: recipe values that differ, each with its name and both values.
        seed: the requested seed; None if not given.
        prompts: the requested prompts; None if not given.

    Raises:
        InputError: the request differs; the message lists each difference.
    """
    found = [f"  {difference}" for difference in differences]
    if seed is not None and seed != experiment.seed:
        found.append(f"  seed: created with {experiment.seed}, now {seed}")
    if prompts is not None:
        found += _describe_prompt_differences(experiment, prompts)
    if found:
        raise InputError(
            f"experiment {experiment.name!r} was created with other settings; "
            "use another --experiment name, or leave these unchanged; without --recipe it keeps "
            "the recipe that it was created with, and --set changes a value of it:\n"
            + "\n".join(found)
        )


def _describe_prompt_differences(experiment: Experiment, given: PromptFile) -> list[str]:
    """Describe the differences, one per line; the order of a pool does not matter."""
    began = set(experiment.get_files(0).read("prompts")["prompt_id"].to_pylist())
    now = {prompt.prompt_id for prompt in given.prompts}
    if began == now:
        return []
    return [
        f"  prompts: created with {len(began)}, of which {len(began - now)} are not in the given "
        f"file; {len(now - began)} in the file are new"
    ]
