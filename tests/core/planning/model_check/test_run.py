"""The whole check of a model: each kind of fault is one sentence, and good models pass."""

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig

from meta_reward_core.context import ModelRef
from meta_reward_core.errors import EngineError, ModelFolderError
from meta_reward_core.experiment import load_templates
from meta_reward_core.models.check.result import Check, CheckReport, Level, require_sound
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.planning.check_experiment import (
    build_check_request,
    check_new_experiment,
    is_verified_toy_model,
)
from meta_reward_core.planning.model_check.run import (
    ModelCheckRequest,
    check_model,
    run_check,
)
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.storage.roots import StorageRoots
from meta_reward_core.tasks.registry import get_task_templates
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.model_files import edit_json, write_safetensors

PROMPTS = ("sum of 1 and 2", "translate one")
SMOKE = load_recipe("smoke")


@pytest.fixture
def roots(tmp_path: Path) -> StorageRoots:
    roots = StorageRoots.from_settings()
    (tmp_path / "models").mkdir()
    return replace(
        roots,
        artifacts=str(tmp_path / "artifacts"),
        models=tmp_path / "models",
        scratch=tmp_path / "scratch",
    )


@pytest.fixture
def model(roots: StorageRoots) -> Path:
    """A copy of the shipped toy model, as users copy a model to change it."""
    return Path(shutil.copytree(get_shipped_seed_model(), roots.models / "mine"))


def request_for(model: Path, roots: StorageRoots, *changes: str) -> ModelCheckRequest:
    recipe = load_recipe("smoke", changes=changes)
    templates = load_templates(recipe, get_task_templates(recipe.task))
    return build_check_request(recipe, model, roots, templates=templates, prompts=PROMPTS)


def test_the_shipped_model_passes_everything(model: Path, roots: StorageRoots) -> None:
    report = check_model(request_for(model, roots))
    assert report.model == "mine"
    noted = [check.name for check in report.checks if check.level is not Level.GREEN]
    assert noted == ["chat_template.control"], "its words are tokens, so none can be spelt"
    names = {check.name for check in report.checks}
    assert {"folder", "weights.keys", "config", "generation_config", "tokenizer", "vocabulary",
            "positions", "prompts.actor", "rows.judge"} <= names  # fmt: skip


def check_smoke(
    model: ModelRef, roots: StorageRoots, said: list[str], *, engine_here: bool
) -> CheckReport | None:
    return check_new_experiment(
        SMOKE,
        model,
        roots,
        templates=load_templates(SMOKE, get_task_templates(SMOKE.task)),
        prompts=PROMPTS,
        has_own_prompts=False,
        engine_here=engine_here,
        say=said.append,
    )


def _point_to_lfs(name: str) -> Callable[[Path], object]:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    return lambda folder: (folder / name).write_text(pointer)


def _learn_positions(count: int) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        config = GPT2Config(
            vocab_size=180, n_embd=32, n_layer=1, n_head=2, n_positions=count, bos_token_id=4,
            eos_token_id=4,
        )  # fmt: skip
        GPT2LMHeadModel(config).save_pretrained(folder)

    return change


def _quantise(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "awq", "bits": 4})


