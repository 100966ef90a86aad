"""Forced lines by a server: against one that can, and against those that only look as if."""

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    ForcedLine,
    ForcedLineReader,
    ForcedLineRequest,
    TokenChoice,
)
from meta_reward_core.engines.endpoints import Endpoint
from meta_reward_core.engines.forced_lines import PolicyTokenizer
from meta_reward_core.engines.openai import OpenAiEngine
from meta_reward_core.engines.openai_forced_lines import read_log_probabilities
from meta_reward_core.errors import EndpointError, EngineError
from meta_reward_core.models.chat import ChatOptions
from tests.core.engines.misbehaving_server import Exchange, MisbehavingServer, misbehaving_server
from tests.core.tiny_model import make_model_folder

LINE = ForcedLine("\nScore:", (" 1", " 2"))
FIELDS = ("continues", "constrains", "tells", "knows")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with misbehaving_server() as running:
        yield running


def answer_as(**able: bool) -> Any:
    """A server's behavior; it scores the second of two values by the length of the reply."""
    can = dict.fromkeys(FIELDS, True) | able

    def answer(exchange: Exchange) -> None:
        body = exchange.body
        if not can["knows"]:
            exchange.answer(400, b'{"error": {"message": "extra fields are not permitted"}}')
            return
        values = body["structured_outputs"]["choice"]
        text = values[0] if can["constrains"] else "hello"
        likely = {values[0]: -0.5, values[1]: -len(body["messages"][-1]["content"]) / 10}
        told = [
            {"token": text, "top_logprobs": [
                {"token": token, "logprob": value} for token, value in likely.items()
            ]}
        ]  # fmt: skip
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        if can["tells"]:
            choice["logprobs"] = {"content": told}
        is_continued = can["continues"] and body["continue_final_message"]
        usage = {"completion_tokens": 1, "prompt_tokens": 20 if is_continued else 26}
        exchange.answer(200, json.dumps({"choices": [choice], "usage": usage}).encode())

    return answer


def make_engine(server: MisbehavingServer, folder: Path | None) -> OpenAiEngine:
    endpoint = Endpoint.model_validate({"base_url": server.url, "model": "m", "attempts": 1})
    load = None if folder is None else partial(PolicyTokenizer.load, folder)
    return OpenAiEngine("here", endpoint, model="m", load_tokenizer=load)


def make_request(text: str) -> ForcedLineRequest:
    conversation: Conversation = [{"role": "user", "content": "judge"}]
    return ForcedLineRequest(conversation, Completion(text, 3, "stop"), len(text))


def test_values_are_read_after_each_reply_and_the_server_is_tried_once(
    server: MisbehavingServer, folder: Path
) -> None:
    server.usually = answer_as()
    engine = make_engine(server, folder)
    assert isinstance(engine, ForcedLineReader)
    requests = [make_request("one two"), make_request("one")]
    readings = engine.read_forced_lines(requests, LINE, options=ChatOptions())
    assert len(server.requests) == 4
    again = engine.read_forced_lines(requests, LINE, options=ChatOptions())
    assert (len(server.requests), again) == (6, readings)
    for reading, text in zip(readings, ("one two", "one"), strict=True):
        assert reading is not None
        assert reading.text == f"{text}\nScore:"
        assert reading.log_probabilities == (-0.5, -len(reading.text) / 10)
        assert len(reading.token_ids) - reading.injected == len(text.split())
    begun = {"role": "assistant", "content": "one two\nScore:"}
    sent = next(body for body in server.requests if body["messages"][-1] == begun)
    assert sent["structured_outputs"] == {"choice": [" 1", " 2"]}
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("continues", "does not continue the assistant's turn"),
        ("constrains", "does not constrain a reply"),
        ("tells", "does not return token probabilities"),
        ("knows", "extra fields are not permitted"),
    ],
)
def test_a_server_that_cannot_is_refused_with_the_reason(
    missing: str, words: str, server: MisbehavingServer, folder: Path
) -> None:
    server.usually = answer_as(**{missing: False})
    with pytest.raises(EndpointError, match=words) as refused:
        make_engine(server, folder).read_forced_lines(
            [make_request("one")], LINE, options=ChatOptions()
        )
    assert "use a free readout" in str(refused.value)


def test_what_no_server_can_do_is_refused_before_it_is_asked(
    server: MisbehavingServer, folder: Path
) -> None:
    ten = ForcedLine("\nScore:", (" 1", " 10"))
    with pytest.raises(EngineError, match="are prefixes of one another"):
        make_engine(server, folder).read_forced_lines([], ten, options=ChatOptions())
    with pytest.raises(EngineError, match="does not serve the model that is trained"):
        make_engine(server, None).read_forced_lines([], LINE, options=ChatOptions())
    assert not server.requests


def test_values_of_several_tokens_are_read_along_the_reply() -> None:
    choices = [
        TokenChoice(" ", ((" ", -0.1), (" 4", -3.0))),
        TokenChoice("5", (("5", -0.2), ("4", -1.0), ("x", -9.0))),
    ]
    found = read_log_probabilities((" 4", " 5", " 3"), choices)
    assert found is not None
    assert found[:2] == pytest.approx((-1.1, -0.3))
    assert found[2] == -math.inf
    assert read_log_probabilities((" 7", " 8"), choices) is None
    assert read_log_probabilities((" 7", " 8"), None) is None
