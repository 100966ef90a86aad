"""An experiment's requirements for its model.

Recipes are unknown at this level: `planning.model_check` derives these values from one.
"""

from dataclasses import dataclass

from meta_reward_core.models.reasoning import ReasoningPolicy


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """Requirements of one experiment.

    Attributes:
        trains: whether weights are trained, so that read-only formats are refused.
        system_prompt: the system message before each prompt, or None.
        multi_turn: whether there are conversations with more than one user turn.
        max_new_tokens: maximum number of tokens of one completion in any role.
        max_length: maximum length of a training row in tokens; None if nothing is trained.
        max_model_len: the recipe's own limit on prompt and completion together, in tokens, or None.
        actor_reasoning: the policy on reasoning blocks in responses.
        judge_reasoning: the policy on reasoning blocks in judgments.
        judges: whether the model itself is the judge.
        stores_tokens: whether the token ids of all completions that are trained on are stored.
        renders_prompts: whether prompts are rendered here, and not by a server.
    """

    trains: bool = True
    system_prompt: str | None = None
    multi_turn: bool = False
    max_new_tokens: int = 1
    max_length: int | None = None
    max_model_len: int | None = None
    actor_reasoning: ReasoningPolicy = "keep"
    judge_reasoning: ReasoningPolicy = "keep"
    judges: bool = True
    stores_tokens: bool = True
    renders_prompts: bool = True
