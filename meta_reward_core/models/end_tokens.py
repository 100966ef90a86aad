"""Which tokens end a completion, by the files of a model folder and its tokenizer."""

from pathlib import Path

from meta_reward_core.models.fingerprint import read_end_ids


def find_end_token_ids(folder: Path, *, tokenizer_eos: int | None) -> tuple[int, ...]:
    """Ids of the tokens that end a completion, ascending.

    Args:
        tokenizer_eos: the end token of the tokenizer, if it names one.

    Raises:
        ModelFolderError: a configuration of the folder cannot be read.
    """
    ends = {*(read_end_ids(folder) or ()), *([] if tokenizer_eos is None else [tokenizer_eos])}
    return tuple(sorted(ends))
