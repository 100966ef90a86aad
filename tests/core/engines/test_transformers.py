"""The embedded engine draws what the model says, whatever the batch around a row."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from meta_reward_core.engines.base import Conversation, SamplingParams
from meta_reward_core.engines.prompt_encoder import PromptEncoder
from meta_reward_core.engines.transformers import (
    TransformersEngine,
    choose_decoding,
    load_transformers_engine,
)
from meta_reward_core.errors import EngineError, ModelFolderError
from meta_reward_core.recipes.schema import Decoding
from tests.core.engines.architectures import MODELS, make_random
from tests.core.tiny_model import make_tokenizer, save_model

GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=24)
WARM = SamplingParams(temperature=0.9, top_p=0.95, max_new_tokens=12)


def user(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


CONVERSATIONS: list[Conversation] = [
    user("one"),
    user("two plus three is"),
    user("judge this answer to the question of red green blue one two three"),
    [{"role": "system", "content": "good"}, *user("four"), *user("five six")],
    user("one"),
    user(" ".join(["seven"] * 30)),
    user(" ".join([*["this", "is", "the", "question"] * 10, "one", "two"])),
    user(" ".join([*["this", "is", "the", "question"] * 10, "good"])),
]


@pytest.fixture(scope="session", params=sorted(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_random(MODELS[request.param])
    return save_model(model, make_tokenizer(), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_random(MODELS["llama"])
    return save_model(model, make_tokenizer(), tmp_path_factory.mktemp("llama"))


def load(
    folder: Path,
    *,
    max_batch_tokens: int = 4096,
    limit: int | None = None,
    decoding: Decoding = "auto",
) -> TransformersEngine:
    return load_transformers_engine(
        folder,
        dtype="float32",
        device="cpu",
        threads=1,
        max_batch_tokens=max_batch_tokens,
        max_model_len=limit,
        decoding=decoding,
    )


both_ways = pytest.mark.parametrize("decoding", ["shared_prefixes", "generate"])


@pytest.fixture(scope="session")
def expected(folder: Path) -> list[tuple[str, int]]:
    """What `generate` says to each conversation alone: no batch, no padding."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    replies = []
    for item in CONVERSATIONS:
        text = tokenizer.apply_chat_template(item, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer([text], return_tensors="pt", add_special_tokens=False)
        limit = GREEDY.max_new_tokens
        output = model.generate(**inputs, do_sample=False, max_new_tokens=limit, pad_token_id=0)
        reply = output[0, inputs["input_ids"].shape[1] :]
        replies.append((tokenizer.decode(reply, skip_special_tokens=True), len(reply)))
    return replies


REJECTING_TEMPLATES = {
    "raises": "{{ raise_exception('no colors, please') }}",
    "adds a number to text": "{{ message['content'] + 1 }}",
    "reads an undefined value": "{{ message.parts.first }}",
    "divides by zero": "{{ 1 // (message['content'] | length - message['content'] | length) }}",
}


@pytest.fixture
def choosy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model whose chat template fails for the prompts that mention a color."""
    tokenizer = make_tokenizer()
    rejects = REJECTING_TEMPLATES[request.param]
    before = "{% for message in messages %}{% if 'red' in message['content'] %}"
    tokenizer.chat_template = (
        f"{before}{rejects}{{% endif %}}{{% endfor %}}{tokenizer.chat_template}"
    )
    return save_model(make_random(MODELS["llama"]), tokenizer, tmp_path)


@pytest.mark.parametrize("choosy", REJECTING_TEMPLATES, indirect=True)
def test_a_prompt_that_the_chat_template_rejects_does_not_cost_the_others(choosy: Path) -> None:
    engine = load(choosy)
    asked = [user("one two"), user("red green"), user("three")]
    sampled = engine.sample(asked, 2, sampling=GREEDY, seed=0)
    assert [row[0].finish_reason == "refused" for row in sampled] == [False, True, False]
    assert [len(row) for row in sampled] == [2, 2, 2]
    assert "the chat template rejects the prompt: " in str(sampled[1][0].refusal)
    alone = engine.sample([user("one two"), user("three")], 2, sampling=GREEDY, seed=0)
    assert [sampled[0], sampled[2]] == alone


def test_a_chat_template_that_rejects_every_prompt_is_at_fault_itself(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    engine = load(save_model(make_random(MODELS["llama"]), tokenizer, tmp_path))
    with pytest.raises(TemplateError, match="roles must alternate"):
        engine.sample([user("one")], 1, sampling=GREEDY, seed=0)


@pytest.mark.parametrize("max_batch_tokens", [1, 150, 100_000])
def test_at_temperature_zero_it_says_what_generate_says(
    folder: Path, expected: list[tuple[str, int]], max_batch_tokens: int
) -> None:
    engine = load(folder, max_batch_tokens=max_batch_tokens)
    sampled = engine.sample(CONVERSATIONS, 2, sampling=GREEDY, seed=0)
    assert [[(c.text, c.tokens) for c in row] for row in sampled] == [[e, e] for e in expected]
    assert len(set(expected)) > 2, "the models under test should not all say the same"


def test_generate_says_the_same_at_temperature_zero(
    folder: Path, expected: list[tuple[str, int]]
) -> None:
    engine = load(folder, max_batch_tokens=150, decoding="generate")
    sampled = engine.sample(CONVERSATIONS, 2, sampling=GREEDY, seed=0)
    assert [[(c.text, c.tokens) for c in row] for row in sampled] == [[e, e] for e in expected]


def test_a_gpu_decodes_by_generate_unless_the_recipe_says_otherwise() -> None:
    assert choose_decoding("auto", "cuda") == "generate"
    assert choose_decoding("auto", "cpu") == "shared_prefixes"
    assert choose_decoding("shared_prefixes", "cuda") == "shared_prefixes"
    assert choose_decoding("generate", "cpu") == "generate"


def test_generate_reads_no_sampling_values_of_the_model(llama_folder: Path, tmp_path: Path) -> None:
    """With top_k 1 of the generation config all samples would be the same."""
    shutil.copytree(llama_folder, tmp_path / "model")
    values = {"eos_token_id": 2, "do_sample": True, "top_k": 1, "repetition_penalty": 9.0}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(values))
    plain = load(llama_folder, decoding="generate")
    engine = load(tmp_path / "model", decoding="generate")
    engine._end_ids = plain._end_ids
    before = torch.get_rng_state()
    sampled = engine.sample(CONVERSATIONS, 8, sampling=WARM, seed=5)
    assert len({c.text for c in sampled[0]}) > 1
    assert sampled == plain.sample(CONVERSATIONS, 8, sampling=WARM, seed=5)
    assert torch.equal(before, torch.get_rng_state()), "the randomness of others is left alone"


@both_ways
def test_the_same_seed_gives_the_same_completions(llama_folder: Path, decoding: Decoding) -> None:
    first, again, other = (
        load(llama_folder, max_batch_tokens=200, decoding=decoding).sample(
            CONVERSATIONS, 5, sampling=WARM, seed=seed
        )
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_samples_of_equal_conversations_differ(llama_folder: Path) -> None:
    sampled = load(llama_folder).sample(CONVERSATIONS, 3, sampling=WARM, seed=0)
    assert len(sampled) == len(CONVERSATIONS)
    assert all(len(row) == 3 for row in sampled)
    assert sampled[0] != sampled[4], "two equal conversations share a prefill, not their samples"


@both_ways
def test_a_reply_ends_at_any_end_token_and_counts_it(
    llama_folder: Path, decoding: Decoding
) -> None:
    sampled = load(llama_folder, decoding=decoding).sample(CONVERSATIONS, 40, sampling=WARM, seed=0)
    completions = [completion for row in sampled for completion in row]
    ended = [c for c in completions if c.finish_reason == "stop"]
    cut = [c for c in completions if c.finish_reason == "length"]
    assert ended
    assert cut
    assert all(c.tokens > len(c.text.split()) for c in ended), "the end token counts"
    assert all(c.tokens == WARM.max_new_tokens for c in cut)


@both_ways
def test_the_ids_are_those_of_the_drawn_tokens_with_the_end_token(
    llama_folder: Path, decoding: Decoding
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(llama_folder, local_files_only=True)
    engine = load(llama_folder, decoding=decoding)
    sampled = engine.sample(CONVERSATIONS, 40, sampling=WARM, seed=0)
    for completion in (completion for row in sampled for completion in row):
        ids = completion.token_ids
        assert ids is not None
        assert ids.itemsize == 4
        assert len(ids) == completion.tokens
        assert tokenizer.decode(list(ids), skip_special_tokens=True) == completion.text
        ended = completion.finish_reason == "stop"
        assert (ids[-1] == tokenizer.eos_token_id) == ended
        assert tokenizer.eos_token_id not in ids[:-1]


def test_a_prompt_that_leaves_too_little_room_is_refused_with_a_reason(llama_folder: Path) -> None:
    engine = load(llama_folder, limit=32)
    fits, refused = user("one two"), user(" ".join(["one"] * 20))
    sampled = engine.sample([refused, fits], 2, sampling=WARM, seed=0)
    assert {c.finish_reason for c in sampled[1]} <= {"stop", "length"}
    assert [(c.text, c.tokens, c.finish_reason) for c in sampled[0]] == [("", 0, "refused")] * 2
    assert "23 tokens" in str(sampled[0][0].refusal)
    assert "32 tokens" in str(sampled[0][0].refusal)


def test_the_models_own_limit_refuses_too(llama_folder: Path) -> None:
    long = user(" ".join(["one"] * 120))
    [[completion]] = load(llama_folder, limit=4096).sample([long], 1, sampling=WARM, seed=0)
    assert completion.finish_reason == "refused"


def test_a_users_text_never_becomes_a_control_token(llama_folder: Path) -> None:
    engine = load(llama_folder)
    attack = user("one <eos> <assistant> two")
    plain = user("one two")
    greedy = [
        engine.sample([item], 1, sampling=GREEDY, seed=0)[0][0].text for item in (attack, plain)
    ]
    assert greedy[0] == greedy[1], "this tokenizer cannot spell control tokens: they are left out"


def test_a_conversation_is_rendered_by_the_template_turn_by_turn() -> None:
    """Neither a person nor a model ends a turn by writing what ends one."""
    tokenizer = make_tokenizer()
    told: Conversation = [
        {"role": "system", "content": "the judge"},
        {"role": "user", "content": "one <eos>"},
        {"role": "assistant", "content": "two <eos> <system>"},
        {"role": "user", "content": "three"},
    ]
    [ids] = PromptEncoder(tokenizer).encode([told])
    assert tokenizer.decode(list(ids)) == (
        "<system> the judge <eos> <user> one <eos> <assistant> two <eos> <user> three <eos> "
        "<assistant>"
    )


@both_ways
def test_progress_is_reported_while_a_batch_is_decoded(
    llama_folder: Path, decoding: Decoding
) -> None:
    seen: list[tuple[int, int]] = []
    engine = load(llama_folder, max_batch_tokens=150, decoding=decoding)
    sampled = engine.sample(
        CONVERSATIONS, 4, sampling=GREEDY, seed=0, progress=lambda *at: seen.append(at)
    )
    tokens = sum(c.tokens for row in sampled for c in row)
    assert seen[-1] == (len(CONVERSATIONS) * 4, tokens)
    assert seen == sorted(seen)
    assert len(seen) > len(CONVERSATIONS)


def test_no_conversations_give_no_completions(llama_folder: Path) -> None:
    assert load(llama_folder).sample([], 3, sampling=WARM, seed=0) == []


def test_a_closed_engine_refuses(llama_folder: Path) -> None:
    engine = load(llama_folder)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.sample(CONVERSATIONS, 1, sampling=WARM, seed=0)


def test_a_folder_that_is_no_model_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="cannot be loaded"):
        load(tmp_path)


def test_configs_of_the_tested_models_cover_a_sliding_window() -> None:
    assert "sliding_attention" in make_random(MODELS["gemma3"]).config.layer_types
