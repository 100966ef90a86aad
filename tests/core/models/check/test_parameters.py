"""Every parameter has a tensor, for every kind of model, and what is wrong is named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

from meta_reward_core.models.check.loading import load_config
from meta_reward_core.models.check.parameters import check_parameters, compare_checkpoint
from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.models.check.weights_files import read_weights
from tests.core.engines.architectures import MODELS, RARER_MODELS, UNSHARED_MODELS, Make
from tests.core.tiny_model import llama_config, make_model_folder, make_tokenizer, save_model
from tests.model_files import edit_json

Weights = dict[str, torch.Tensor]
WEIGHTS = "model.safetensors"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose head is a matrix of its own."""
    return make_model_folder(tmp_path_factory.mktemp("models") / "sound")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def check(folder: Path) -> list[Check]:
    return check_parameters(load_config(folder), read_weights(folder)[0], folder)


def change(folder: Path, edit: Callable[[Weights], Weights]) -> None:
    save_file(edit(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("make", [*MODELS.values(), *RARER_MODELS.values(),
                                  *UNSHARED_MODELS.values()],
                         ids=[*MODELS, *RARER_MODELS, *UNSHARED_MODELS])  # fmt: skip
def test_models_of_every_kind_are_complete(make: Make, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    save_model(make(tokenizer), tokenizer, tmp_path)
    assert [one.level for one in check(tmp_path)] == [Level.GREEN]


@pytest.mark.parametrize("make", [*MODELS.values(), *RARER_MODELS.values(),
                                  *UNSHARED_MODELS.values()],
                         ids=[*MODELS, *RARER_MODELS, *UNSHARED_MODELS])  # fmt: skip
def test_one_missing_tensor_is_found_in_models_of_every_kind(make: Make, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    save_model(make(tokenizer), tokenizer, tmp_path)
    names = sorted(load_file(tmp_path / WEIGHTS))
    change(tmp_path, lambda found: {k: v for k, v in found.items() if k != names[-1]})
    (found,) = check(tmp_path)
    assert found.level is Level.RED
    assert "which would be initialized randomly" in found.message


def test_experts_that_are_stored_one_by_one_are_counted(tmp_path: Path) -> None:
    """As Mixtral's own checkpoints are, while the library keeps all experts in one tensor."""
    tokenizer = make_tokenizer()
    shape = llama_config(tokenizer).to_diff_dict()
    shape.pop("model_type", None)
    shape.pop("architectures", None)
    config = MixtralConfig(**shape, num_local_experts=3, num_experts_per_tok=1)
    save_model(MixtralForCausalLM(config), tokenizer, tmp_path)
    names = sorted(load_file(tmp_path / WEIGHTS))
    assert any("experts.2." in name for name in names), "the form of the Hub's checkpoints"
    assert [one.level for one in check(tmp_path)] == [Level.GREEN]
    gone = next(name for name in names if "experts.2." in name)
    change(tmp_path, lambda found: {k: v for k, v in found.items() if k != gone})
    assert {one.level for one in check(tmp_path)} == {Level.RED}


def _without(*gone: str) -> Callable[[Weights], Weights]:
    return lambda found: {name: one for name, one in found.items() if name not in gone}


def _prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda found: {prefix + name: one for name, one in found.items()}


def _with(name: str, *shape: int) -> Callable[[Weights], Weights]:
    return lambda found: found | {name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("edit", "message", "remedy"),
    [
        (_without(UP), f"no tensor for 1 parameter of the model ({UP})", "download the weights"),
        (_without(HEAD), f"no tensor for 1 parameter of the model ({HEAD})", "tie_word_embeddings"),
        (_with("model.extra.weight", 2), "1 tensor belongs to no parameter of LlamaForCausalLM",
         "config.json and weights of the same model"),
        (_with(UP, 3, 32), f"{UP} has the shape (3, 32), but config.json requires (64, 32)",
         "config.json and weights of the same model"),
        (_with("model.layers.0.mlp.up_proj.bias", 64), "1 tensor belongs to no parameter",
         "config.json and weights of the same model"),
        (_prefixed("_orig_mod."), "'_orig_mod.', which torch.compile adds", "without that wrapper"),
        (_prefixed("module."), "start with 'module.'", "remove 'module.' from the names"),
        (_prefixed("_fsdp_wrapped_module."), "which FSDP adds", "without that wrapper"),
        (_prefixed("policy_model."), "start with 'policy_model.'", "without the wrapper"),
        (_prefixed("base_model.model."), "start with 'base_model.model.'", "without the wrapper"),
        (_with("model.layers.0.mlp.up_proj.lora_A.weight", 4, 32),
         "an adapter that is not merged", "merge_and_unload"),
        (_with("model.layers.0.mlp.up_proj.base_layer.weight", 4, 32),
         "an adapter that is not merged", "merge_and_unload"),
        (_with("score.weight", 1, 32), "the head of a classifier or reward model (score.weight)",
         "a language model that generates text"),
        (lambda found: {f"{number}.weight": torch.zeros(2) for number in range(9)},
         "9 tensors with other names would be ignored", "weights of the same model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence_with_a_remedy(
    model: Path, edit: Callable[[Weights], Weights], message: str, remedy: str
) -> None:
    change(model, edit)
    found = check(model)[0]
    assert (found.level, found.file) == (Level.RED, WEIGHTS)
    assert message in found.message
    assert remedy in found.remedy


def test_a_wrapper_inside_the_names_is_found(model: Path) -> None:
    change(model, lambda found: {k.replace("mlp.", "mlp._orig_mod."): v for k, v in found.items()})
    (found,) = check(model)
    assert "contain '_orig_mod.', which torch.compile adds" in found.message


def test_a_tied_head_may_be_stored_or_not(model: Path) -> None:
    edit_json(model / "config.json", tie_word_embeddings=True)
    change(model, lambda found: found | {HEAD: found[EMBEDDING].clone()})
    assert [one.level for one in check(model)] == [Level.GREEN]
    change(model, _without(HEAD))
    assert [one.level for one in check(model)] == [Level.GREEN]
    change(model, lambda found: found | {HEAD: found.pop(EMBEDDING)})
    assert [one.level for one in check(model)] == [Level.GREEN], "either one is enough"


def test_a_tied_head_of_other_values_is_refused(model: Path) -> None:
    """Transformers keeps both apart, and an engine that ties them has another model."""
    edit_json(model / "config.json", tie_word_embeddings=True)
    note, found = check(model)
    assert note.level is Level.GREEN
    assert (found.level, found.file) == (Level.RED, WEIGHTS)
    assert found.remedy == 'set "tie_word_embeddings" to false in config.json'


def test_nothing_is_needed_of_old_buffers(model: Path) -> None:
    change(model, _with("model.layers.0.self_attn.rotary_emb.inv_freq", 4))
    assert [one.level for one in check(model)] == [Level.GREEN]


def test_a_checkpoint_has_the_tensors_of_its_base_model(model: Path, sound: Path) -> None:
    base, config = read_weights(sound)[0], load_config(sound)

    def compare() -> Check:
        found = compare_checkpoint(config, base, read_weights(model)[0], model)
        assert len(found) == 1
        return found[0]

    assert (compare().level, compare().message) == (
        Level.GREEN, "the same 21 tensors as the base model"
    )  # fmt: skip
    change(model, _without(UP))
    assert (compare().level, UP in compare().message) == (Level.RED, True)


def test_what_the_base_model_had_beyond_its_parameters_is_missed(
    model: Path, sound: Path, tmp_path: Path
) -> None:
    """A checkpoint may be complete by its configuration and still lack what training was given."""
    base = read_weights(sound)[0] | {"model.vision.weight": read_weights(sound)[0][UP]}
    (found,) = compare_checkpoint(load_config(sound), base, read_weights(model)[0], model)
    assert found.level is Level.RED
    assert "lacks 1 tensor of the base model (model.vision.weight)" in found.message
