"""Experiments with numbers as texts, one token each, to time stages with known prompt lengths.

Scripts create the stages before the timed one, with the project's own steps and files; the timed
stage samples from a Llama with random weights. Its prompts are those of the method: template,
rubric, instruction, response, judgments. The same arguments give the same prompts.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from meta_reward_core.context import ModelRef, StageResources
from meta_reward_core.data.prompt_files import PromptFile, compute_prompt_id
from meta_reward_core.engines.base import Completion, Conversation, Engine, Progress, SamplingParams
from meta_reward_core.engines.prompt_encoder import PromptEncoder, TokenIds
from meta_reward_core.engines.scripted import Reply, Script, ScriptedEngine
from meta_reward_core.engines.seeds import derive_seed
from meta_reward_core.experiment import Experiment, create_experiment
from meta_reward_core.iteration import STAGES, Stage
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.recipes.schema import EngineRecipe, Recipe
from meta_reward_core.storage.artifact_store import ArtifactStore
from meta_reward_core.storage.records import Prompt

VOCABULARY = 8192
END, UNKNOWN = "<end>", "<unknown>"
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1},
    "5M": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4},
    "30M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8},
    "135M": {  # SmolLM2's shape
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
INSTRUCTION_WORDS = 50


@dataclass(frozen=True)
class Lengths:
    """Minimum and maximum number of words of the given texts.

    With the defaults, a complete judge prompt has about 1,000 tokens, and a meta-judge prompt with
    two judgments about 1,500.
    """

    response: tuple[int, int] = (600, 780)
    judgment: tuple[int, int] = (150, 210)


@dataclass(frozen=True)
class Size:
    """Amount of work.

    Attributes:
        prompts: instructions.
        responses: of each, K; at least 2.
        judgments: of each response, N.
        new_tokens: the longest reply.
        prompts_per_shard: instructions of a shard.
    """

    prompts: int
    responses: int = 2
    judgments: int = 11
    new_tokens: int = 100
    prompts_per_shard: int = 64

    def recipe(self, engine: Mapping[str, Any]) -> Recipe:
        limits = {"max_new_tokens": self.new_tokens}
        return Recipe.model_validate(
            {
                "name": "numbers",
                "prompts_per_shard": self.prompts_per_shard,
                "sample": {"prompts": self.prompts},
                "actor": {"samples": self.responses, **limits},
                "judge": {"samples": self.judgments, **limits},
                "meta_judge": {"max_chosen_judgment_chars": None, **limits},
                "engine": dict(engine),
                "probe": {"prompts": 0, "check_shards": False},
            }
        )


def make_model_folder(
    folder: Path, size: str, *, device: str = "cpu", dtype: str, vocabulary: int = VOCABULARY
) -> Path:
    """Create a Llama with random weights and a tokenizer with one token per word."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    shape = {"vocab_size": vocabulary} | heads | MODELS[size]
    config = LlamaConfig(
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        **shape,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    words = [END, UNKNOWN, *(str(number) for number in range(2, shape["vocab_size"]))]
    core = Tokenizer(
        WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN)
    )
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)
    tokenizer.chat_template = "{{ messages | map(attribute='content') | join(' ') }}"
    tokenizer.save_pretrained(folder)
    return folder


def begin(
    root: Path, name: str, *, model: Path, size: Size, engine: Mapping[str, Any], seed: int = 1
) -> Experiment:
    """Create an experiment without finished stages; its seed determines the engine's samples."""
    rng = random.Random(1)
    texts = [_numbers(rng, INSTRUCTION_WORDS) for _ in range(size.prompts)]
    return create_experiment(
        ArtifactStore(str(root)),
        name,
        recipe=size.recipe(engine),
        seed=seed,
        seed_model=ModelRef("M0", model, hash_model_folder(model)),
        prompts=PromptFile([Prompt(compute_prompt_id(text), text) for text in texts], 0, []),
    )


def _numbers(rng: random.Random, count: int) -> str:
    return " ".join(str(rng.randrange(2, VOCABULARY)) for _ in range(count))


def make_scripts(lengths: Lengths) -> Mapping[str, Script]:
    """Return scripts of responses and judgments by stage name.

    They do not depend on the experiment's seed, so that prompts stay the same.
    """

    def write_response(conversation: Conversation, sample: int, seed: int) -> Reply:  # noqa: ARG001
        rng = random.Random(derive_seed(0, conversation[-1]["content"], sample))
        return _numbers(rng, rng.randint(*lengths.response)), "stop"

    def write_judgment(conversation: Conversation, sample: int, seed: int) -> Reply:  # noqa: ARG001
        """A judgment with a random score."""
        rng = random.Random(derive_seed(0, conversation[-1]["content"], sample))
        words = _numbers(rng, rng.randint(*lengths.judgment))
        return f"{words}\nScore: {rng.randrange(6)}", "stop"

    return {"generate": write_response, "judge": write_judgment}


def prepare(experiment: Experiment, *, before: str, lengths: Lengths | None = None) -> None:
    """Run all stages before a stage with scripts; no model is loaded."""
    context, scripts = experiment.build_context(1), make_scripts(lengths or Lengths())
    for stage in STAGES[: stage_names().index(before)]:
        script = scripts.get(stage.name, scripts["generate"])
        resources = StageResources(
            load_engine=partial(_given, ScriptedEngine(script)), scratch=Path()
        )
        for shard in range(stage.plan_shards(context)):
            stage.run_shard(context, shard, resources)


def _given(engine: Engine, model: ModelRef, recipe: EngineRecipe) -> Engine:  # noqa: ARG001
    return engine


def stage_names() -> list[str]:
    return [stage.name for stage in STAGES]


def stage_named(name: str) -> Stage:
    return STAGES[stage_names().index(name)]


@dataclass
class _Recorder:
    """Records what a stage requests from its engine, and returns no text."""

    asked: list[Conversation] = field(default_factory=list)

    def sample(
        self,
        conversations: Sequence[Conversation],
        n: int,
        *,
        sampling: SamplingParams,  # noqa: ARG002
        seed: int,  # noqa: ARG002
        progress: Progress | None = None,  # noqa: ARG002
    ) -> list[list[Completion]]:
        self.asked += conversations
        return [[Completion("", 1, "stop")] * n for _ in conversations]

    def close(self) -> None:
        """Nothing is held."""


def prompts_of(experiment: Experiment, stage: str) -> list[TokenIds]:
    """Return the prompts of a stage as token ids, in its order; nothing is written."""
    context, recorder = experiment.build_context(1), _Recorder()
    resources = StageResources(load_engine=partial(_given, recorder), scratch=Path())
    declared = stage_named(stage)
    for shard in range(declared.plan_shards(context)):
        declared.run(context, shard, resources)
    tokenizer = AutoTokenizer.from_pretrained(context.model.folder, local_files_only=True)
    return PromptEncoder(tokenizer).encode(recorder.asked)


def run_stage(experiment: Experiment, stage: str, resources: StageResources) -> int:
    """Run all shards of a stage again, files included; return the number of sampled tokens."""
    context, declared = experiment.build_context(1), stage_named(stage)
    return sum(
        declared.run_shard(context, shard, resources).counts["tokens"]
        for shard in range(declared.plan_shards(context))
    )
