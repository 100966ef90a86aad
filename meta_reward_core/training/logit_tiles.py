"""Limit the memory for logits, and the tokens for which they are computed.

TRL never stores all logits: it multiplies the hidden states of some tokens with a part of the
vocabulary, tile by tile. Its tiles are sized for GPUs: 512 MiB in float32. On a CPU it makes
several copies of each tile, so a small tile needs less memory and stays in the caches. On a CPU,
TRL also computes the logits of prompts, which no loss uses and which are most of a judge row.
"""

from typing import Final

import torch
from trl.kernels import chunked_logprob
from trl.trainer import utils

CPU_TILE_MIB: Final = 4
_BYTES: Final = 4
_MIN_TOKENS: Final = 128
_TRL_TOKENS: Final = chunked_logprob.TOKEN_CHUNK_SIZE
_TRL_WORDS: Final = utils._CHUNKED_LOGPROB_CHUNK_SIZE


def set_logit_tiles(mebibytes: int | None, *, vocabulary: int) -> None:
    """Set how TRL computes log-probabilities in this process. TRL has no arguments for this.

    Args:
        mebibytes: size of a tile in float32. None: 4 MiB on a CPU, TRL's own size elsewhere.
        vocabulary: number of tokens in the model's vocabulary.
    """
    on_cpu = not torch.cuda.is_available()
    if mebibytes is None and on_cpu:
        mebibytes = CPU_TILE_MIB
    tokens, words = _TRL_TOKENS, _TRL_WORDS
    if mebibytes is not None:
        room = mebibytes * 2**20 // _BYTES
        words = min(vocabulary, words, room // _MIN_TOKENS)
        tokens = min(tokens, room // words)
    chunked_logprob.TOKEN_CHUNK_SIZE = tokens
    utils._CHUNKED_LOGPROB_CHUNK_SIZE = words
    if on_cpu:
        utils._use_triton = _score_labels_only


def _score_labels_only(device: torch.device) -> bool:  # noqa: ARG001 the signature of TRL
    """TRL skips tokens without a label only if Triton is installed."""
    return True
