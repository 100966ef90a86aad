"""Exceptions of model libraries become one sentence with the file and what to do."""

import json
from pathlib import Path

import jinja2
import pytest
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from meta_reward_core.errors import EngineError, ModelFolderError, TrainingError
from meta_reward_core.models.library_errors import (
    explain_library_error,
    translate_library_errors,
)
from tests.core.tiny_model import make_model_folder
from tests.model_files import edit_json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model_folder(tmp_path / "model")


def raise_from_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"x" * 100)
    with safe_open(model / "model.safetensors", framework="pt"):
        pass


def raise_from_generation_config(model: Path) -> None:
    edit_json(model / "generation_config.json", temperature=0.5)
    GenerationConfig.from_pretrained(model).save_pretrained(model)


def raise_from_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text(json.dumps({"model": {"type": "Nothing"}}))
    AutoTokenizer.from_pretrained(model, local_files_only=True)


def raise_from_config(model: Path) -> None:
    edit_json(model / "config.json", model_type="nobody-knows-it")
    AutoModelForCausalLM.from_pretrained(model, local_files_only=True)


def raise_from_shapes(model: Path) -> None:
    edit_json(model / "config.json", intermediate_size=8)
    AutoModelForCausalLM.from_pretrained(model, local_files_only=True)


def raise_from_template(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    tokenizer.chat_template = "{% for x in %}"
    tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


def raise_from_missing_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(model, local_files_only=True)


@pytest.mark.parametrize(
    ("provoke", "file", "words", "remedy"),
    [
        (raise_from_weights, "model.safetensors", "damaged or incomplete", "download the file"),
        (raise_from_generation_config, "generation_config.json", "cannot be saved", "do_sample"),
        (raise_from_tokenizer, "tokenizer.json", "cannot be loaded", "download all tokenizer"),
        (raise_from_config, "config.json", "does not support this model", "a supported model"),
        (raise_from_shapes, "model.safetensors", "do not fit config.json", "of the same model"),
        (raise_from_template, "chat_template.jinja", "cannot be rendered", "correct it"),
        (raise_from_missing_weights, "", "a file of the model is missing", "download the model"),
    ],
)  # fmt: skip
def test_what_the_libraries_really_raise_is_explained(
    model: Path, provoke: object, file: str, words: str, remedy: str
) -> None:
    assert callable(provoke)
    with (
        pytest.raises(ModelFolderError) as caught,
        translate_library_errors(ModelFolderError, folder=model),
    ):
        provoke(model)
    sentence = str(caught.value)
    assert sentence.startswith(str(model / file) if file else str(model))
    assert words in sentence
    assert remedy in sentence
    assert "\n" not in sentence
    assert caught.value.__cause__ is not None, "the library's own words stay in the log"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (RuntimeError("[enforce fail] can't allocate memory: you tried"), "out of memory"),
        (MemoryError(), "out of memory"),
        (SafetensorError("Error while deserializing header"), "the weights are damaged"),
        (jinja2.UndefinedError("'tools' is undefined"), "chat_template.jinja: the chat template"),
        (IndexError("index out of range in self"), "outside the model's tables"),
        (ModuleNotFoundError("No module named 'sentencepiece'"), "install the named package"),
        (NotImplementedError("Cannot copy out of meta tensor; no data!"), "has no weights"),
    ],
)
def test_rarer_exceptions_are_explained(error: Exception, words: str) -> None:
    assert words in str(explain_library_error(error))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x must be positive"),
        KeyError("x"),
        OSError(5, "x"),
        RuntimeError("something else"),
        ZeroDivisionError(),
    ],
)
def test_an_unknown_exception_stays_as_it_is(error: Exception) -> None:
    assert explain_library_error(error) is None
    with pytest.raises(type(error)) as caught, translate_library_errors(TrainingError):
        raise error
    assert caught.value is error


def test_our_own_errors_are_not_translated() -> None:
    with (
        pytest.raises(EngineError, match="out of memory on purpose"),
        translate_library_errors(TrainingError),
    ):
        raise EngineError("out of memory on purpose")
