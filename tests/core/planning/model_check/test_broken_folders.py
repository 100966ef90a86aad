"""Folders as people download, convert and copy them: each fault has a sentence with its file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from meta_reward_core.experiment import load_templates
from meta_reward_core.models.check.result import Check, Level
from meta_reward_core.planning.model_check.run import ModelCheckRequest, check_model
from meta_reward_core.recipes.loader import load_recipe
from meta_reward_core.tasks.registry import get_task_templates
from meta_reward_core.tasks.toy.base_model import get_shipped_seed_model
from tests.model_files import edit_json

AMBER, RED = Level.AMBER, Level.RED
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1f\nsize 5\n"
UP = "model.layers.2.mlp.up_proj.weight"

Break = Callable[[Path], object]
Tensors = dict[str, torch.Tensor]


def change_weights(change: Callable[[Tensors], Tensors]) -> Break:
    def apply(folder: Path) -> None:
        changed = change(load_file(folder / WEIGHTS))
        save_file(
            {name: one.contiguous() for name, one in changed.items()},
            folder / WEIGHTS,
            metadata={"format": "pt"},
        )

    return apply


def rename(change: Callable[[str], str]) -> Break:
    return change_weights(lambda held: {change(name): one for name, one in held.items()})


def cast(dtype: torch.dtype) -> Break:
    return change_weights(lambda held: held | {UP: held[UP].to(dtype)})


def set_values(file: str, **values: object) -> Break:
    return lambda folder: edit_json(folder / file, **values)


def append(file: str, member: str) -> Break:
    """Write one more member into a JSON object, as an editor would."""

    def apply(folder: Path) -> None:
        text = (folder / file).read_text().rstrip().removesuffix("}")
        (folder / file).write_text(f"{text}, {member}}}")

    return apply


def write(file: str, content: str | bytes) -> Break:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / file).write_bytes(data)


def prepend(file: str, content: bytes) -> Break:
    return lambda folder: (folder / file).write_bytes(content + (folder / file).read_bytes())


def replace_in_template(old: str, new: str) -> Break:
    def apply(folder: Path) -> None:
        text = (folder / TEMPLATE).read_text()
        assert old in text
        (folder / TEMPLATE).write_text(text.replace(old, new))

    return apply


def remove(file: str) -> Break:
    return lambda folder: (folder / file).unlink()


def move(file: str, name: str) -> Break:
    def apply(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / file).rename(folder / name)

    return apply


def edit_text(file: str, change: Callable[[str], str]) -> Break:
    return lambda folder: (folder / file).write_text(change((folder / file).read_text()))


def damage_header(change: Callable[[dict[str, dict[str, object]]], object]) -> Break:
    """Let `change` edit what the header of the weights says of each tensor."""

    def apply(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        change(header)
        changed = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(len(changed).to_bytes(8, "little") + changed + data[end:])

    return apply


def one_after_another(*steps: Break) -> Break:
    def apply(folder: Path) -> None:
        for step in steps:
            step(folder)

    return apply


def shard(change: Callable[[dict[str, str]], object] = lambda _: None) -> Break:
    """Two files of weights and an index; `change` gets the index's map."""

    def apply(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        places = {name: SHARDS[at % 2] for at, name in enumerate(sorted(held))}
        for file in SHARDS:
            part = {name: held[name] for name, place in places.items() if place == file}
            save_file(part, folder / file, metadata={"format": "pt"})
        change(places)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))

    return apply


def cut(file: str) -> Break:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-7])


