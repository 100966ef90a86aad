"""A language model of a few thousand parameters, made from nothing: for tests alone."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

SPECIAL = ("<pad>", "<unk>", "<eos>", "<system>", "<user>", "<assistant>")
COUNTED = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NAMED = ["red", "green", "blue", "good", "bad", "plus", "minus", "is", "answer", "judge", "this"]
WORDS = [*COUNTED, *NAMED, "the", "a", "of", "to", "question", "Score:", *"012345"]
# Each turn ends in <eos>; the generation prompt is exactly what precedes an assistant's words.
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} <eos> "
    "{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One word, one token; unknown words are `<unk>`."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # words joined by blanks
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        additional_special_tokens=list(SPECIAL[3:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def llama_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """Two layers of width 32."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Write the model as a folder that may be loaded, and return the folder."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_model_folder(folder: Path, *, seed: int = 0) -> Path:
    """A random Llama with its tokenizer in `folder`."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    return save_model(LlamaForCausalLM(llama_config(tokenizer)), tokenizer, folder)


def make_reward_model_folder(folder: Path, *, seed: int = 0, outputs: int = 1) -> Path:
    """A random Llama whose scores of whole chats lie far apart, with its tokenizer in `folder`."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = llama_config(tokenizer)
    config.num_labels = outputs
    model = LlamaForSequenceClassification(config)
    torch.nn.init.normal_(model.score.weight, std=10.0)
    return save_model(model, tokenizer, folder)
