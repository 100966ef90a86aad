"""Prevent an iteration from generating or training with an unchecked model.

The process that creates an experiment or changes its settings may lack the model libraries, as the
site does. Then the first stage on a worker that has them runs the check, before any generation.
"""

from pathlib import Path

from meta_reward_core.context import IterationContext
from meta_reward_core.errors import ModelFolderError, NeedsAttentionError
from meta_reward_core.models.check.result import CheckReport, require_sound
from meta_reward_core.planning.model_check.needs import hash_checked_settings
from meta_reward_core.planning.model_check.run import (
    ModelCheckRequest,
    can_check_here,
    is_checked,
    run_check,
    write_changed_report,
    write_report,
)
from meta_reward_core.recipes.dataflow import GENERATE
from meta_reward_core.storage.layout import ExperimentLayout, get_experiment_folder
from meta_reward_core.system.library_imports import import_libraries_quickly


def require_model_checked(context: IterationContext) -> None:
    """Require a passed model check under the settings of the iteration; run the check if needed.

    An iteration that generated before the model check existed continues under the settings from
    its experiment's creation.

    Raises:
        NeedsAttentionError: the model cannot be used, with one sentence for each problem; or this
            machine lacks the libraries for the check.
    """
    if context.recipe.engine.kind == "scripted":
        return
    store = context.files.store
    layout = ExperimentLayout(get_experiment_folder(context.files.folder))
    key = hash_checked_settings(context.recipe)
    first_key = hash_checked_settings(context.began.recipe)
    if is_checked(store, layout, key=key, first_key=first_key):
        return
    if key == first_key and _has_sampled(context):
        return
    if not can_check_here():
        raise NeedsAttentionError(
            "The model has not been checked, and this worker has no model libraries: start a "
            "worker on a machine that has torch and transformers, and resume."
        )
    report = run_check(_build_request(context), in_process=True)
    try:
        require_sound(report)
    except ModelFolderError as error:
        raise NeedsAttentionError(str(error)) from error
    if key == first_key:
        write_report(store, layout, report)
    else:
        write_changed_report(store, layout, report, key=key)


def require_savable(context: IterationContext) -> None:
    """Check that training can save the current small files of the model.

    They may have changed since the model check, and no completion depends on them: without this
    check, training would only fail at the end of its first epoch.

    Raises:
        NeedsAttentionError: the files cannot be saved; the message has one sentence per problem.
    """
    if context.recipe.engine.kind == "scripted":
        return
    with import_libraries_quickly():
        from meta_reward_core.models.check.loading import check_saved_files

    folder = context.model.folder
    try:
        require_sound(CheckReport(folder.name, tuple(check_saved_files(folder))))
    except ModelFolderError as error:
        raise NeedsAttentionError(str(error)) from error


def _has_sampled(context: IterationContext) -> bool:
    return context.number > 1 or any(
        made.stage == GENERATE.name for made in context.files.list_manifests()
    )


def _build_request(context: IterationContext) -> ModelCheckRequest:
    folder = context.model.folder
    return ModelCheckRequest(
        name=folder.name if context.number == 1 else context.model.name,
        folder=folder,
        allowed_roots=(Path(folder.anchor or "/"),),  # links were checked at creation
        recipe=context.recipe,
        templates=context.templates,
        prompts=tuple(context.pool.read("prompts")["text"].to_pylist()),
    )