def add_token(folder: Path) -> None:
    content = json.loads((folder / TOKENIZER).read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": 900, "content": "<|tool|>", "special": True} | flags)
    (folder / TOKENIZER).write_text(json.dumps(content))


def name_two_templates(folder: Path) -> None:
    text = (folder / TEMPLATE).read_text()
    (folder / TEMPLATE).unlink()
    named = [{"name": name, "template": text} for name in ("chat", "tool_use")]
    edit_json(folder / TOKENIZER_CONFIG, chat_template=named)


BROKEN: dict[str, tuple[Break, Level, str, str]] = {
    # Weights.
    "tensor missing": (change_weights(lambda t: {k: v for k, v in t.items() if k != UP}), RED,
                       WEIGHTS, f"no tensor for 1 parameter of the model ({UP})"),
    "tensor left over": (change_weights(lambda t: t | {UP.replace("2", "8"): t[UP] * 2}), RED,
                         WEIGHTS, "1 tensor belongs to no parameter"),
    "other shape": (change_weights(lambda t: t | {UP: t[UP].T}), RED, WEIGHTS,
                    "but config.json requires (320, 128)"),
    "compiled": (rename("_orig_mod.{}".format), RED, WEIGHTS, "'_orig_mod.'"),
    "data parallel": (rename("module.{}".format), RED, WEIGHTS, "'module.'"),
    "peft": (rename("base_model.model.{}".format), RED, WEIGHTS, "'base_model.model.'"),
    "adapter inside": (change_weights(lambda t: t | {"model.layers.0.mlp.up_proj.lora_A.weight":
                                                     torch.ones(1, 1)}),
                       RED, WEIGHTS, "an adapter that is not merged"),
    "adapter alone": (one_after_another(write("adapter_config.json", "{}"), remove(CONFIG)), RED,
                      "adapter_config.json", "belongs to an adapter, not a complete model; merge"),
    "values not finite": (change_weights(lambda t: t | {UP: t[UP] * float("inf")}), RED, WEIGHTS,
                          f"1 tensor with values that are not finite ({UP})"),
    "value head": (change_weights(lambda t: t | {"v_head.summary.bias": torch.ones(1)}), RED,
                   WEIGHTS, "the head of a classifier or reward model"),
    "int8": (cast(torch.int8), RED, WEIGHTS, "stored as I8"),
    "int32": (cast(torch.int32), RED, WEIGHTS, "stored as I32"),
    "truth values": (cast(torch.bool), RED, WEIGHTS, "stored as BOOL"),
    "fp8": (cast(torch.float8_e4m3fn), RED, WEIGHTS, "stored as F8_E4M3"),
    "gptq": (set_values(CONFIG, quantization_config={"quant_method": "gptq"}), RED, CONFIG, "GPTQ"),
    "format of tomorrow": (set_values(CONFIG, quantization_config={"quant_method": "q9"}), RED,
                           CONFIG, "quantised (q9)"),
    "format without a name": (set_values(CONFIG, quantization_config={}), RED, CONFIG,
                              "an unknown format"),
    "other numbers": (cast(torch.float16), AMBER, CONFIG, "checkpoints are saved in float32"),
    "cut off": (cut(WEIGHTS), RED, WEIGHTS, "is truncated"),
    "pointer": (write(WEIGHTS, POINTER), RED, WEIGHTS, "run `git lfs pull`"),
    "web page": (write(WEIGHTS, "<!doctype html>"), RED, WEIGHTS, "is a web page"),
    "pickle alone": (one_after_another(remove(WEIGHTS), write("pytorch_model.bin", b"\x80\x02")),
                     RED, "pytorch_model.bin", "convert the model to safetensors"),
    "longer than its header": (lambda folder: (folder / WEIGHTS).write_bytes(
        (folder / WEIGHTS).read_bytes() + bytes(64)), RED, WEIGHTS, "is damaged"),
    "overlapping tensors": (damage_header(lambda h: h[UP].update(
        data_offsets=h[UP.replace("2", "1")]["data_offsets"])), RED, WEIGHTS, "tensors overlap"),
    "names of another library": (rename(lambda name: name.replace("model.layers", "blocks")), RED,
                                 WEIGHTS, "27 tensors with other names would be ignored"),
    "embedding cut off": (change_weights(lambda t: {
        name: one[:100] if "embed" in name else one for name, one in t.items()}), RED, WEIGHTS,
        "has the shape (100, 128)"),
    "another file name": (move(WEIGHTS, "model.fp16.safetensors"), RED, WEIGHTS,
                          "rename model.fp16.safetensors to model.safetensors"),
    "files of Mistral": (move(WEIGHTS, "consolidated.safetensors"), RED, WEIGHTS,
                         "download the files for transformers"),
    "no tensors": (change_weights(lambda _: {}), RED, WEIGHTS, "contains no tensors"),
    # Several files of weights.
    "shard missing": (one_after_another(shard(), remove(SHARDS[1])), RED, SHARDS[1], "download"),
    "shard cut off": (one_after_another(shard(), cut(SHARDS[0])), RED, SHARDS[0], "is truncated"),
    "shard a pointer": (one_after_another(shard(), write(SHARDS[1], POINTER)), RED, SHARDS[1],
                        "run `git lfs pull`"),
    "index names another tensor": (shard(lambda m: m.update({"lm_head.bias": SHARDS[0]})), RED,
                                   INDEX, "lm_head.bias is not in the file"),
    "index leaves one out": (shard(lambda m: m.pop(UP)), RED, INDEX, f"does not list {UP}"),
    "index leads outside": (shard(lambda m: m.update({UP: "../other.safetensors"})), RED, INDEX,
                            "must list files in its own folder"),
    "index beside the whole model": (write(INDEX, "{}"), AMBER, INDEX,
                                     "other engines may load the files of the index"),
    "index without names": (one_after_another(remove(WEIGHTS), write(INDEX, "{}")), RED, INDEX,
                            "does not list any weights (weight_map); download it again"),
    "no index": (one_after_another(shard(), remove(INDEX)), RED, INDEX, "download that file"),
    # Configuration.
    "no model type": (set_values(CONFIG, model_type=None), RED, CONFIG, "Unrecognized model"),
    "unknown model": (set_values(CONFIG, model_type="llama9"), RED, CONFIG,
                      "use a model that transformers supports"),
    "own code": (set_values(CONFIG, auto_map={"AutoModel": "m.M"}), RED, CONFIG, "auto_map"),
    "rope of no kind": (set_values(CONFIG, rope_parameters={"rope_type": "x", "rope_theta": 1.0}),
                        RED, CONFIG, "cannot build the described model"),
    "rope without its factor": (set_values(CONFIG, rope_scaling={"rope_type": "yarn"}), RED, CONFIG,
                                "factor"),
    "text for a number": (set_values(CONFIG, max_position_embeddings="256"), RED, CONFIG,
                          "expected int, got str"),
    "not a number": (set_values(CONFIG, rms_norm_eps=float("nan")), RED, CONFIG,
                     "rms_norm_eps is not a number"),
    "more layers than tensors": (set_values(CONFIG, num_hidden_layers=100_000), RED, CONFIG,
                                 "num_hidden_layers is 100,000, but there are only"),
    "no positions": (set_values(CONFIG, max_position_embeddings=0), RED, CONFIG, "0 positions"),
    "few positions": (set_values(CONFIG, max_position_embeddings=24), RED, CONFIG,
                      "so no prompt fits"),
    "other heads": (set_values(CONFIG, num_key_value_heads=2), RED, WEIGHTS,
                    "but config.json requires"),
    "other class": (set_values(CONFIG, architectures=["Qwen2ForCausalLM"]), AMBER, CONFIG,
                    "is loaded as LlamaForCausalLM"),
    "kernel that is not installed": (set_values(CONFIG, attn_implementation="flash_attention_2"),
                                     RED, CONFIG, "remove attn_implementation"),
    "id outside": (set_values(CONFIG, bos_token_id=4000), AMBER, CONFIG, "bos_token_id 4000"),
    "key twice": (append(CONFIG, '"num_hidden_layers": 3'), AMBER, CONFIG, "'num_hidden_layers'"),
    "byte order mark": (prepend(CONFIG, b"\xef\xbb\xbf"), RED, CONFIG, "byte order mark"),
    "empty file": (write(CONFIG, ""), RED, CONFIG, "is empty"),
    "one folder too high": (move(CONFIG, f"Llama/{CONFIG}"), RED, CONFIG,
                            "is missing; use the model in its subfolder Llama"),
    "comma at the end": (edit_text(CONFIG, lambda text: text.rstrip()[:-1] + ",}"), RED, CONFIG,
                         "is not valid JSON"),
    "unknown activation": (set_values(CONFIG, hidden_act="swoosh"), RED, CONFIG, "'swoosh'"),
    "no heads": (set_values(CONFIG, num_attention_heads=0), RED, CONFIG,
                 "cannot read the configuration"),
    "fewer layers": (set_values(CONFIG, num_hidden_layers=2), RED, WEIGHTS,
                     "9 tensors belong to no parameter"),
    # Generation config.
    "cannot be saved": (set_values(GENERATION, top_k=9, do_sample=False), RED, GENERATION,
                        "cannot be saved again"),
    "beam search alone": (set_values(GENERATION, length_penalty=0.4), RED, GENERATION,
                          "correct or remove these values"),
    "end token a text": (set_values(GENERATION, eos_token_id="4"), RED, GENERATION,
                         "eos_token_id '4'"),
    "end token negative": (set_values(GENERATION, eos_token_id=-1), RED, GENERATION,
                           "eos_token_id -1"),
    "one end token outside": (set_values(GENERATION, eos_token_id=[4, 777]), RED, GENERATION,
                              "eos_token_id 777"),
    "no end token in the list": (set_values(GENERATION, eos_token_id=[]), AMBER, GENERATION,
                                 "eos_token_id is an empty list"),
    "no end token in config.json": (
        one_after_another(remove(GENERATION), set_values(CONFIG, eos_token_id=[])), AMBER, CONFIG,
        "eos_token_id is an empty list"),
    "another end token": (one_after_another(set_values(GENERATION, eos_token_id=0),
                                            set_values(TOKENIZER_CONFIG, eos_token="<|pad|>")),
                          RED, GENERATION, "add its id 4"),
    # Tokenizer.
    "tokenizer a pointer": (write(TOKENIZER, POINTER), RED, TOKENIZER, "run `git lfs pull`"),
    "merges a pointer": (write("merges.txt", POINTER), RED, "merges.txt", "run `git lfs pull`"),
    "tokenizer missing": (remove(TOKENIZER), RED, TOKENIZER, "cannot be loaded"),
    "tokenizer cut off": (cut(TOKENIZER), RED, TOKENIZER, "cannot be loaded"),
    "token without a row": (add_token, RED, TOKENIZER, "('<|tool|>')"),
    "padding token without a row": (set_values(TOKENIZER_CONFIG, pad_token="<|fill|>"), RED,
                                    TOKENIZER, "('<|fill|>')"),
    "two tokens with one id": (edit_text(TOKENIZER, lambda text: text.replace(": 51,", ": 50,")),
                               RED, TOKENIZER, "have the same id"),
    "tokenizer of no known kind": (edit_text(TOKENIZER, lambda text: text.replace(
        '"WordLevel"', '"Other"')), RED, TOKENIZER, "cannot be loaded"),
    "end token without a text": (set_values(TOKENIZER_CONFIG, eos_token={"lstrip": False}), RED,
                                 TOKENIZER_CONFIG, "cannot be loaded"),
    # Chat template.
    "no template": (remove(TEMPLATE), RED, TEMPLATE, "is missing, and so is any other"),
    "no default template": (name_two_templates, RED, TOKENIZER_CONFIG, "(chat, tool_use)"),
    "refuses": (prepend(TEMPLATE, b"{{ raise_exception('tools only') }}"), RED, TEMPLATE,
                "tools only"),
    "not a template": (prepend(TEMPLATE, b"{% if %}"), RED, TEMPLATE, "cannot render a prompt"),
    "not UTF-8": (prepend(TEMPLATE, b"{# \xe9 #}"), RED, TEMPLATE, "is not UTF-8 text"),
    "mark before it": (prepend(TEMPLATE, b"\xef\xbb\xbf"), RED, TEMPLATE, "save it as UTF-8"),
    "shortens prompts": (replace_in_template("message['content']", "message['content'][:500]"), RED,
                         TEMPLATE, "changes long texts of a prompt"),
    "escapes prompts": (replace_in_template("message['content']", "message['content']|e"), RED,
                        TEMPLATE, "changes markdown and code of a prompt"),
    "end token of another model": (
        replace_in_template("<|end|>", "<|im_end|>"), RED, TEMPLATE,
        "ends a turn with '<|im_end|>', which is not a token of the tokenizer"),
    "reads the date": (prepend(TEMPLATE, b"{{ strftime_now('%Y') }}"), AMBER, TEMPLATE,
                       "uses the date of its first day"),
    "differs each time": (prepend(TEMPLATE, b"{{ range(99999)|random }}"), RED, TEMPLATE,
                          "differently each time"),
    "no generation prompt": (
        replace_in_template("{% if add_generation_prompt %}", "{% if false %}"), AMBER, TEMPLATE,
        "writes no generation prompt"),
    "always a generation prompt": (
        replace_in_template("{% if add_generation_prompt %}", "{% if true %}"), AMBER, TEMPLATE,
        "writes '<|assistant|>' after a finished turn; training uses the sampled token ids"),
    "rewrites completions": (
        replace_in_template("<|assistant|>\n{{ message['content'] }}",
                            "<|assistant|>\n{{ message['content']|replace('  ', ' ') }}"),
        AMBER, TEMPLATE, "training uses the sampled token ids"),
    "another template beside it": (
        set_values(TOKENIZER_CONFIG, chat_template="{{ messages }}"), AMBER, TOKENIZER_CONFIG,
        "contains a different chat template"),
    "calls what does not exist": (prepend(TEMPLATE, b"{{ now_in_utc() }}"), RED, TEMPLATE,
                                  "'now_in_utc' is undefined"),
    "needs another file": (prepend(TEMPLATE, b"{% include 'tools.jinja' %}"), RED, TEMPLATE,
                           "cannot render a prompt"),
    "needs tools": (prepend(TEMPLATE, b"{{ tools[0].name }}"), RED, TEMPLATE, "cannot render"),
    "a web page as template": (write(TEMPLATE, "<html>Not found</html>"), RED, TEMPLATE,
                               "leaves out the text of prompts and completions"),
    "one turn alone": (prepend(TEMPLATE, b"{% if messages|length > 1 %}{{ raise_exception('one') }}"
                               b"{% endif %}"), RED, TEMPLATE, "refuses completions"),
    "breaks lines": (replace_in_template("message['content']", "message['content']|wordwrap(40)"),
                     RED, TEMPLATE, "changes long texts of a prompt"),
    "no end of a turn": (replace_in_template("<|end|>", ""), RED, GENERATION,
                         "writes no end token after a completion"),
    # The folder.
    "link outside": (lambda folder: (folder / "notes.json").symlink_to("/etc/passwd"), RED,
                     "notes.json", "outside the allowed folders"),
    "code": (write("modeling_own.py", ""), RED, "modeling_own.py", "never run; remove the file"),
    "special tokens": (write("special_tokens_map.json", "[1,"), RED, "special_tokens_map.json",
                       "is not valid JSON"),
}  # fmt: skip
"""What is done to a good folder, and what is said about it: level, file and words."""


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_named_with_its_file(fault: str, tmp_path: Path) -> None:
    damage, level, file, words = BROKEN[fault]
    damage(Path(shutil.copytree(get_shipped_seed_model(), tmp_path / "mine")))
    found = check(tmp_path / "mine")
    told = [one for one in found if one.level is level and words in one.describe()]
    assert told, [one.describe() for one in found if one.level is not Level.GREEN]
    assert file in told[0].describe()
    assert told[0].remedy or level is AMBER, "what to do"
    if level is AMBER:
        assert RED not in {one.level for one in found}


def test_whatever_a_library_raises_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OverflowError("number too small")

    monkeypatch.setattr("meta_reward_core.models.check.tokenizer.check_tokenizer", fail)
    shutil.copytree(get_shipped_seed_model(), tmp_path / "mine")
    worst = [one for one in check(tmp_path / "mine") if one.level is RED]
    assert [one.message for one in worst] == [
        "the check failed with OverflowError (number too small)"
    ]


def check(folder: Path) -> tuple[Check, ...]:
    recipe = load_recipe("smoke")
    request = ModelCheckRequest(
        "mine",
        folder,
        (folder.parent,),
        recipe,
        load_templates(recipe, get_task_templates(recipe.task)),
        ("translate two words",),
    )
    return check_model(request).checks
