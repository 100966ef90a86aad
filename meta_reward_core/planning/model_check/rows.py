"""Check a recipe's token limits against the prompts of each role and the training rows.

Nothing has been generated yet, so both the minimum and the maximum length of a completion are
considered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meta_reward_core.context import PromptTemplates
from meta_reward_core.engines.base import Completion, Conversation
from meta_reward_core.method.generation import build_actor_conversation
from meta_reward_core.method.judging import build_judge_conversation
from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.planning.model_check.needs import trains_on_anywhere
from meta_reward_core.recipes.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_PROMPTS: Final = 2000
"""Maximum number of tokenized prompts for the actor, evenly spaced over the pool."""
_MAX_JUDGED_PROMPTS: Final = 200
_TITLES: Final = {"actor": "Actor", "judge": "Judge", "meta_judge": "Meta-judge"}


@dataclass(frozen=True, slots=True)
class RoleLengths:
    """Lengths in one role, in tokens.

    Attributes:
        prompts: length of each prompt, without generated text.
        most_inserted: maximum length of generated text in a prompt: responses and judgments.
        most_new: maximum length of a completion.
        is_local: whether the experiment's own model generates the completions.
        trains: whether pairs of this role are trained on.
    """

    role: str
    prompts: Sequence[int]
    most_inserted: int
    most_new: int
    is_local: bool
    trains: bool


def select_prompts(prompts: Sequence[str], *, count: int = MAX_PROMPTS) -> Sequence[str]:
    """Select at most `count` prompts, evenly spaced."""
    if len(prompts) <= count:
        return prompts
    return [prompts[index * len(prompts) // count] for index in range(count)]


def check_rows(
    recipe: Recipe,
    templates: PromptTemplates,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    limit: int | None,
) -> list[Check]:
    """Compare the prompts of each role, and the rows of training, with their limits.

    Args:
        prompts: texts of the pool; if there are none, an empty prompt is used instead.
        limit: maximum length of prompt and completion together that an engine accepts, in tokens.
    """
    training = recipe.training
    return [
        check
        for role in measure_roles(recipe, templates, tokenizer, prompts)
        for check in (
            *check_prompts(role, limit),
            *check_training_rows(
                role,
                max_length=training.max_length,
                max_refused_share=training.max_refused_share,
                limit=limit,
            ),
        )
    ]


def measure_roles(
    recipe: Recipe,
    templates: PromptTemplates,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
) -> list[RoleLengths]:
    """Tokenize the prompts of each role that a recipe has, without generated text."""
    from meta_reward_core.engines.prompt_encoder import PromptEncoder

    encoder = PromptEncoder(tokenizer)
    texts = list(select_prompts(prompts)) or [""]
    judged = select_prompts(texts, count=_MAX_JUDGED_PROMPTS)
    actor, judge, meta_judge = recipe.actor, recipe.judge, recipe.meta_judge

    def measure(conversations: list[Conversation]) -> list[int]:
        encoded = encoder.encode_or_refuse(conversations)
        return [0 if isinstance(ids, Completion) else len(ids) for ids in encoded]

    roles = [
        RoleLengths(
            "actor",
            measure(
                [
                    build_actor_conversation(text, system_prompt=actor.system_prompt)
                    for text in texts
                ]
            ),
            most_inserted=0,
            most_new=actor.max_new_tokens,
            is_local=True,
            trains=trains_on_anywhere(recipe, "actor"),
        ),
        RoleLengths(
            "judge",
            measure([_build_empty_judgment(templates, text) for text in judged]),
            most_inserted=actor.max_new_tokens,
            most_new=judge.max_new_tokens,
            is_local=recipe.outside_judge is None,
            trains=trains_on_anywhere(recipe, "judge"),
        ),
    ]
    if trains_on_anywhere(recipe, "judge"):
        roles.append(
            RoleLengths(
                "meta_judge",
                measure([_build_empty_battle(templates, text) for text in judged]),
                most_inserted=actor.max_new_tokens + 2 * judge.max_new_tokens,
                most_new=meta_judge.max_new_tokens,
                is_local=True,
                trains=False,
            )
        )
    return roles


def _build_empty_judgment(templates: PromptTemplates, text: str) -> Conversation:
    return build_judge_conversation(
        templates.judge, rubric=templates.rubric, instruction=text, response=""
    )


def _build_empty_battle(templates: PromptTemplates, text: str) -> Conversation:
    content = templates.meta_judge.fill(
        rubric=templates.rubric, instruction=text, response="", judgment_a="", judgment_b=""
    )
    return [{"role": "user", "content": content}]


def check_prompts(role: RoleLengths, limit: int | None) -> list[Check]:
    """Count the prompts of a role that leave no room for a completion, so that engines refuse them.

    Args:
        limit: maximum length of prompt and completion together that an engine accepts, in tokens.
    """
    name, title = f"prompts.{role.role}", f"{_TITLES[role.role]} prompts"
    longest = max(role.prompts)
    if limit is None or not role.is_local:
        return [Check(name, title, Level.GREEN, f"up to {longest:,} tokens")]
    total = len(role.prompts)
    never = sum(length + role.most_new > limit for length in role.prompts)
    key = f"{role.role}.max_new_tokens"
    if never:
        message = (
            f"engines refuse {_count_share(never, total)} of the {_describe_role(role)}: with "
            f"{role.most_new:,} tokens for the completion ({key}), prompt and completion exceed "
            f"the {limit:,} tokens that the model accepts (longest prompt: {longest:,})"
        )
        remedy = f"lower {key}, or use shorter prompts or a model with more positions"
        return [Check(name, title, Level.RED if never == total else Level.AMBER, message, remedy)]
    most = longest + role.most_inserted + role.most_new
    if most > limit:
        message = (
            f"prompts of the {_describe_role(role)} that show the longest texts are refused: "
            f"{most:,} tokens with the completion, but the model accepts {limit:,}"
        )
        return [Check(name, title, Level.AMBER, message, "lower the limits of max_new_tokens")]
    message = f"up to {longest + role.most_inserted:,} tokens and a completion of {role.most_new:,}"
    return [Check(name, title, Level.GREEN, message)]


def check_training_rows(
    role: RoleLengths, *, max_length: int, max_refused_share: float, limit: int | None
) -> list[Check]:
    """Compute the share of a role's rows that training would refuse as longer than `max_length`.

    Args:
        max_length: maximum length of a row, prompt and completion together, in tokens.
        max_refused_share: share of refused rows above which training stops.
        limit: maximum length of prompt and completion together that an engine accepts, in tokens.
    """
    if not role.trains:
        return []
    name, title = f"rows.{role.role}", f"{_TITLES[role.role]} rows"
    total = len(role.prompts)
    surely = sum(length >= max_length for length in role.prompts)
    if surely > max_refused_share * total:
        message = (
            f"training refuses the rows of {_count_share(surely, total)}, because they are "
            f"longer than training.max_length ({max_length:,} tokens); it stops above a share "
            f"of "
            f"{max_refused_share:.0%}"
        )
        remedy = f"set training.max_length to {max(role.prompts) + role.most_new:,} or more"
        return [Check(name, title, Level.RED, message, remedy)]
    most = [_clip(length + role.most_inserted + role.most_new, limit) for length in role.prompts]
    cut = sum(length >= max_length for length in most)
    if not cut:
        message = f"up to {max(most):,} of training.max_length ({max_length:,}) tokens"
        return [Check(name, title, Level.GREEN, message)]
    texts = "a cut-off completion" if not role.most_inserted else "texts of the greatest length"
    message = (
        f"training refuses the rows of {_count_share(cut, total)} if they contain "
        f"{texts}: up to {max(most):,} tokens, while training.max_length is {max_length:,}; "
        f"training stops if more than {max_refused_share:.0%} of all rows are refused"
    )
    remedy = f"set training.max_length to {max(most) + 1:,}, or lower max_new_tokens"
    return [Check(name, title, Level.AMBER, message, remedy)]


def _describe_role(role: RoleLengths) -> str:
    return _TITLES[role.role].lower()


def _clip(length: int, limit: int | None) -> int:
    return length if limit is None else min(length, limit)


def _count_share(some: int, total: int) -> str:
    """Format a share: `3 of 8 (38%) prompts`, `all 8 prompts`, or `the only prompt`."""
    if total == 1:
        return "the only prompt"
    share = f"all {total:,}" if some == total else f"{some:,} of {total:,} ({some / total:.0%})"
    return f"{share} prompts"
