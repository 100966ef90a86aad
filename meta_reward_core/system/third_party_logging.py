"""Keep libraries from printing progress bars and from sending telemetry."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants as hub_constants
from transformers.utils import logging as transformers_logging

from meta_reward_core.system.settings import read_variable


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Context manager that disables TRL telemetry and the progress bars of libraries.

    The libraries are transformers, datasets and tqdm. The previous configuration is restored
    afterwards.
    """
    bars = transformers_logging.is_progress_bar_enabled()
    telemetry, tqdm = hub_constants.HF_HUB_DISABLE_TELEMETRY, read_variable("TQDM_DISABLE")
    transformers_logging.disable_progress_bar()
    hub_constants.HF_HUB_DISABLE_TELEMETRY = True
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
        hub_constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        os.environ.pop("TQDM_DISABLE")
        if tqdm is not None:
            os.environ["TQDM_DISABLE"] = tqdm