@pytest.mark.parametrize(
    ("change", "file", "words"),
    [
        (_point_to_lfs("model.safetensors"), "model.safetensors", "git lfs pull"),
        (_point_to_lfs("config.json"), "config.json", "git lfs pull"),
        (_point_to_lfs("tokenizer.json"), "tokenizer.json", "git lfs pull"),
        (lambda folder: (folder / "tokenizer.json").write_text(""), "tokenizer.json", "is empty"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json", "valid JSON"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-7]
            ),
            "model.safetensors",
            "truncated",
        ),
        (_quantise, "config.json", "quantised (AWQ)"),
        (lambda folder: edit_json(folder / "config.json", num_hidden_layers=4),
         "model.safetensors", "no tensor for 9 parameters"),
        (lambda folder: edit_json(folder / "config.json", num_hidden_layers=2),
         "model.safetensors", "9 tensors belong to no parameter"),
        (lambda folder: edit_json(folder / "config.json", intermediate_size=64),
         "model.safetensors", "but config.json requires"),
        (lambda folder: edit_json(folder / "generation_config.json", temperature=0.9),
         "generation_config.json", "cannot be saved again"),
        (_learn_positions(32), "config.json", "no prompt fits"),
        (_learn_positions(500), "config.json", "500 learned positions"),
    ],
)  # fmt: skip
def test_each_fault_is_one_sentence_with_the_file_and_what_to_do(
    model: Path, roots: StorageRoots, change: Callable[[Path], object], file: str, words: str
) -> None:
    change(model)
    report = check_model(request_for(model, roots))
    problems = report.select(Level.RED)
    assert len(problems) == 1, [check.describe() for check in problems]
    sentence = problems[0].describe()
    assert file in sentence
    assert words in sentence
    with pytest.raises(ModelFolderError, match=r"^model mine: ") as caught:
        require_sound(report)
    assert "\n" not in str(caught.value)


def test_roles_whose_prompts_never_fit_are_each_named(model: Path, roots: StorageRoots) -> None:
    """The prompts of judge and meta-judge have about 10 tokens, their completions up to 48."""
    edit_json(model / "config.json", max_position_embeddings=51)
    problems = check_model(request_for(model, roots)).select(Level.RED)
    assert [check.name for check in problems] == ["prompts.judge", "prompts.meta_judge"]
    assert "engines refuse all 2 prompts of the judge" in problems[0].message


def test_several_problems_are_a_line_each() -> None:
    one = Check("a", "A", Level.RED, "first", "do this", "f")
    with pytest.raises(ModelFolderError) as caught:
        require_sound(CheckReport("m", (one, replace(one, message="second"))))
    assert str(caught.value).splitlines() == [
        "model m has 2 problems:",
        "  f: first; do this.",
        "  f: second; do this.",
    ]


def test_a_folder_outside_the_root_is_not_looked_into(roots: StorageRoots, tmp_path: Path) -> None:
    shutil.copytree(get_shipped_seed_model(), tmp_path / "elsewhere")
    report = check_model(request_for(tmp_path / "elsewhere", roots))
    assert [check.level for check in report.checks] == [Level.RED]
    assert "is outside the allowed model folders" in report.checks[0].message


def test_a_request_is_the_same_in_another_process(model: Path, roots: StorageRoots) -> None:
    request = request_for(model, roots, "actor.samples=3")
    again = ModelCheckRequest.from_json(json.loads(json.dumps(request.to_json())))
    assert replace(again, templates=request.templates) == request
    assert again.templates.sha256 == request.templates.sha256


