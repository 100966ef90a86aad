"""Tokenizers with the chat templates that TRL carries, small enough for models of a test.

The templates are read from the installed package. The tokenizer spells bytes, as those of real
models do, so that a text has many spellings and a sampled one is rarely the tokenizer's own.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from tests.core.engines.architectures import Make, make_random


@dataclass(frozen=True)
class ChatFormat:
    """What belongs to a chat template.

    Attributes:
        template: name of the file in TRL's package.
        end: the token that ends a completion.
        control: further control tokens, which no text of a user may become.
        plain: added tokens that are text: marks of reasoning.
        bos: the token that the template writes first, if it writes one.
        takes_system: whether the template takes a system turn.
    """

    template: str
    end: str
    control: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    bos: str | None = None
    takes_system: bool = True


THINK = ("<think>", "</think>")
CHATML = ("<|im_start|>",)
LLAMA = ("<|start_header_id|>", "<|end_header_id|>")
DEEPSEEK = ("<｜User｜>", "<｜Assistant｜>")
FORMATS = {
    "qwen3": ChatFormat("qwen3", "<|im_end|>", CHATML, THINK),
    "llama3_1": ChatFormat("llama3_1", "<|eot_id|>", LLAMA, bos="<|begin_of_text|>"),
    "gemma3": ChatFormat("gemma3", "<end_of_turn>", ("<start_of_turn>",), bos="<bos>"),
    "deepseek_r1_distill": ChatFormat(
        "deepseek_r1_distill",
        "<｜end▁of▁sentence｜>",
        DEEPSEEK,
        THINK,
        bos="<｜begin▁of▁sentence｜>",
    ),
    "gemma": ChatFormat(
        "gemma", "<end_of_turn>", ("<start_of_turn>",), bos="<bos>", takes_system=False
    ),
    "phi3": ChatFormat("phi3", "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>")),
    "qwen2_5": ChatFormat("qwen2_5", "<|im_end|>", CHATML),
    "qwen3_5_think": ChatFormat("qwen3_5_think", "<|im_end|>", CHATML, THINK),
    "glm4moe": ChatFormat(
        "glm4moe", "<|user|>", ("[gMASK]", "<sop>", "<|system|>", "<|assistant|>"), THINK
    ),
    "gptoss": ChatFormat("gptoss", "<|return|>", ("<|start|>", "<|message|>", "<|channel|>")),
}

CORPUS = [
    "What is the boiling point of water at sea level? It is one hundred degrees.",
    "Write a short poem about the sea, please, and explain the second line of it.",
    "Score: 4\nThe response answers the question in part and is well organised.",
    "You are a helpful assistant. Cutting Knowledge Date: December 2023 Today Date: 26 Jul 2024",
    "system user assistant model",
    "```python\nfor item in range(10):\n    print(item)\n```",
]


def read_trl_template(name: str) -> str:
    """A chat template as TRL's package holds it."""
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@cache
def _train_core(control: tuple[str, ...], plain: tuple[str, ...]) -> str:
    """A byte-level BPE of a few hundred tokens."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(control))
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        special_tokens=list(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    core.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in plain])
    text: str = core.to_str()
    return text


def make_chat_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer with a chat template of TRL's; `<pad>` is token 0."""
    form = FORMATS[name]
    bos = () if form.bos is None else (form.bos,)
    control = ("<pad>", form.end, *bos, *form.control)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_train_core(control, form.plain)),
        pad_token="<pad>",
        eos_token=form.end,
        bos_token=form.bos,
        additional_special_tokens=list(form.control),
    )
    tokenizer.chat_template = read_trl_template(form.template)
    return tokenizer


def make_chat_model(name: str, make: Make, folder: Path) -> Path:
    """A random model with such a tokenizer, in a folder."""
    tokenizer = make_chat_tokenizer(name)
    model: PreTrainedModel = make_random(make, tokenizer)
    end: Any = tokenizer.eos_token_id
    model.config.eos_token_id = end
    model.config.bos_token_id = tokenizer.bos_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
