"""Score responses with a reward model: a Hugging Face sequence classifier with one output.

The model reads the prompt and the response as a chat, in its own template, and its only output is
the score. Nothing is sampled. One response is read at a time: padding would let the scores of a
batch depend on its other rows, and a model of this kind reads a whole response in one step anyway.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from meta_reward_core.engines.base import Conversation, Progress
from meta_reward_core.errors import EngineError, ModelFolderError
from meta_reward_core.models.chat import ChatOptions, render_chat
from meta_reward_core.models.library_errors import translate_library_errors
from meta_reward_core.system.third_party_logging import silence_libraries


def load_reward_model(
    model_folder: Path,
    *,
    dtype: str,
    device: str,
    threads: int | None,
    max_model_len: int | None,
) -> "TransformersRewardModel":
    """Load safetensors weights of a local folder; no network, no code from the folder.

    Args:
        model_folder: a folder that `check_reward_model` has passed.
        dtype: a torch dtype by name.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        threads: CPU threads, or None to leave their number unchanged.
        max_model_len: a lower limit than the model's own, in tokens, or None.

    Raises:
        ModelFolderError: the folder cannot be loaded, or lacks weights of the model.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        with (
            translate_library_errors(ModelFolderError, folder=model_folder),
            silence_libraries(),
        ):
            tokenizer = AutoTokenizer.from_pretrained(
                model_folder, local_files_only=True, trust_remote_code=False
            )
            found: tuple[Any, dict[str, Any]] = AutoModelForSequenceClassification.from_pretrained(
                model_folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=dtype,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFolderError(
            f"{model_folder} cannot be loaded as a reward model: {error}"
        ) from error
    model, loading = found
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelFolderError(
            f"{model_folder} has no weights for {', '.join(missing[:3])}, which would get random "
            "values: use a reward model that was saved with its head"
        )
    if model.config.num_labels != 1:
        raise ModelFolderError(
            f"{model_folder} has {model.config.num_labels} outputs: use a reward model "
            "with one output"
        )
    own = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    limits = [limit for limit in (own, max_model_len) if limit]
    return TransformersRewardModel(
        model.to(place).eval(), tokenizer, limit=min(limits) if limits else None
    )


class TransformersRewardModel:
    """A loaded reward model; made by `load_reward_model`."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, limit: int | None
    ) -> None:
        """Keep a model with one output.

        Args:
            limit: maximum length of prompt and response together, in tokens.
        """
        self._model: PreTrainedModel | None = model
        self._tokenizer = tokenizer
        self._limit = limit

    @torch.inference_mode()
    def score(
        self,
        conversations: Sequence[Conversation],
        *,
        options: ChatOptions,
        progress: Progress | None = None,
    ) -> list[float | None]:
        """Score conversations that end with a response. See `engines.base.RewardModel`."""
        if self._model is None:
            raise EngineError("This reward model is closed: load it again.")
        scores: list[float | None] = []
        for conversation in conversations:
            text = render_chat(
                self._tokenizer, conversation, add_generation_prompt=False, options=options
            )
            ids = self._tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"][0]
            fits = self._limit is None or len(ids) <= self._limit
            scores.append(self._score_ids(self._model, ids) if fits else None)
            if progress is not None:
                progress(len(scores), 0)
        return scores

    def close(self) -> None:
        """Free the model's memory, on an accelerator too."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @staticmethod
    def _score_ids(model: PreTrainedModel, ids: Sequence[int]) -> float:
        rows = torch.tensor([ids], device=model.device)
        try:
            output = model(input_ids=rows, attention_mask=torch.ones_like(rows))
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"Out of memory with a response of {len(ids)} tokens: lower actor.max_new_tokens. "
                f"{error}"
            ) from error
        score = float(output.logits.float().squeeze())
        if not math.isfinite(score):
            raise EngineError(
                f"The reward model gave a score that is not finite ({score}): use another "
                "engine.dtype, such as bfloat16 or float32."
            )
        return score
