"""Prompts that an engine refused, with the reason; all other work continues."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from meta_reward_core.engines.base import Completion
from meta_reward_core.method.parsing import PROMPT_REFUSED
from meta_reward_core.storage.records import Battle, Judgment, Prompt, RefusedPrompt

_NO_ROOM: Final = "The prompt, the reply and the forced line do not fit into the model's context."
"""Reason if the engine itself did not refuse the prompt."""

_Refusal = tuple[str, str | None, str]
"""Prompt, response and reason."""


RefusalKind = Literal["too_long", "filtered", "rejected"]
"""`rejected`: neither the length nor a content filter is known to be the reason."""

_TOO_LONG: Final = re.compile(r"too long|exceed|do not fit|context", re.IGNORECASE)
_FILTERED: Final = re.compile(r"content filter|withheld the reply", re.IGNORECASE)


def classify_refusal(reason: str) -> RefusalKind:
    """Classify the reason of an engine, by the words of its first clause.

    A server's own message follows a colon and may contain any text, so it is ignored.
    """
    own = reason.partition(":")[0]
    if _FILTERED.search(own):
        return "filtered"
    return "too_long" if _TOO_LONG.search(own) else "rejected"


def list_refused_prompts(
    prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
) -> list[RefusedPrompt]:
    """List the prompts that the actor's engine refused.

    Args:
        completions: completions of each prompt.
    """
    return _group_refusals(
        (prompt.prompt_id, None, one.refusal or "unknown")
        for prompt, sampled in zip(prompts, completions, strict=True)
        for one in sampled
        if one.finish_reason == "refused"
    )


def list_refused_judgments(judgments: Iterable[Judgment]) -> list[RefusedPrompt]:
    """List the responses that the judge's engine refused to read."""
    return _group_refusals(
        (one.prompt_id, one.response_id, one.refusal or _NO_ROOM)
        for one in judgments
        if one.unscored_reason == PROMPT_REFUSED
    )


def list_refused_battles(battles: Iterable[Battle]) -> list[RefusedPrompt]:
    """List the responses whose meta-judge prompts the engine refused."""
    return _group_refusals(
        (one.prompt_id, one.response_id, one.refusal or _NO_ROOM)
        for one in battles
        if one.unparsed_reason == PROMPT_REFUSED
    )


def _group_refusals(refusals: Iterable[_Refusal]) -> list[RefusedPrompt]:
    return [
        RefusedPrompt(prompt_id, response_id, replies, reason)
        for (prompt_id, response_id, reason), replies in Counter(refusals).items()
    ]
