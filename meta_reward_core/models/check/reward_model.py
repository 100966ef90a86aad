"""Check a reward model's folder: harmless files, a classifier with one output, and its weights.

Loads no model library, so that the site can use it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from meta_reward_core.errors import ModelFolderError
from meta_reward_core.models.check.configuration import read_config
from meta_reward_core.models.check.files import explain_folder_error
from meta_reward_core.models.check.result import Check, CheckReport, Level
from meta_reward_core.models.check.weights_files import TensorInfo, read_weights
from meta_reward_core.models.validation import check_model_folder

_TITLE: Final = "Reward model"
_CONFIG_FILE: Final = "config.json"
CLASSIFIER_SUFFIX: Final = "ForSequenceClassification"
_OUTPUT: Final = re.compile(
    r"^(score|classifier(\.out_proj)?|classification_head\.out_proj)\.weight$"
)
"""Names of the last layer of transformers' sequence classifiers."""


def check_reward_model(path: Path, *, allowed_roots: Sequence[Path]) -> CheckReport:
    """Check that a folder is a reward model that can be loaded.

    Args:
        allowed_roots: folders that must contain the model and all targets of its links.
    """
    try:
        folder = check_model_folder(path, allowed_roots=allowed_roots)
    except ModelFolderError as error:
        return CheckReport(str(path), (explain_folder_error(error, path),))
    config = read_config(folder)
    tensors, weights = read_weights(folder)
    return CheckReport(
        str(path), (*_check_class(config), *weights, *_check_output(config, tensors))
    )


def _check_class(config: Mapping[str, Any]) -> list[Check]:
    """Check the class in the configuration; without one, transformers uses a random head."""
    names = config.get("architectures") or []
    if any(isinstance(name, str) and name.endswith(CLASSIFIER_SUFFIX) for name in names):
        return [Check("reward_model.class", _TITLE, Level.GREEN, f"{', '.join(names)}")]
    found = (
        f"architectures lists {', '.join(map(str, names))}" if names else "architectures is empty"
    )
    return [
        Check(
            "reward_model.class",
            _TITLE,
            Level.RED,
            f"{found}, not a sequence classifier of transformers (...{CLASSIFIER_SUFFIX})",
            "use a reward model of that kind; models with code of their own cannot be loaded",
            _CONFIG_FILE,
        )
    ]


def _check_output(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> list[Check]:
    """Compare the number of outputs in the configuration and in the weights."""
    labels = config.get("id2label")
    named = len(labels) if isinstance(labels, Mapping) else config.get("num_labels", 2)
    heads = {name: info for name, info in tensors.items() if _OUTPUT.match(name)}
    if not heads:
        message, file = "the weights have no output layer, which would get random values", ""
    elif named != 1:
        message, file = f"the model has {named} outputs instead of one score", _CONFIG_FILE
    elif any(info.shape[:1] != (1,) for info in heads.values()):
        name, info = next(iter(heads.items()))
        message, file = f"{name} has the shape {info.shape} instead of one row", info.file
    else:
        return [Check("reward_model.output", _TITLE, Level.GREEN, "one output")]
    remedy = "use a reward model that gives one score"
    return [Check("reward_model.output", _TITLE, Level.RED, message, remedy, file)]
