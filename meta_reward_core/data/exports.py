"""Preference pairs in the formats of other tools: pure generators, row in, rows out.

This module does not depend on files. The input rows are TRL's conversational preference rows with
extra columns. Formats that store the prompt as one string only support single-turn prompts. A
longer conversation raises an error, because flattening it would silently change the training data.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypedDict

from meta_reward_core.engines.base import Conversation
from meta_reward_core.errors import ArtifactError
from meta_reward_core.storage.records import PairKind


class PairRow(TypedDict):
    """A row of `actor_pairs` or `judge_pairs`; it can have more columns."""

    prompt: Conversation
    chosen: Conversation
    rejected: Conversation
    kind: PairKind
    iteration: int
    prompt_id: str
    score_chosen: float
    score_rejected: float


Row = dict[str, Any]
Export = Callable[[Iterable[PairRow]], Iterator[Row]]

_EXTRA = ("kind", "iteration", "prompt_id", "score_chosen", "score_rejected")
_SHAREGPT_ROLES = {"user": "human", "assistant": "gpt"}


def to_trl(rows: Iterable[PairRow]) -> Iterator[Row]:
    """TRL, conversational preference: `prompt`, `chosen`, `rejected` are lists of messages.

    Source: TRL documentation, "Dataset formats and types".
    """
    for row in rows:
        messages = {name: row[name] for name in ("prompt", "chosen", "rejected")}
        yield messages | _select_extra(row)


def to_distilabel(rows: Iterable[PairRow]) -> Iterator[Row]:
    """Distilabel's DPO columns: a prompt string, and conversations that begin with it.

    `prompt_id` is the sha256 of the prompt string. For a judge pair this is the judge's prompt, so
    it differs from our `prompt_id`, which is stored as `source_prompt_id`.

    Source: distilabel, step FormatTextGenerationDPO.

    Raises:
        ArtifactError: a prompt has more than one turn, or a completion more than one message.
    """
    for row in rows:
        prompt = _require_single_turn(row)
        yield {
            "prompt": prompt,
            "prompt_id": hashlib.sha256(prompt.encode()).hexdigest(),
            "chosen": [*row["prompt"], *row["chosen"]],
            "chosen_rating": row["score_chosen"],
            "rejected": [*row["prompt"], *row["rejected"]],
            "rejected_rating": row["score_rejected"],
            "kind": row["kind"],
            "iteration": row["iteration"],
            "source_prompt_id": row["prompt_id"],
        }


def to_openrlhf(rows: Iterable[PairRow]) -> Iterator[Row]:
    """OpenRLHF's scored completions, `{input, output, reward}`: two rows per pair, chosen first.

    Source: OpenRLHF, the output of its batch inference.

    Raises:
        ArtifactError: a prompt has more than one turn, or a completion more than one message.
    """
    for row in rows:
        prompt = _require_single_turn(row)
        yield {
            "input": prompt,
            "output": _require_single_reply(row["chosen"]),
            "reward": row["score_chosen"],
        }
        yield {
            "input": prompt,
            "output": _require_single_reply(row["rejected"]),
            "reward": row["score_rejected"],
        }


def to_llama_factory(rows: Iterable[PairRow]) -> Iterator[Row]:
    """LLaMA-Factory's ShareGPT preference rows.

    Register them with `build_llama_factory_dataset_info`.

    Source: LLaMA-Factory, data/README.md, "Preference Dataset" of the ShareGPT format.

    Raises:
        ArtifactError: a completion has more than one message.
    """
    for row in rows:
        yield {
            "conversations": [
                {"from": _SHAREGPT_ROLES[message["role"]], "value": message["content"]}
                for message in row["prompt"]
                if message["role"] != "system"
            ],
            "chosen": {"from": "gpt", "value": _require_single_reply(row["chosen"])},
            "rejected": {"from": "gpt", "value": _require_single_reply(row["rejected"])},
            "system": "\n\n".join(
                message["content"] for message in row["prompt"] if message["role"] == "system"
            ),
        } | _select_extra(row)


def build_llama_factory_dataset_info(file_name: str) -> Row:
    """Build the entry of LLaMA-Factory's `dataset_info.json` for our file."""
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "conversations",
            "chosen": "chosen",
            "rejected": "rejected",
            "system": "system",
        },
    }


def to_online_rlhf(rows: Iterable[PairRow]) -> Iterator[Row]:
    """RLHFlow's Online-RLHF rows: a prompt of messages, its responses and their rewards.

    Source: RLHFlow/Online-RLHF, the file between its annotation and its DPO step.

    Raises:
        ArtifactError: a completion has more than one message.
    """
    for row in rows:
        yield {
            "prompt": row["prompt"],
            "responses": [
                _require_single_reply(row["chosen"]),
                _require_single_reply(row["rejected"]),
            ],
            "rewards": [row["score_chosen"], row["score_rejected"]],
        }


def to_oxen(rows: Iterable[PairRow]) -> Iterator[Row]:
    """Oxen's flat preference rows, with all values as strings.

    Raises:
        ArtifactError: a prompt has more than one turn, or a completion more than one message.
    """
    for row in rows:
        yield {
            "prompt_id": row["prompt_id"],
            "prompt": _require_single_turn(row),
            "chosen": _require_single_reply(row["chosen"]),
            "rejected": _require_single_reply(row["rejected"]),
            "score_chosen": row["score_chosen"],
            "score_rejected": row["score_rejected"],
        }


EXPORTS: Final[dict[str, Export]] = {
    "trl": to_trl,
    "distilabel": to_distilabel,
    "openrlhf": to_openrlhf,
    "llama-factory": to_llama_factory,
    "online-rlhf": to_online_rlhf,
    "oxen": to_oxen,
}
"""Every format by the name that commands and forms use."""


def _select_extra(row: PairRow) -> Row:
    return {name: value for name, value in row.items() if name in _EXTRA}


def _require_single_turn(row: PairRow) -> str:
    """Return the text of a prompt with a single user message."""
    prompt = row["prompt"]
    if len(prompt) != 1 or prompt[0]["role"] != "user":
        raise ArtifactError(
            f"The prompt of pair {row['prompt_id']} is not one user message, and this format "
            f"does not support more; export it as trl, llama-factory or online-rlhf."
        )
    return prompt[0]["content"]


def _require_single_reply(messages: Conversation) -> str:
    """Return the text of a completion with a single assistant message."""
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise ArtifactError("A completion of a pair must be one assistant message.")
    return messages[0]["content"]
