"""Log-probabilities in tiles: as those of whole logits, and of labelled tokens alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.kernels import chunked_logprob
from trl.trainer import utils

from meta_reward_core.training.logit_tiles import set_logit_tiles


@pytest.mark.parametrize("mebibytes", [None, 1])
def test_tiles_give_the_log_probabilities_of_whole_logits(
    first_model: Path, monkeypatch: pytest.MonkeyPatch, mebibytes: int | None
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, where TRL leaves out unlabelled tokens by itself")
    scored: list[int] = []

    class Recorder:
        @staticmethod
        def apply(hidden: torch.Tensor, *more: Any) -> Any:
            scored.append(len(hidden))
            return chunked_logprob.ChunkedLogProbFunction.apply(hidden, *more)

    whole = AutoModelForCausalLM.from_pretrained(first_model)
    tokens = torch.randint(6, 30, (2, 20))
    labels = tokens.clone()
    labels[:, :12] = -100
    logits = whole(tokens).logits[:, :-1].log_softmax(-1)
    expected = logits.gather(-1, tokens[:, 1:, None]).squeeze(-1) * (labels[:, 1:] != -100)
    set_logit_tiles(mebibytes, vocabulary=32_000)
    assert chunked_logprob.TOKEN_CHUNK_SIZE * utils._CHUNKED_LOGPROB_CHUNK_SIZE <= 2**20
    monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 7)
    monkeypatch.setattr(chunked_logprob, "TOKEN_CHUNK_SIZE", 5)
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Recorder)
    utils.add_fused_lm_head(whole)
    given = whole(tokens, labels=labels, fused_lm_head=True).log_probs
    assert torch.allclose(given, expected, atol=1e-5)
    assert scored == [16], "prompts are left out"


def test_a_small_vocabulary_is_one_tile() -> None:
    set_logit_tiles(4, vocabulary=300)
    assert utils._CHUNKED_LOGPROB_CHUNK_SIZE == 300
    assert chunked_logprob.TOKEN_CHUNK_SIZE == 2**20 // 300
