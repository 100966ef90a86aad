"""Run the model check, in this process or in a separate one.

`models.check.files` runs the checks that need only the files. All other checks load transformers,
so they run in a separate process if the caller must not load it: `python -m
meta_reward_core.planning.model_check` reads a request as JSON from its standard input and writes
the report to its standard output.
"""

import importlib.util
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from meta_reward_core.context import PromptTemplates
from meta_reward_core.errors import EngineError
from meta_reward_core.models.check.files import FolderFiles, check_files
from meta_reward_core.models.check.needs import ModelNeeds
from meta_reward_core.models.check.result import Check, CheckReport, Level
from meta_reward_core.models.library_errors import explain_library_error
from meta_reward_core.planning.model_check.needs import derive_needs
from meta_reward_core.planning.model_check.rows import check_rows, select_prompts
from meta_reward_core.recipes.loader import parse_recipe
from meta_reward_core.recipes.prompt_templates import PromptTemplate
from meta_reward_core.recipes.schema import Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore, encode_canonical_json
from meta_reward_core.storage.layout import ExperimentLayout
from meta_reward_core.system.library_imports import import_libraries_quickly
from meta_reward_core.system.settings import build_environment_without_secrets
from meta_reward_core.system.signals import make_parent_death_preexec
from meta_reward_core.system.untrusted_input import parse_json

_TIMEOUT_SECONDS: Final = 600.0
CPU_SECONDS: Final = 300
"""CPU time limit of a check in a separate process; the largest models take 10 seconds."""
_ERROR_CHARS: Final = 2000
_CHECKS_OF_END_TOKENS: Final = frozenset({"generation_config", "config.tokens"})
"""Checks whose failure prevents the check of the chat template, which needs the end tokens."""


