"""A reward model gives each response its own score, and other models are refused as such."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from meta_reward_core.engines.base import Conversation
from meta_reward_core.engines.reward_model import TransformersRewardModel, load_reward_model
from meta_reward_core.errors import EngineError, ModelFolderError
from meta_reward_core.models.chat import ChatOptions
from meta_reward_core.models.check.result import CheckReport, Level
from meta_reward_core.models.check.reward_model import check_reward_model
from tests.core.tiny_model import make_model_folder, make_reward_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model_folder(tmp_path_factory.mktemp("models") / "reward")


def load(folder: Path, **changes: int) -> TransformersRewardModel:
    limit = changes.get("max_model_len")
    return load_reward_model(folder, dtype="float32", device="cpu", threads=1, max_model_len=limit)


def ask(question: str, response: str) -> Conversation:
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": response},
    ]


def check(folder: Path) -> CheckReport:
    return check_reward_model(folder, allowed_roots=[folder.parent])


def list_problems(folder: Path) -> str:
    return "\n".join(one.describe() for one in check(folder).select(Level.RED))


def test_scores_are_those_of_the_model_itself(folder: Path) -> None:
    asked = [ask("question", "one two three"), ask("question", "red"), ask("this", "the answer")]
    scores = load(folder).score(asked, options=ChatOptions())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for conversation, score in zip(asked, scores, strict=True):
        plain = [{"role": one["role"], "content": one["content"]} for one in conversation]
        text = tokenizer.apply_chat_template(plain, tokenize=False)
        with torch.inference_mode():
            expected = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False))
        assert score == pytest.approx(float(expected.logits[0, 0]), abs=1e-6)
    assert len(set(scores)) == 3


def test_a_score_does_not_depend_on_the_other_responses(folder: Path) -> None:
    model = load(folder)
    long, short = ask("question", "one " * 40), ask("question", "red")
    both = model.score([long, short], options=ChatOptions())
    assert both[1:] == model.score([short], options=ChatOptions())


def test_a_response_that_is_too_long_has_no_score(folder: Path) -> None:
    model = load(folder, max_model_len=20)
    asked = [ask("question", "one " * 40), ask("question", "red")]
    scores = model.score(asked, options=ChatOptions())
    assert scores[0] is None
    assert scores[1] is not None


def test_a_closed_model_scores_nothing(folder: Path) -> None:
    model = load(folder)
    model.close()
    with pytest.raises(EngineError, match="is closed"):
        model.score([ask("question", "red")], options=ChatOptions())


def test_weights_that_give_no_number_are_an_error(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(EngineError, match="not finite"):
        load(broken).score([ask("question", "red")], options=ChatOptions())


def test_a_reward_model_passes_the_check(folder: Path) -> None:
    assert list_problems(folder) == ""


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "language")
    assert "LlamaForCausalLM, not a sequence classifier" in list_problems(folder)
    assert "no output layer" in list_problems(folder)
    with pytest.raises(ModelFolderError, match="no weights for score"):
        load(folder)


def test_a_classifier_with_two_outputs_is_refused(tmp_path: Path) -> None:
    folder = make_reward_model_folder(tmp_path / "two", outputs=2)
    assert "the model has 2 outputs instead of one score" in list_problems(folder)
    with pytest.raises(ModelFolderError, match="has 2 outputs"):
        load(folder)


def test_an_output_that_differs_from_its_configuration_is_refused(tmp_path: Path) -> None:
    folder = make_reward_model_folder(tmp_path / "two", outputs=2)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "score"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "score.weight has the shape (2, 32) instead of one row" in list_problems(folder)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("modeling_reward.py", "custom model code"), ("extra.bin", "may be a pickle")],
)
def test_code_and_pickles_are_refused(
    folder: Path, tmp_path: Path, name: str, problem: str
) -> None:
    unsafe = Path(shutil.copytree(folder, tmp_path / "unsafe"))
    (unsafe / name).write_bytes(b"x")
    assert problem in list_problems(unsafe)


def test_code_that_the_configuration_asks_for_is_refused(folder: Path, tmp_path: Path) -> None:
    """As the configuration of Starling-RM-34B would need it."""
    remote = Path(shutil.copytree(folder, tmp_path / "remote"))
    config = json.loads((remote / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_reward.RewardModel"}
    (remote / "config.json").write_text(json.dumps(config))
    assert "requires custom code" in list_problems(remote)
