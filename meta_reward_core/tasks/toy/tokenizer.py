"""The toy task's tokenizer, and the architecture of the small model that learns the task."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from meta_reward_core.tasks.toy.task import (
    CORRECTNESS_WORDS,
    INSTRUCTION_WORDS,
    LANGUAGES,
    LEADS,
    LEXICON,
    PHRASES,
    REPLY_WORDS,
    SCORES,
    TALLIES,
    TEMPLATE_WORDS,
    VERDICTS,
)

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

PAD_TOKEN, UNKNOWN_TOKEN, USER_TOKEN, ASSISTANT_TOKEN, END_TOKEN = SPECIAL_TOKENS = (
    "<|pad|>",
    "<|unknown|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>\n{{ message['content'] }} <|end|>\n"
    "{% else %}<|user|>\n{{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def build_vocabulary() -> tuple[str, ...]:
    """List every token by id, determined by the texts of `task` and this module only."""
    lexicon = [word for slot in LEXICON for row in slot for word in row]
    phrases = [word for phrase in PHRASES for word in phrase.split()]
    groups: tuple[Sequence[str], ...] = (
        SPECIAL_TOKENS,
        INSTRUCTION_WORDS,
        LANGUAGES,
        TEMPLATE_WORDS,
        REPLY_WORDS,
        VERDICTS,
        CORRECTNESS_WORDS,
        SCORES,
        TALLIES,
        LEADS,
        phrases,
        lexicon,
    )
    return tuple(dict.fromkeys(itertools.chain.from_iterable(groups)))


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Build the word-level tokenizer; decoding restores lines, encoding treats them as spaces."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(build_vocabulary())}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN_TOKEN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex("; "), ";\n"),
        ]
    )
    core.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        eos_token=END_TOKEN,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def build_model_config() -> "LlamaConfig":
    """Build the configuration of the tiny Llama that learns this task from scratch."""
    from transformers import LlamaConfig

    return LlamaConfig(**get_architecture())


def get_architecture() -> dict[str, Any]:
    """Return the values that define the tiny Llama; others are defaults of `transformers`."""
    tokens = build_vocabulary()
    return {
        "vocab_size": len(tokens),
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "pad_token_id": tokens.index(PAD_TOKEN),
        "bos_token_id": None,
        "eos_token_id": tokens.index(END_TOKEN),
    }