@dataclass(frozen=True, slots=True)
class ModelCheckRequest:
    """The inputs of a model check.

    Attributes:
        name: the user's name for the model.
        folder: the model's folder.
        allowed_roots: folders that must contain the model and all targets of its links.
        recipe: the experiment's recipe.
        templates: the texts of judge and meta-judge prompts.
        prompts: texts of the pool; if there are none, an empty prompt is used instead.
    """

    name: str
    folder: Path
    allowed_roots: tuple[Path, ...]
    recipe: Recipe
    templates: PromptTemplates
    prompts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return {
            "name": self.name,
            "folder": str(self.folder.absolute()),
            "allowed_roots": [str(root.absolute()) for root in self.allowed_roots],
            "recipe": self.recipe.model_dump(mode="json"),
            "judge": self.templates.judge.text,
            "meta_judge": self.templates.meta_judge.text,
            "rubric": self.templates.rubric,
            "prompts": list(select_prompts(self.prompts)),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_json`, but only with the prompts that will be tokenized."""
        return cls(
            name=values["name"],
            folder=Path(values["folder"]),
            allowed_roots=tuple(map(Path, values["allowed_roots"])),
            recipe=parse_recipe(values["recipe"], origin="the recipe"),
            templates=PromptTemplates(
                judge=PromptTemplate("judge", values["judge"]),
                meta_judge=PromptTemplate("meta_judge", values["meta_judge"]),
                rubric=values["rubric"],
            ),
            prompts=tuple(values["prompts"]),
        )


def can_check_here() -> bool:
    """Return whether this environment has the libraries for the whole check; the site does not."""
    try:
        return importlib.util.find_spec("torch") is not None
    except ImportError:  # an import hook that rejects it
        return False


def run_check(
    request: ModelCheckRequest, *, in_process: bool, timeout: float = _TIMEOUT_SECONDS
) -> CheckReport:
    """Check a model.

    Args:
        in_process: whether this process may load torch and transformers; otherwise a separate
            process runs the check.
        timeout: time limit of the separate process, in seconds.

    Raises:
        EngineError: the separate process ended without a report.
    """
    if in_process or "transformers" in sys.modules:
        return check_model(request)
    environment = build_environment_without_secrets() | {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "meta_reward_core.planning.model_check"],
            input=json.dumps(request.to_json()),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=environment,
            preexec_fn=make_parent_death_preexec(),
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"the check of model {request.name} took longer than {timeout:.0f} s: "
            "check the load and the disk of this machine, and try again"
        ) from error
    if done.returncode == -signal.SIGXCPU:
        raise EngineError(
            f"the check of model {request.name} took more than {CPU_SECONDS} s of CPU time: "
            "its chat template or its tokenizer does not terminate"
        )
    if done.returncode != 0:
        raise EngineError(
            f"the check of model {request.name} ended with exit code {done.returncode}: "
            f"{done.stderr[-_ERROR_CHARS:].strip()}"
        )
    return CheckReport.from_json(json.loads(done.stdout.splitlines()[-1]))


def check_model(request: ModelCheckRequest) -> CheckReport:
    """Check a model in this process; loads transformers."""
    needs = derive_needs(request.recipe)
    files = check_files(request.folder, needs, allowed_roots=request.allowed_roots)
    checks = list(files.checks)
    if files.is_sound:
        try:
            checks += _check_with_libraries(request, files, needs)
        except Exception as error:  # noqa: BLE001 - libraries raise what they like about a folder
            checks.append(_explain_unexpected(error, request.folder))
    return CheckReport(request.name, tuple(checks))


def _explain_unexpected(error: Exception, folder: Path) -> Check:
    """Return a failed result: a library error here would also occur in a stage or training."""
    text = explain_library_error(error) or (
        f"the check failed with {type(error).__name__} ({' '.join(str(error).split())[:300]})"
    )
    remedy = f"download all files of {folder.name} again; if that does not help, report this"
    return Check("model", "Model", Level.RED, text.rstrip("."), remedy)


def _check_with_libraries(
    request: ModelCheckRequest, files: FolderFiles, needs: ModelNeeds
) -> list[Check]:
    with import_libraries_quickly():
        from meta_reward_core.models.check.chat_template import check_chat_template
        from meta_reward_core.models.check.loading import (
            UnusableConfigError,
            check_config_saving,
            check_generation_config,
            check_model_class,
            check_special_ids,
            load_config,
        )
        from meta_reward_core.models.check.parameters import (
            check_parameters,
            silence_transformers,
        )
        from meta_reward_core.models.check.tokenizer import (
            UnusableTokenizerError,
            check_tokenizer,
            get_vocabulary_size,
            load_tokenizer,
        )
        from meta_reward_core.system.third_party_logging import silence_libraries

    assert files.folder is not None  # noqa: S101 for the types: the files are sound
    folder = files.folder
    with silence_libraries(), silence_transformers():
        try:
            config = load_config(folder)
        except UnusableConfigError as error:
            return [error.check]
        vocabulary = get_vocabulary_size(config)
        checks = [
            *check_parameters(config, files.tensors, folder),
            *check_config_saving(config),
            *check_model_class(config),
            *check_special_ids(config, folder, vocabulary=vocabulary),
            *check_generation_config(folder, vocabulary=vocabulary),
        ]
        try:
            tokenizer = load_tokenizer(folder)
        except UnusableTokenizerError as error:
            return [*checks, error.check]
        checks += check_tokenizer(tokenizer, config, folder)
        if all(
            check.name not in _CHECKS_OF_END_TOKENS or check.level is not Level.RED
            for check in checks
        ):
            checks += check_chat_template(tokenizer, folder, needs)
        limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        if all(check.level is not Level.RED for check in checks):
            checks += check_rows(
                request.recipe,
                request.templates,
                tokenizer,
                select_prompts(request.prompts),
                limit=_find_limit(limit, needs),
            )
    return checks


def _find_limit(own: object, needs: ModelNeeds) -> int | None:
    """Maximum tokens of prompt and completion together that an engine accepts."""
    limits = [limit for limit in (own, needs.max_model_len) if isinstance(limit, int) and limit]
    return min(limits) if limits else None


def write_report(store: ArtifactStore, layout: ExperimentLayout, report: CheckReport) -> None:
    """Store the report of an experiment's model check, unless one is stored already."""
    store.put_if_absent(layout.model_check, encode_canonical_json(report.to_json()))


def read_report(store: ArtifactStore, layout: ExperimentLayout) -> CheckReport | None:
    """Read the report of the model check at an experiment's creation; None if there is none."""
    data = store.read_if_exists(layout.model_check)
    return None if data is None else CheckReport.from_json(parse_json(data))


def write_changed_report(
    store: ArtifactStore, layout: ExperimentLayout, report: CheckReport, *, key: str
) -> None:
    """Store the report of a check under changed settings.

    Args:
        key: hash of the settings, as `hash_checked_settings` returns it.
    """
    store.put_if_absent(layout.get_model_recheck(key), encode_canonical_json(report.to_json()))


def is_checked(store: ArtifactStore, layout: ExperimentLayout, *, key: str, first_key: str) -> bool:
    """Return whether a model passed the check under the given settings.

    Args:
        key: hash of the settings.
        first_key: hash of the settings from the experiment's creation.
    """
    if key == first_key and store.exists(layout.model_check):
        return True
    return store.exists(layout.get_model_recheck(key))
