"""Configurations, generation configs and tokenizers: loaded, and saved as training saves them."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertConfig, BertForSequenceClassification, T5Config

from meta_reward_core.context import ModelRef
from meta_reward_core.errors import NeedsAttentionError
from meta_reward_core.models.check.loading import (
    UnusableConfigError,
    check_config_saving,
    check_generation_config,
    load_config,
)
from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.models.check.tokenizer import (
    UnusableTokenizerError,
    check_tokenizer,
    load_tokenizer,
)
from meta_reward_core.planning.model_check.gate import require_savable
from meta_reward_core.recipes.schema import Recipe
from tests.core.tiny_model import make_model_folder
from tests.model_files import edit_json


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "sound")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "nobody-knows-it"}, "transformers cannot read the configuration"),
        ({"model_type": None, "architectures": None}, "transformers cannot read the configuration"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "is not a language model"),
        ({"architectures": ["LlamaForTokenClassification"]}, "is not a language model"),
        ({"architectures": ["LlamaForRewardModelling"]}, "is not a language model"),
        ({"num_attention_heads": "four"}, "transformers cannot read the configuration"),
    ],
)
def test_a_configuration_that_is_no_language_models_is_refused(
    model: Path, values: dict[str, Any], message: str
) -> None:
    edit_json(model / "config.json", **values)
    with pytest.raises(UnusableConfigError) as caught:
        load_config(model)
    found = caught.value.check
    assert (found.level, found.file) == (Level.RED, "config.json")
    assert message in found.message
    assert found.remedy


def test_a_classifier_is_named_as_a_possible_reward_model(model: Path) -> None:
    for name, hinted in [("LlamaForSequenceClassification", True), ("LlamaForMaskedLM", False)]:
        edit_json(model / "config.json", architectures=[name])
        with pytest.raises(UnusableConfigError) as caught:
            load_config(model)
        assert ("reward_model.md" in caught.value.check.remedy) == hinted


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (T5Config(), "t5 is an encoder-decoder model"),
        (BertConfig(architectures=["BertForMaskedLM"]), "BertForMaskedLM is not a language model"),
        (BertConfig(architectures=[BertForSequenceClassification.__name__]), "is not a language"),
    ],
)
def test_models_of_other_kinds_are_refused(tmp_path: Path, config: Any, message: str) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UnusableConfigError, match=message):
        load_config(tmp_path)


def test_a_configuration_is_saved_again(model: Path) -> None:
    (found,) = check_config_saving(load_config(model))
    assert (found.level, found.message) == (Level.GREEN, "llama, can be saved again")


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.6},
        {"top_p": 0.9},
        {"top_k": 20},
        {"do_sample": False, "temperature": 0.9, "top_p": 0.6},
    ],
)
def test_a_generation_config_that_cannot_be_saved_is_refused(
    model: Path, values: dict[str, Any]
) -> None:
    edit_json(model / "generation_config.json", **values)
    (found,) = check_generation_config(model, vocabulary=100)
    assert (found.level, found.file) == (Level.RED, "generation_config.json")
    assert "cannot be saved again" in found.message
    assert found.remedy == 'remove the sampling values, or set "do_sample" to true'


def test_a_generation_config_that_was_broken_after_the_draws_stops_the_training_before_it_starts(
    model: Path,
) -> None:
    context: Any = SimpleNamespace(
        recipe=Recipe(name="mine"), model=ModelRef.from_folder("M0", model)
    )
    require_savable(context)
    edit_json(model / "generation_config.json", temperature=0.6)
    with pytest.raises(NeedsAttentionError, match="cannot be saved again"):
        require_savable(context)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_return_sequences": 4}, "cannot be read (Greedy methods"),
        ({"pad_token_id": -1}, "cannot be saved again"),
    ],
)
def test_other_unusable_values_of_a_generation_config_are_named(
    model: Path, values: dict[str, Any], message: str
) -> None:
    edit_json(model / "generation_config.json", **values)
    (found,) = check_generation_config(model, vocabulary=100)
    assert found.level is Level.RED
    assert message in found.message
    assert found.remedy.startswith("correct or remove")


@pytest.mark.parametrize("values", [{}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}])
def test_a_generation_config_that_can_be_saved_passes(model: Path, values: dict[str, Any]) -> None:
    edit_json(model / "generation_config.json", **values)
    assert check_generation_config(model, vocabulary=100)[0].level is Level.GREEN
    (model / "generation_config.json").unlink()
    assert check_generation_config(model, vocabulary=100)[0].level is Level.GREEN


@pytest.mark.parametrize(("values", "named"), [
    ({"eos_token_id": 100}, "eos_token_id 100"), ({"eos_token_id": [2, 500]}, "eos_token_id 500"),
    ({"pad_token_id": 101}, "pad_token_id 101"),
])  # fmt: skip
def test_an_end_token_outside_the_vocabulary_is_refused(
    model: Path, values: dict[str, Any], named: str
) -> None:
    edit_json(model / "generation_config.json", **values)
    (found,) = check_generation_config(model, vocabulary=100)
    assert found.level is Level.RED
    assert named in found.message


def check(folder: Path) -> list[Check]:
    return check_tokenizer(load_tokenizer(folder), load_config(folder), folder)


def red(checks: list[Check]) -> list[Check]:
    return [one for one in checks if one.level is Level.RED]


def test_a_tokenizer_is_the_same_after_it_is_saved(model: Path) -> None:
    assert [one.level for one in check(model)] == [Level.GREEN] * 3


def test_tokens_without_a_row_in_the_embedding_are_refused(model: Path) -> None:
    edit_json(model / "config.json", vocab_size=30)
    (found,) = red(check(model))
    assert "have no row in the embedding of 30" in found.message
    assert found.file == "tokenizer.json"


def test_an_added_token_beyond_the_embedding_is_refused(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(model)
    (found,) = red(check(model))
    assert "1 of" in found.message
    assert "'<new>'" in found.message


def test_a_much_larger_embedding_is_noted(model: Path) -> None:
    edit_json(model / "config.json", vocab_size=100)
    notes = [one for one in check(model) if one.level is Level.AMBER]
    assert [one.name for one in notes] == ["vocabulary"]


def test_a_padding_token_that_is_the_end_token_is_noted(model: Path) -> None:
    edit_json(model / "tokenizer_config.json", pad_token="<eos>")
    notes = [one for one in check(model) if one.level is Level.AMBER]
    assert [one.name for one in notes] == ["tokenizer.special"]
    assert "both the padding and the end token" in notes[0].message


@pytest.mark.parametrize("content", ["{", "{}", '{"model": {"type": "Unknown"}}'])
def test_a_damaged_tokenizer_is_one_sentence(model: Path, content: str) -> None:
    (model / "tokenizer.json").write_text(content)
    with pytest.raises(UnusableTokenizerError) as caught:
        load_tokenizer(model)
    found = caught.value.check
    assert (found.level, found.file) == (Level.RED, "tokenizer.json")
    assert found.remedy == "download all tokenizer files again"
    assert "\n" not in found.describe()


def test_a_missing_tokenizer_is_refused(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(UnusableTokenizerError):
        load_tokenizer(model)


def test_a_file_that_checkpoints_do_not_get_is_refused(model: Path) -> None:
    templates = model / "additional_chat_templates"
    templates.mkdir()
    (model / "chat_template.jinja").rename(templates / "default.jinja")
    found = red(check(model))
    assert [one.name for one in found] == ["tokenizer"]
    assert "the chat template differs" in found[0].message


def test_a_checkpoint_may_lose_templates_that_nothing_uses(model: Path) -> None:
    templates = model / "additional_chat_templates"
    templates.mkdir()
    (templates / "tools.jinja").write_text("{{ messages }}")
    assert not red(check(model))
