"""Whether the package of an engine is installed here; nothing of it is imported to find out."""

import sys
from importlib.util import find_spec

from meta_reward_core.errors import InputError


def require_engine(kind: str) -> None:
    """Refuse an engine whose package is not installed in this environment.

    Only vLLM's may be missing: the project itself needs those of all other kinds.

    Raises:
        InputError: it is not, and how it is installed.
    """
    if kind == "vllm" and find_spec("vllm") is None:
        raise make_vllm_missing_error()


def make_vllm_missing_error() -> InputError:
    """What is said where vLLM is asked for and is not here."""
    return InputError(
        f"engine.kind: vllm needs vLLM, which is not installed in {sys.prefix}: install it by the "
        'command in docs/engines.md under "vLLM", or begin with another engine, '
        "such as --engine transformers"
    )
