"""Step 2: the actor generates K responses per prompt; identical responses are removed."""

from collections.abc import Sequence

from meta_reward_core.engines.base import Completion, Conversation, Engine, Progress, SamplingParams
from meta_reward_core.method.refusals import list_refused_prompts
from meta_reward_core.models.reasoning import ReasoningPolicy, select_answer
from meta_reward_core.storage.records import Prompt, RefusedPrompt, Response
from meta_reward_core.storage.shards import Counts


def build_actor_conversation(instruction: str, *, system_prompt: str | None) -> Conversation:
    """Build the conversation that shows a prompt to the actor."""
    conversation: Conversation = []
    if system_prompt is not None:
        conversation.append({"role": "system", "content": system_prompt})
    conversation.append({"role": "user", "content": instruction})
    return conversation


def extend_conversation(
    conversation: Conversation, *, reply: str, instruction: str
) -> Conversation:
    """Append another user message after the actor's previous reply."""
    return [
        *conversation,
        {"role": "assistant", "content": reply},
        {"role": "user", "content": instruction},
    ]


def generate_responses(
    prompts: Sequence[Prompt],
    engine: Engine,
    *,
    samples: int,
    sampling: SamplingParams,
    system_prompt: str | None,
    seed: int,
    reasoning: ReasoningPolicy = "keep",
    progress: Progress | None = None,
) -> tuple[list[Response], list[RefusedPrompt], Counts]:
    """Generate the actor's responses.

    Args:
        reasoning: policy for reasoning blocks; responses are identical if the parts that count
            under this policy are equal.

    Returns:
        The distinct responses in prompt order, the prompts that the engine refused, and counts of
        the outcomes.

    Source: Wu et al. 2024, section 2.1 (K = 7, temperature 0.8, top-p 0.95).
    """
    conversations = [build_actor_conversation(p.text, system_prompt=system_prompt) for p in prompts]
    sampled = engine.sample(conversations, samples, sampling=sampling, seed=seed, progress=progress)
    responses = [
        response
        for prompt, completions in zip(prompts, sampled, strict=True)
        for response in _deduplicate(prompt, completions, reasoning)
    ]
    everything = [completion for completions in sampled for completion in completions]
    return (
        responses,
        list_refused_prompts(prompts, sampled),
        {
            "prompts": len(prompts),
            "completions": len(everything),
            "refused": sum(c.finish_reason == "refused" for c in everything),
            "identical": sum(c.finish_reason != "refused" for c in everything) - len(responses),
            "cut_off": sum(response.finish_reason == "length" for response in responses),
            "tokens": sum(completion.tokens for completion in everything),
        },
    )


def _deduplicate(
    prompt: Prompt, completions: Sequence[Completion], reasoning: ReasoningPolicy
) -> list[Response]:
    """Keep the first of identical responses; a refused prompt has no response.

    Responses with unfinished reasoning contain no answer; they are identical only if their whole
    texts are equal.
    """
    first: dict[tuple[str | None, str], Response] = {}
    for sample, completion in enumerate(completions):
        answer = select_answer(completion.text, reasoning)
        key = answer, completion.text if answer is None else ""
        if completion.finish_reason == "refused" or key in first:
            continue
        first[key] = Response(
            prompt_id=prompt.prompt_id,
            response_id=f"{prompt.prompt_id[:16]}.r{sample}",
            sample=sample,
            text=completion.text,
            tokens=completion.tokens,
            finish_reason=completion.finish_reason,
            token_ids=completion.token_ids,
        )
    return list(first.values())
