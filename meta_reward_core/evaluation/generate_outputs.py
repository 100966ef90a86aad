"""Generate a model's responses to the prompts of an evaluation, in one or several turns.

If the engine refused a prompt, the response is an empty text, which judges may penalize; these are
counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from meta_reward_core.engines.base import Completion, Conversation, Engine, Progress, SamplingParams
from meta_reward_core.engines.completion_cache import CachingEngine
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.evaluation.alpaca_eval_io import ModelOutput
from meta_reward_core.evaluation.scorecard import DataIssue, make_issue_if_any
from meta_reward_core.experiment import Experiment
from meta_reward_core.method.generation import build_actor_conversation, extend_conversation


@dataclass(frozen=True)
class NamedEngine:
    """An engine with the name of its model.

    Attributes:
        name: name of the model in files of answers or judgments.
        engine: an engine that caches completions; the model is loaded at the first missing
            completion.
        experiment: the experiment of the model, if any.
    """

    name: str
    engine: CachingEngine
    experiment: Experiment | None = None

    @cached_property
    def training_prompt_ids(self) -> frozenset[str]:
        """Return the hashes of the experiment's training prompts; empty without an experiment."""
        if self.experiment is None:
            return frozenset()
        return frozenset(self.experiment.get_files(0).read("prompts")["prompt_id"].to_pylist())


REFUSED: Final = "refused"
CUT_OFF: Final = "length"


@dataclass(frozen=True, slots=True)
class ModelResponses:
    """Responses of a model.

    Attributes:
        turns: for each prompt, its responses in the order of the turns.
        refused: number of responses that are missing because the engine refused the prompt as too
            long.
        cut_off: number of responses that the token limit cut off.
    """

    turns: tuple[tuple[str, ...], ...]
    refused: int
    cut_off: int

    @property
    def issues(self) -> list[DataIssue]:
        """List problems of the responses that affect the interpretation of the metrics."""
        return [
            *make_issue_if_any(
                range(self.refused),
                "answers_refused",
                "Prompts that are too long for the model, with an empty answer: {rows}.",
                "An empty answer loses. Use a longer context, or exclude these prompts.",
            ),
            *make_issue_if_any(
                range(self.cut_off),
                "answers_cut_off",
                "Answers that end at the token limit: {rows}.",
                "The judge sees incomplete answers. Raise --max-new-tokens.",
            ),
        ]


def generate_turns(
    engine: Engine,
    prompts: Sequence[Sequence[str]],
    *,
    sampling: SamplingParams,
    seed: int,
    system_prompt: str | None = None,
    progress: Progress | None = None,
) -> ModelResponses:
    """Generate the response to each turn, given the previous turns and responses.

    Args:
        engine: generates the responses; closed by the caller.
        prompts: for each prompt, the user's message in each turn; at least one turn.
        sampling: sampling parameters for the responses.
        seed: random seed; each turn derives its own seed from it.
        system_prompt: a system message before every prompt.
        progress: see `Engine.sample`; completions are counted per turn.

    Raises:
        EngineError: the engine failed as a whole.
    """
    talks: list[Conversation] = [
        build_actor_conversation(turns[0], system_prompt=system_prompt) for turns in prompts
    ]
    said: list[list[Completion]] = [[] for _ in prompts]
    for turn in range(max(map(len, prompts), default=0)):
        asked = [place for place, turns in enumerate(prompts) if len(turns) > turn]
        if turn > 0:
            for place in asked:
                talks[place] = extend_conversation(
                    talks[place], reply=said[place][-1].text, instruction=prompts[place][turn]
                )
        sampled = engine.sample(
            [talks[place] for place in asked],
            1,
            sampling=sampling,
            seed=derive_seed(seed, "turn", turn),
            progress=progress,
        )
        for place, (completion,) in zip(asked, sampled, strict=True):
            said[place].append(completion)
    everything = [completion for row in said for completion in row]
    return ModelResponses(
        turns=tuple(tuple(completion.text for completion in row) for row in said),
        refused=sum(completion.finish_reason == REFUSED for completion in everything),
        cut_off=sum(completion.finish_reason == CUT_OFF for completion in everything),
    )


def to_model_outputs(
    instructions: Sequence[str],
    answers: ModelResponses,
    *,
    generator: str,
    datasets: Mapping[str, str] | None = None,
) -> list[ModelOutput]:
    """Convert first turns to alpaca_eval's outputs.

    Args:
        instructions: the instructions, in the order of the answers.
        answers: the responses of one model.
        generator: name of the model.
        datasets: dataset of each instruction, if known.
    """
    return [
        ModelOutput(instruction, turns[0], generator, dataset=(datasets or {}).get(instruction))
        for instruction, turns in zip(instructions, answers.turns, strict=True)
    ]