@pytest.mark.slow
def test_another_process_finds_the_same(
    model: Path, roots: StorageRoots, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(model, roots)
    here = check_model(request)
    monkeypatch.delitem(sys.modules, "transformers")
    assert run_check(request, in_process=False) == here


@pytest.mark.slow
def test_a_template_that_needs_too_much_memory_is_a_problem_of_the_model(
    model: Path, roots: StorageRoots, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "chat_template.jinja").write_text("{{ 'x' * 30000000000 }}")
    monkeypatch.delitem(sys.modules, "transformers")
    report = run_check(request_for(model, roots), in_process=False)
    assert report.level is Level.RED
    assert "MemoryError" in " ".join(check.describe() for check in report.checks)


@pytest.mark.slow
def test_a_template_that_does_not_end_is_stopped(
    model: Path, roots: StorageRoots, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
    (model / "chat_template.jinja").write_text(loops)
    monkeypatch.delitem(sys.modules, "transformers")
    request = request_for(model, roots)
    with pytest.raises(EngineError, match=r"took longer than 60 s|of CPU time"):
        run_check(request, in_process=False, timeout=60)


@pytest.mark.slow
def test_a_model_of_8_billion_parameters_takes_seconds_and_little_memory(
    roots: StorageRoots,
) -> None:
    """The shapes of Llama-3-8B, in a file of 16 GB that has no blocks on the disk."""
    folder = Path(shutil.copytree(get_shipped_seed_model(), roots.models / "large"))
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=4, pad_token_id=0,
        dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    layer = {
        "self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096),
        "self_attn.v_proj": (1024, 4096), "self_attn.o_proj": (4096, 4096),
        "mlp.gate_proj": (14_336, 4096), "mlp.up_proj": (14_336, 4096),
        "mlp.down_proj": (4096, 14_336), "input_layernorm": (4096,),
        "post_attention_layernorm": (4096,),
    }  # fmt: skip
    tensors = {
        f"model.layers.{number}.{name}.weight": ("BF16", shape)
        for number in range(32)
        for name, shape in layer.items()
    }
    top = {"model.embed_tokens": (128_256, 4096), "lm_head": (128_256, 4096), "model.norm": (4096,)}
    tensors |= {f"{name}.weight": ("BF16", shape) for name, shape in top.items()}
    write_safetensors(folder / "model.safetensors", tensors)
    assert (folder / "model.safetensors").stat().st_size > 16e9
    request = request_for(folder, roots)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "meta_reward_core.planning.model_check"],
        input=json.dumps(request.to_json()), capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.monotonic() - began
    report = CheckReport.from_json(json.loads(done.stdout.splitlines()[-1]))
    assert report.level is not Level.RED, [check.describe() for check in report.checks]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    assert seconds < 60, "10 s on a quiet machine; tests share theirs"
    assert peak < 1.0, "GB, of the largest child of these tests so far"


def test_an_experiment_with_an_unusable_model_is_not_created(
    model: Path, roots: StorageRoots
) -> None:
    edit_json(model / "generation_config.json", top_p=0.5)
    reference = ModelRef("M0", model, hash_model_folder(model))
    said: list[str] = []
    with pytest.raises(ModelFolderError, match=r"generation_config\.json: cannot be saved again"):
        check_smoke(reference, roots, said, engine_here=True)  # fmt: skip


def test_notes_are_told_and_kept(model: Path, roots: StorageRoots) -> None:
    edit_json(model / "config.json", dtype="bfloat16")
    reference = ModelRef("M0", model, hash_model_folder(model))
    said: list[str] = []
    report = check_smoke(reference, roots, said, engine_here=True)
    assert report is not None
    assert report.level is Level.AMBER
    assert any("checkpoints are saved in bfloat16" in note for note in said)
    assert len(said) == len(report.select(Level.AMBER))


def test_a_machine_without_model_libraries_checks_files_and_leaves_the_rest(
    model: Path, roots: StorageRoots, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meta_reward_core.planning import check_experiment

    monkeypatch.setattr(check_experiment, "can_check_here", lambda: False)
    reference, said = ModelRef("M0", model, "0" * 64), list[str]()

    def check() -> CheckReport | None:
        return check_smoke(reference, roots, said, engine_here=False)  # fmt: skip

    assert check() is None
    assert said == ["a worker checks the rest of the model before the first iteration generates"]
    _quantise(model)
    with pytest.raises(ModelFolderError, match="quantised"):
        check()


@pytest.mark.parametrize(
    ("changes", "is_verified"),
    [
        ((), True),
        (("actor.samples=3", "training.epochs=1"), True),
        (("actor.max_new_tokens=200",), False),
        (("training.max_length=64",), False),
        (("actor.system_prompt=Be kind",), False),
        (("judge.template=judge",), False),
    ],
)
def test_the_shipped_model_is_trusted_for_what_it_is_tested_with(
    changes: tuple[str, ...], *, is_verified: bool
) -> None:
    shipped = get_shipped_seed_model()
    reference = ModelRef("M0", shipped, hash_model_folder(shipped))
    recipe = load_recipe("smoke", changes=changes)
    assert is_verified_toy_model(recipe, reference) is is_verified
    changed = replace(reference, sha256="0" * 64)
    assert not is_verified_toy_model(recipe, changed)
