"""A line that is begun for the model: what its values are worth, token by token."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from meta_reward_core.engines import transformers as embedded
from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    ForcedLine,
    ForcedLineRequest,
    SamplingParams,
    pack_token_ids,
)
from meta_reward_core.engines.completion_cache import CachingEngine
from meta_reward_core.engines.forced_lines import cut_token_ids, encode_line
from meta_reward_core.engines.scripted import ScriptedEngine
from meta_reward_core.engines.transformers import TransformersEngine, load_transformers_engine
from meta_reward_core.errors import EngineError
from meta_reward_core.models.chat import ChatOptions
from meta_reward_core.storage.artifact_store import ArtifactStore
from tests.core.tiny_model import make_model_folder, make_tokenizer

LINE = ForcedLine("\nScore:", tuple(f" {value}" for value in range(6)))
LONG_VALUES = ForcedLine("\nScore:", (" 1", " 1 0", " 2 5 3", " 4"))
"""The first value begins the second one; the third has three tokens."""


def ask(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("tiny") / "model", seed=3)


def load(folder: Path, *, limit: int | None = None) -> TransformersEngine:
    return load_transformers_engine(
        folder,
        dtype="float32",
        device="cpu",
        threads=None,
        max_batch_tokens=4096,
        max_model_len=limit,
    )


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return load(folder)


def draw(engine: TransformersEngine, texts: Sequence[str], n: int) -> list[ForcedLineRequest]:
    sampling = SamplingParams(1.0, 1.0, 9)
    sampled = engine.sample([ask(text) for text in texts], n, sampling=sampling, seed=5)
    return [
        ForcedLineRequest(ask(text), completion, len(completion.text))
        for text, row in zip(texts, sampled, strict=True)
        for completion in row
    ]


@pytest.fixture(scope="module")
def plain(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def score_plainly(model: PreTrainedModel, ids: Sequence[int], tail: Sequence[int]) -> float:
    """The sum of log p(token | everything before it), each by one pass over the whole text."""
    whole = torch.tensor([[*ids, *tail]])
    with torch.inference_mode():
        rows = model(input_ids=whole).logits[0].log_softmax(-1)
    return sum(float(rows[len(ids) + place - 1, token]) for place, token in enumerate(tail))


@pytest.mark.parametrize("shares", [True, False], ids=["shared prefixes", "padded rows"])
@pytest.mark.parametrize("line", [LINE, LONG_VALUES], ids=["one token", "several tokens"])
def test_values_have_the_probability_of_their_whole_texts(
    folder: Path, plain: PreTrainedModel, line: ForcedLine, shares: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not shares:
        monkeypatch.setattr(embedded, "enable_prefix_sharing", lambda model: False)
    engine = load(folder)
    question = "the question " * 20
    requests = draw(engine, [question + "is this good", question + "is this bad"], 3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    readings = engine.read_forced_lines(requests, line, options=ChatOptions())
    ends = line is LONG_VALUES
    for request, reading in zip(requests, readings, strict=True):
        assert reading is not None
        prompt = engine._encoder.encode([request.conversation])[0]
        kept = list(reading.token_ids)
        assert reading.injected == 1
        assert tokenizer.decode(kept[-1:]) == "Score:"
        assert reading.text == request.completion.text + "\nScore:"
        for value, found, ids in zip(
            line.values, reading.log_probabilities, reading.value_ids, strict=True
        ):
            assert tokenizer.decode(list(ids)) == value.strip()
            tail = [*ids, *([tokenizer.eos_token_id] if ends else [])]
            assert found == pytest.approx(score_plainly(plain, [*prompt, *kept], tail), abs=1e-4)


def test_a_value_that_begins_another_is_not_credited_with_it(engine: TransformersEngine) -> None:
    """Without the end after them, p(1) >= p(1 0) would always hold."""
    encoded = encode_line(engine._tokenizer, LONG_VALUES)
    assert encoded.ends_values
    assert not encode_line(engine._tokenizer, LINE).ends_values
    requests = draw(engine, ["this is a question"], 1)
    (reading,) = engine.read_forced_lines(requests, LONG_VALUES, options=ChatOptions())
    assert reading is not None
    total = sum(math.exp(value) for value in reading.log_probabilities)
    assert 0 < total < 1


def test_the_same_call_gives_the_same_readings(engine: TransformersEngine) -> None:
    requests = draw(engine, ["this is good", "this is bad"], 4)
    assert engine.read_forced_lines(
        requests, LINE, options=ChatOptions()
    ) == engine.read_forced_lines(requests, LINE, options=ChatOptions())


def test_a_line_that_does_not_fit_is_no_reading(folder: Path) -> None:
    """Room for the shorter prompt's reply, its line and a value, and not for the longer one's."""
    small = load(folder, limit=24)
    requests = draw(small, ["this is good", "this is a question of the good and"], 1)
    prompts = small._encoder.encode([request.conversation for request in requests])
    lengths = [
        len(prompt) + len(cut_token_ids(
            small._tokenizer, request.completion, kept_chars=10**6, end_ids=small._end_ids
        )[0]) + 2
        for prompt, request in zip(prompts, requests, strict=True)
    ]  # fmt: skip
    found = small.read_forced_lines(requests, LINE, options=ChatOptions())
    assert [reading is not None for reading in found] == [length <= 24 for length in lengths]


def test_values_that_the_tokenizer_cannot_tell_apart_are_refused(
    engine: TransformersEngine,
) -> None:
    requests = draw(engine, ["this is good"], 1)
    for line in (
        ForcedLine("\nScore:", (" violet", " mauve")),
        ForcedLine("\nMarks:", (" 1", " 2")),
    ):
        with pytest.raises(EngineError, match="does not distinguish the values"):
            engine.read_forced_lines(requests, line, options=ChatOptions())


@pytest.mark.parametrize(
    "kept, words",
    [("one two three", 3), ("one two th", 2), ("one ", 1), ("", 0)],
)
def test_only_whole_tokens_of_the_kept_text_are_kept(kept: str, words: int) -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer("one two three four")["input_ids"]
    end = tokenizer.eos_token_id
    completion = Completion("one two three four", 5, "stop", token_ids=pack_token_ids([*ids, end]))
    found, text = cut_token_ids(tokenizer, completion, kept_chars=len(kept), end_ids=[end])
    assert list(found) == ids[:words]
    assert text == " ".join(["one", "two", "three"][:words])


def test_an_opening_that_the_prompt_wrote_is_kept_with_the_text() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer("one two")["input_ids"]
    completion = Completion("<think>one two", 2, "length", token_ids=pack_token_ids(ids))
    found, text = cut_token_ids(tokenizer, completion, kept_chars=10, end_ids=[])
    assert (list(found), text) == (ids[:1], "<think>one")


def test_the_engine_that_keeps_completions_asks_the_one_below_once(tmp_path: Path) -> None:
    def make(engine: ScriptedEngine) -> CachingEngine:
        return CachingEngine(lambda: engine, identity={}, store=ArtifactStore(str(tmp_path)))

    completion = Completion("fine", 1, "stop")
    request = ForcedLineRequest(ask("x"), completion, 4)
    able = make(ScriptedEngine(lambda *_: "fine", lambda conversation, text, value: -1.0))
    (reading,) = able.read_forced_lines([request], LINE, options=ChatOptions())
    assert reading is not None
    assert reading.text == "fine\nScore:"
    unable = make(ScriptedEngine(lambda *_: "fine"))
    assert unable.read_forced_lines([request], LINE, options=ChatOptions()) == [reading]
    with pytest.raises(EngineError, match="does not support forced readouts"):
        unable.read_forced_lines([replace(request, kept_chars=2)], LINE, options=ChatOptions())
