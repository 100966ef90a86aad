"""The engine that asks servers, against a real one that misbehaves."""

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from meta_reward_core.engines.base import (
    Completion,
    Conversation,
    Engine,
    SamplingParams,
    TokenChoice,
    pack_token_ids,
)
from meta_reward_core.engines.endpoints import Endpoint
from meta_reward_core.engines.openai import PLAIN_PROMPT, OpenAiEngine
from meta_reward_core.errors import EndpointError, EngineError
from tests.core.engines.misbehaving_server import (
    Behaviour,
    MisbehavingServer,
    completion,
    dripping,
    failing,
    fewer,
    half_closed,
    misbehaving_server,
    reset,
    saying,
    silent,
    well,
)

WARM = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=16)
GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=16)
KEY = "sk-very-secret"


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with misbehaving_server() as running:
        yield running


def user(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


def engine_of(server: MisbehavingServer, **settings: Any) -> OpenAiEngine:
    fields = {"base_url": server.url, "model": "m", "attempts": 4, "timeout_seconds": 5} | settings
    endpoint = Endpoint.model_validate(fields)
    return OpenAiEngine("here", endpoint, model="m", first_wait_seconds=0.002)


def draw_one(server: MisbehavingServer, **settings: Any) -> Completion:
    [[sampled]] = engine_of(server, **settings).sample([user("hi")], 1, sampling=WARM, seed=1)
    return sampled


def test_each_conversation_gets_its_own_completions_in_order(server: MisbehavingServer) -> None:
    engine: Engine = engine_of(server)
    names = ["d", "a", "c", "b"]
    sampled = engine.sample([user(name) for name in names], 3, sampling=WARM, seed=5)
    assert [[c.text.split()[0] for c in row] for row in sampled] == [[name] * 3 for name in names]
    assert len({c.text for row in sampled for c in row}) == 12


def test_a_request_says_how_tokens_are_drawn(server: MisbehavingServer) -> None:
    engine_of(server, extra={"top_k": 5}).sample([user("hi")], 2, sampling=WARM, seed=5)
    [sent] = server.requests
    seed = sent.pop("seed")
    assert 0 <= seed < 2**31
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "n": 2,
        "temperature": 0.8,
        "top_p": 0.95,
        "max_tokens": 16,
        "stream": False,
        "top_k": 5,
    }


def test_a_conversation_is_sent_turn_by_turn(server: MisbehavingServer) -> None:
    told: Conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "again"},
    ]
    engine_of(server).sample([told], 1, sampling=WARM, seed=5)
    assert server.requests[0]["messages"] == told


def test_the_same_seed_sends_the_same_seeds(server: MisbehavingServer) -> None:
    draw = [
        engine_of(server).sample([user("a"), user("a")], 2, sampling=WARM, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert draw[0] == draw[1]
    assert draw[0] != draw[2]
    assert draw[0][0] != draw[0][1], "equal conversations do not get equal replies"


def test_no_seed_is_sent_where_the_server_takes_none(server: MisbehavingServer) -> None:
    draw_one(server, send_seed=False)
    assert "seed" not in server.requests[0]


def test_greedy_replies_are_asked_for_once(server: MisbehavingServer) -> None:
    [row] = engine_of(server).sample([user("hi")], 3, sampling=GREEDY, seed=1)
    assert [request["n"] for request in server.requests] == [1]
    assert row == [row[0]] * 3


def test_requests_that_begin_alike_follow_one_another(server: MisbehavingServer) -> None:
    engine = engine_of(server, concurrency=1)
    engine.sample([user(text) for text in ("ab", "b", "aa", "ba")], 1, sampling=WARM, seed=1)
    assert [sent["messages"][0]["content"] for sent in server.requests] == ["aa", "ab", "b", "ba"]


def test_no_more_requests_are_under_way_than_allowed(server: MisbehavingServer) -> None:
    def busy(exchange: Any) -> None:
        time.sleep(0.05)
        exchange.answer(200, completion(["done"]))

    server.usually = busy
    engine = engine_of(server, concurrency=3)
    engine.sample([user(str(at)) for at in range(12)], 1, sampling=WARM, seed=1)
    assert server.peak == 3


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(failing(429), id="too many requests"),
        pytest.param(failing(500), id="server error"),
        pytest.param(failing(503), id="overloaded"),
        pytest.param(saying(b"<html>Bad gateway</html>", 502), id="a gateway's page"),
        pytest.param(saying(b'{"choices": [{"mess'), id="broken JSON"),
        pytest.param(saying(b"[" * 100_000), id="deep JSON"),
        pytest.param(saying(b'{"choices": "none"}'), id="another form"),
        pytest.param(saying(completion([])), id="no choices"),
        pytest.param(saying(completion(["hi"], ended="abort")), id="an aborted reply"),
        pytest.param(saying(b'{"choices": [{"message": {}}], "usage": {}}'), id="no usage"),
        pytest.param(saying(b"not gzip", Content_Encoding="gzip"), id="wrong encoding"),
        pytest.param(half_closed, id="half an answer"),
        pytest.param(reset, id="a reset"),
    ],
)
def test_what_may_pass_is_tried_again(server: MisbehavingServer, trouble: Behaviour) -> None:
    server.coming = [trouble, trouble]
    assert draw_one(server).text.startswith("hi ")
    assert len(server.requests) == 3


@pytest.mark.parametrize("trouble", [silent, dripping])
def test_a_request_has_a_time_limit(server: MisbehavingServer, trouble: Behaviour) -> None:
    server.coming = [trouble]
    begun = time.monotonic()
    assert draw_one(server, timeout_seconds=0.3).text.startswith("hi ")
    assert time.monotonic() - begun < 5


def test_a_storm_of_429_is_weathered(server: MisbehavingServer) -> None:
    server.coming = [failing(429)] * 30
    conversations = [user(str(at)) for at in range(20)]
    engine = engine_of(server, attempts=12)
    sampled = engine.sample(conversations, 2, sampling=WARM, seed=1)
    assert [len(row) for row in sampled] == [2] * 20
    assert len(server.requests) == 50


def test_what_does_not_pass_ends_as_an_engine_error_with_words(server: MisbehavingServer) -> None:
    server.usually = failing(503, "the model is loading")
    with pytest.raises(
        EngineError, match=r"'here'.*503.*the model is loading.*attempt 4"
    ) as failed:
        draw_one(server)
    assert failed.value.retryable
    assert len(server.requests) == 4


def test_the_first_failure_stops_the_other_requests(server: MisbehavingServer) -> None:
    server.coming = [silent] * 8 + [failing(404, "the model `m` does not exist")]
    begun = time.monotonic()
    with pytest.raises(EndpointError, match="does not exist"):
        engine_of(server, concurrency=9, timeout_seconds=60).sample(
            [user(str(at)) for at in range(40)], 1, sampling=WARM, seed=1
        )
    assert time.monotonic() - begun < 10
    assert len(server.requests) == 9


def test_a_server_that_is_not_there_is_an_engine_error() -> None:
    with misbehaving_server() as gone:
        pass
    with pytest.raises(EngineError, match="connection failed"):
        draw_one(gone)


def test_retry_after_holds_for_all_requests(server: MisbehavingServer) -> None:
    server.coming = [saying(b"{}", 429, Retry_After="1")]
    begun = time.monotonic()
    engine = engine_of(server, concurrency=1)
    engine.sample([user("a"), user("b")], 1, sampling=WARM, seed=1)
    assert time.monotonic() - begun >= 1


def test_a_server_that_wants_an_hour_has_failed(server: MisbehavingServer) -> None:
    server.coming = [saying(b"{}", 429, Retry_After="3600")]
    with pytest.raises(EngineError, match="wait 3,600 seconds"):
        draw_one(server)
    assert len(server.requests) == 1


def test_choices_that_are_left_out_are_asked_for_again(server: MisbehavingServer) -> None:
    server.usually = fewer
    [row] = engine_of(server).sample([user("hi")], 3, sampling=WARM, seed=1)
    assert [c.text for c in row] == ["only one"] * 3
    assert [sent["n"] for sent in server.requests] == [3, 2, 1]
    assert len({sent["seed"] for sent in server.requests}) == 3


def test_choices_too_many_are_left_out(server: MisbehavingServer) -> None:
    server.usually = saying(completion(["a", "b", "c"]))
    [row] = engine_of(server).sample([user("hi")], 2, sampling=WARM, seed=1)
    assert [c.text for c in row] == ["a", "b"]


def test_a_request_asks_for_no_more_choices_than_the_server_takes(
    server: MisbehavingServer,
) -> None:
    [row] = engine_of(server, max_choices=2).sample([user("hi")], 5, sampling=WARM, seed=1)
    assert [sent["n"] for sent in server.requests] == [2, 2, 1]
    assert len({c.text for c in row}) == 5


def test_one_bad_choice_does_not_spoil_the_others(server: MisbehavingServer) -> None:
    body = json.loads(completion(["good", "bad"], tokens=9))
    body["choices"][1]["message"] = None
    server.coming = [saying(json.dumps(body).encode())]
    [row] = engine_of(server).sample([user("hi")], 2, sampling=WARM, seed=1)
    assert row[0].text == "good"
    assert [sent["n"] for sent in server.requests] == [2, 1]


TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens. "
    "Please reduce the length of the input messages."
)


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(failing(400, TOO_LONG, type="BadRequestError"), id="by its words"),
        pytest.param(failing(400, "no", code="context_length_exceeded"), id="by its code"),
        pytest.param(failing(400, "no", type="exceed_context_size_error"), id="by its type"),
        pytest.param(saying(b"", 413), id="by its status"),
    ],
)
def test_a_prompt_that_is_too_long_is_refused_and_the_others_are_not(
    server: MisbehavingServer, refusal: Behaviour
) -> None:
    server.coming = [refusal]
    engine = engine_of(server, concurrency=1)
    sampled = engine.sample([user("a long one"), user("b")], 2, sampling=WARM, seed=1)
    assert [(c.text, c.tokens, c.finish_reason) for c in sampled[0]] == [("", 0, "refused")] * 2
    assert "too long" in str(sampled[0][0].refusal)
    assert [c.finish_reason for c in sampled[1]] == ["stop", "stop"]
    assert len(server.requests) == 2


PROVIDER_WORDS = [
    (400, "This model's maximum context length is 8192 tokens. However, you sent "
          "9001 tokens. Please reduce the length of the messages."),
    (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
    (400, "'max_tokens' or 'max_completion_tokens' is too large: 2048. This model's maximum "
          "context length is 4096 tokens and your request has 3000 input tokens"),
    (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
    (400, "the request exceeds the available context size. try increasing the context size"),
    (500, "input is too large to process. increase the physical batch size"),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096."),
    (500, "the input length exceeds the context length"),
    (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    (400, "The input token count (2000000) exceeds the maximum number of tokens allowed (9999)."),
    (400, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"),
    (413, "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 9000"),
    (400, "too many tokens: size limit exceeded by 300 tokens"),
    (400, "Input is too long for requested model."),
    (400, "This model's maximum prompt length is 131072 but the request contains 140000 tokens."),
    (400, "The number of tokens to keep from the initial prompt is greater than the context size"),
    (400, "Unable to submit request because the input token count is 40000 but model only supports "
          "up to 32768. Reduce the input token count and try again."),
    (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"),
    (400, "Request prompt has 5000 tokens in total, larger than the model input length limit."),
    (400, "Invalid request: Your request exceeded model token limit: 8192"),
    (400, "Range of input length should be [1, 30720]"),
    (400, "max_tokens must be at least 1, got -904."),
    (400, "Prompt exceeds max length"),
    (400, "Prompt 超长"),
    (400, "Malformed input request: expected maxLength: 50000, actual: 60000"),
    (413, "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 9000. "
          "Need more tokens? Upgrade at https://console.example/settings/billing"),
    (429, "Request too large for m in organization o on tokens per min (TPM): Limit 30000, "
          "Requested 41000. The input or output tokens must be reduced."),
]  # fmt: skip


@pytest.mark.parametrize(("status", "words"), PROVIDER_WORDS)
def test_every_provider_says_in_its_own_words_that_a_prompt_is_too_long(
    server: MisbehavingServer, status: int, words: str
) -> None:
    server.coming = [failing(status, words)]
    sampled = draw_one(server)
    assert (sampled.finish_reason, len(server.requests)) == ("refused", 1)
    assert "too long" in str(sampled.refusal)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            400,
            "max_tokens is too large: 20000. This model supports at most 16384 completion tokens",
        ),
        (400, "You exceeded your current quota, please check your plan and billing details."),
        (400, "The model `m` does not exist or you do not have access to it."),
        (400, "Unrecognized request argument supplied: top_k"),
    ],
)
def test_a_wrong_setting_is_not_taken_for_a_prompt_that_is_too_long(
    server: MisbehavingServer, status: int, words: str
) -> None:
    server.usually = failing(status, words)
    with pytest.raises(EndpointError):
        draw_one(server)


def without_content(exchange: Any) -> None:
    body = json.loads(completion(["x"]))
    body["choices"][0]["message"]["content"] = None
    exchange.answer(200, json.dumps(body).encode())


def without_content_or_usage(exchange: Any) -> None:
    message = {"role": "assistant", "content": None}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": None}
    exchange.answer(200, json.dumps(body).encode())


BAD_PROMPT_HABITS = {
    "null content": without_content,
    "null content without usage": without_content_or_usage,
    "no choices": saying(completion([])),
    "null choices": saying(b'{"choices": null, "base_resp": {"status_msg": "sensitive"}}'),
    "an error as a success": saying(b'{"error": {"code": 400, "message": "bad input"}}'),
    "an error without a code as a success": saying(b'{"error": {"message": "provider error"}}'),
    "a choice with an error": saying(completion([""], ended="error")),
    "never JSON": saying(b'{"choices": [{"mess'),
    "a gateway's page": saying(b"<html>Bad gateway</html>", 502),
    "a reset": reset,
    "flagged": failing(403, "Your chosen model requires moderation and your input was flagged"),
    "forbidden by a firewall": saying(b"<html>Attention required</html>", 403),
    "unavailable for legal reasons": failing(451, "not in this region"),
    "too long for the rate limit": failing(429, "Request too large for m on tokens per min"),
    "an unknown end": saying(completion(["x"], ended="recitation")),
    "a server error": failing(500, "Conversation roles must alternate"),
    "too long": failing(400, TOO_LONG),
    "rejected in words of its own": failing(400, "Input data may contain inappropriate content."),
    "unprocessable": failing(422, "messages.0.content: invalid unicode"),
    "filtered": failing(400, "no", code="content_filter"),
}


def test_a_prompt_that_the_server_never_answers_does_not_cost_the_others(
    server: MisbehavingServer,
) -> None:
    def behave(exchange: Any) -> None:
        text = exchange.body["messages"][0]["content"]
        silent(exchange) if text == "bad" else well(exchange)

    server.usually = behave
    engine = engine_of(server, attempts=2, timeout_seconds=0.3)
    sampled = engine.sample([user("good"), user("bad")], 1, sampling=WARM, seed=1)
    assert [row[0].finish_reason for row in sampled] == ["stop", "refused"]
    assert "did not respond within 0.3 seconds" in str(sampled[1][0].refusal)


def test_one_prompt_alone_is_refused_only_if_a_plain_one_is_answered(
    server: MisbehavingServer,
) -> None:
    server.usually = failing(500, "out of order")
    with pytest.raises(EngineError, match=r"500.*out of order.*a plain prompt failed too"):
        draw_one(server)


def test_a_server_that_takes_one_choice_at_a_time_is_not_blamed_on_the_prompts(
    server: MisbehavingServer,
) -> None:
    def behave(exchange: Any) -> None:
        takes = exchange.body["n"] == 1
        (well if takes else failing(400, "only n = 1 is supported"))(exchange)

    server.usually = behave
    with pytest.raises(EndpointError, match="only n = 1 is supported"):
        engine_of(server).sample([user("a"), user("b")], 3, sampling=WARM, seed=1)
    [row] = engine_of(server, max_choices=1).sample([user("a")], 3, sampling=WARM, seed=1)
    assert len(row) == 3


def test_rate_limits_are_given_four_times_as_many_attempts(server: MisbehavingServer) -> None:
    server.coming = [failing(429)] * 7
    assert draw_one(server, attempts=2).text.startswith("hi ")
    server.coming = [failing(429)] * 8
    with pytest.raises(EngineError, match=r"429.*attempt 8"):
        draw_one(server, attempts=2)


@pytest.mark.parametrize("ended", ["STOP", "MAX_TOKENS", "model_length", "stop_token"])
def test_reasons_for_the_end_of_a_reply_are_read_in_the_words_of_each_provider(
    server: MisbehavingServer, ended: str
) -> None:
    server.usually = saying(completion(["x"], ended=ended))
    expected = "length" if "length" in ended or "MAX" in ended else "stop"
    assert draw_one(server).finish_reason == expected


def test_the_text_parts_of_a_reply_are_one_text(server: MisbehavingServer) -> None:
    body = json.loads(completion(["x"]))
    body["choices"][0]["message"]["content"] = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "one "},
        {"type": "text", "text": "two"},
    ]
    server.usually = saying(json.dumps(body).encode())
    assert draw_one(server).text == "one two"


def test_milliseconds_until_the_next_attempt_are_respected(server: MisbehavingServer) -> None:
    server.coming = [saying(b"{}", 429, Retry_After_Ms="400")]
    begun = time.monotonic()
    assert draw_one(server).text.startswith("hi ")
    assert 0.4 <= time.monotonic() - begun < 3


@pytest.mark.parametrize("habit", BAD_PROMPT_HABITS)
def test_a_prompt_that_the_server_cannot_take_does_not_cost_the_others(
    server: MisbehavingServer, habit: str
) -> None:
    """Two of a hundred; a third of the others meets up to three other troubles first."""
    odd = itertools.cycle([failing(429), saying(b"{"), fewer, reset, failing(503)])
    attempts = Counter[str]()

    def behave(exchange: Any) -> None:
        text = exchange.body["messages"][0]["content"]
        if text in ("17", "71"):
            BAD_PROMPT_HABITS[habit](exchange)
            return
        attempts[text] += 1
        if text != PLAIN_PROMPT and int(text) % 3 == 0 and attempts[text] <= 3:
            next(odd)(exchange)
        else:
            exchange.answer(200, completion([text] * exchange.body["n"]))

    server.usually = behave
    engine = engine_of(server, attempts=6)
    sampled = engine.sample([user(str(at)) for at in range(100)], 2, sampling=WARM, seed=1)
    refused = [at for at, row in enumerate(sampled) if row[0].finish_reason == "refused"]
    assert refused == [17, 71]
    assert all(len(row) == 2 for row in sampled)
    assert sampled[17][0].refusal


def test_a_busy_server_does_not_hide_that_a_prompt_is_at_fault(server: MisbehavingServer) -> None:
    """One of four attempts meets a 503, the others an answer without content."""
    server.coming = [without_content, without_content, without_content, failing(503)]
    engine = engine_of(server, attempts=4, concurrency=1)
    sampled = engine.sample([user("bad"), user("good")], 1, sampling=WARM, seed=1)
    assert [row[0].finish_reason for row in sampled] == ["refused", "stop"]
    assert "a reply that is not text" in str(sampled[0][0].refusal)


def test_where_a_plain_prompt_is_answered_many_bad_prompts_do_not_cost_the_others(
    server: MisbehavingServer,
) -> None:
    """All judgments of one response ask the same of a server; a small shard has few others."""

    def behave(exchange: Any) -> None:
        text = exchange.body["messages"][0]["content"]
        bad = text != PLAIN_PROMPT and int(text) < 7
        if bad:
            without_content(exchange)
        else:
            exchange.answer(200, completion([text]))

    server.usually = behave
    engine = engine_of(server, attempts=2)
    sampled = engine.sample([user(str(at)) for at in range(10)], 1, sampling=WARM, seed=1)
    assert [row[0].finish_reason for row in sampled] == ["refused"] * 7 + ["stop"] * 3
    plain = [sent for sent in server.requests if sent["messages"][0]["content"] == PLAIN_PROMPT]
    assert 1 <= len(plain) <= 4


def test_a_server_that_answers_no_prompt_has_failed(server: MisbehavingServer) -> None:
    server.usually = without_content
    with pytest.raises(EngineError, match=r"a reply that is not text.*a plain prompt failed too"):
        engine_of(server).sample([user(str(at)) for at in range(40)], 1, sampling=WARM, seed=1)
    assert len(server.requests) < 160


def test_a_prompt_is_refused_that_leaves_too_little_room_for_the_reply(
    server: MisbehavingServer,
) -> None:
    """A prompt of 85 tokens and a reply of 16 exceed 100; a prompt of 84 does not."""
    for prompt_tokens, reason in ((85, "refused"), (84, "stop")):
        body = json.loads(completion(["shortened"]))
        body["usage"]["prompt_tokens"] = prompt_tokens
        server.coming = [saying(json.dumps(body).encode())]
        sampled = draw_one(server, context_tokens=100)
        assert sampled.finish_reason == reason
        assert ("85 tokens" in str(sampled.refusal)) == (reason == "refused")


def test_a_reply_that_the_server_withholds_is_refused(server: MisbehavingServer) -> None:
    server.coming = [saying(completion([""], ended="content_filter"))]
    sampled = draw_one(server)
    assert sampled.finish_reason == "refused"
    assert "content filter" in str(sampled.refusal)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        pytest.param(failing(400, "top_p must be in (0, 1]"), "400.*top_p", id="bad request"),
        pytest.param(failing(401, "who are you"), "key.*401.*who are you", id="no key"),
        pytest.param(failing(403, "not for you"), "key.*403.*not for you", id="not allowed"),
        pytest.param(failing(404, "no such model"), "404.*no such model", id="no such model"),
        pytest.param(
            failing(429, "pay first", code="insufficient_quota"), "pay first", id="no money"
        ),
    ],
)
def test_what_a_person_must_mend_is_not_tried_again(
    server: MisbehavingServer, trouble: Behaviour, words: str
) -> None:
    server.usually = trouble
    with pytest.raises(EndpointError, match=words) as failed:
        draw_one(server)
    assert not failed.value.retryable
    asked = [sent["messages"][0]["content"] for sent in server.requests]
    assert asked in (["hi"], ["hi", PLAIN_PROMPT])


def test_no_redirect_is_followed(server: MisbehavingServer) -> None:
    server.usually = saying(b"", 302, Location="/v1/elsewhere")
    with pytest.raises(EndpointError, match="redirect"):
        draw_one(server)
    assert server.followed == []


def test_the_servers_count_of_tokens_is_kept(server: MisbehavingServer) -> None:
    """32 tokens over texts of 3 and 11 characters, each one more: 4 of 16 and 12 of 16."""
    server.usually = saying(completion(["abc", "abcdefghijk"], tokens=32))
    [row] = engine_of(server).sample([user("hi")], 2, sampling=WARM, seed=1)
    assert [c.tokens for c in row] == [8, 24]


def test_a_reply_that_was_cut_off_has_as_many_tokens_as_it_may(server: MisbehavingServer) -> None:
    """50 tokens, of which one reply has its 16: 34 over texts of 9 and 6, so 20 of 34 and 14."""
    body = json.loads(completion(["a" * 9, "a" * 99, "a" * 6], tokens=50))
    body["choices"][1]["finish_reason"] = "length"
    server.usually = saying(json.dumps(body).encode())
    [row] = engine_of(server).sample([user("hi")], 3, sampling=WARM, seed=1)
    assert [c.tokens for c in row] == [20, 16, 14]


def test_listed_tokens_are_counted(server: MisbehavingServer) -> None:
    body = json.loads(completion(["a", "b"], tokens=30))
    for choice, ids in zip(body["choices"], ([1, 2, 3], [4]), strict=True):
        choice["token_ids"] = ids
    server.usually = saying(json.dumps(body).encode())
    [row] = engine_of(server).sample([user("hi")], 2, sampling=WARM, seed=1)
    assert [c.tokens for c in row] == [3, 1]


def listing(ids: object) -> Behaviour:
    body = json.loads(completion(["a"], tokens=3))
    body["choices"][0]["token_ids"] = ids
    return saying(json.dumps(body).encode())


@pytest.mark.parametrize("ids", [[1, 2, 128_009], []])
def test_listed_ids_are_kept_of_the_weights_that_are_trained(
    server: MisbehavingServer, ids: list[int]
) -> None:
    server.usually = listing(ids)
    assert draw_one(server, model="policy-{weights}").token_ids == pack_token_ids(ids)


def test_the_ids_of_an_outside_model_mean_something_else_to_ours_and_are_left_out(
    server: MisbehavingServer,
) -> None:
    server.usually = listing([1, 2, 3])
    sampled = draw_one(server)
    assert (sampled.tokens, sampled.token_ids) == (3, None)


@pytest.mark.parametrize("ids", [None, "1 2", [1, -1], [1, 2**31], [1.0], [True], ["1"], [None]])
def test_what_are_no_ids_is_marked_as_none(server: MisbehavingServer, ids: object) -> None:
    server.usually = listing(ids)
    assert draw_one(server, model="policy-{weights}").token_ids is None


def test_a_reply_that_the_limit_cut_off_says_so(server: MisbehavingServer) -> None:
    server.usually = saying(completion(["a b"], ended="length"))
    assert draw_one(server).finish_reason == "length"


def test_half_a_character_does_not_reach_files(server: MisbehavingServer) -> None:
    server.usually = saying(completion(["a \ud83d b"]))
    assert draw_one(server).text.encode() == b"a ? b"


def test_progress_counts_completions_and_tokens(server: MisbehavingServer) -> None:
    server.usually = saying(completion(["one two", "three"]))
    seen: list[tuple[int, int]] = []
    engine_of(server, concurrency=1).sample(
        [user("a"), user("b")], 2, sampling=WARM, seed=1, progress=lambda *at: seen.append(at)
    )
    assert seen == [(2, 3), (4, 6)]


def test_the_key_goes_to_its_endpoint_and_nowhere_else(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    caplog.set_level(logging.DEBUG)
    server.coming = [
        saying(completion([f"your key is {KEY}"])),
        failing(401, f"unknown key Bearer {KEY}"),
    ]
    assert draw_one(server, key_env="SOME_KEY").text == "your key is [key]"
    with pytest.raises(EndpointError, match=r"unknown key Bearer \[key\]") as failed:
        draw_one(server, key_env="SOME_KEY")
    assert {sent["Authorization"] for sent in server.headers} == {f"Bearer {KEY}"}
    assert KEY not in repr(failed.getrepr(style="long"))
    assert KEY not in caplog.text


def test_an_endpoint_without_a_key_sends_none(server: MisbehavingServer) -> None:
    draw_one(server)
    assert "Authorization" not in server.headers[0]


def test_no_conversations_ask_for_nothing(server: MisbehavingServer) -> None:
    assert engine_of(server).sample([], 3, sampling=WARM, seed=1) == []
    assert server.requests == []


def test_a_closed_engine_refuses(server: MisbehavingServer) -> None:
    engine = engine_of(server)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.sample([user("hi")], 1, sampling=WARM, seed=1)


def with_logprobs(content: Any) -> bytes:
    said = json.loads(completion(["Better: A"]))
    said["choices"][0]["logprobs"] = {"content": content}
    return json.dumps(said).encode()


def told(token: Any, *others: tuple[Any, Any]) -> dict[str, Any]:
    return {
        "token": token,
        "logprob": -0.1,
        "top_logprobs": [{"token": text, "logprob": value} for text, value in others],
    }


def test_log_probabilities_are_asked_for_and_read_only_on_request(
    server: MisbehavingServer,
) -> None:
    """The likeliest first, whatever order they come in."""
    content = [told("Better:", ("Better:", 0.0)), told(" A", (" B", -2.5), (" A", -0.1))]
    server.usually = saying(with_logprobs(content))
    asking = SamplingParams(temperature=0, top_p=1, max_new_tokens=16, alternatives=5)
    [[sampled]] = engine_of(server).sample([user("hi")], 1, sampling=asking, seed=1)
    assert sampled.choices == (
        TokenChoice("Better:", (("Better:", 0.0),)),
        TokenChoice(" A", ((" A", -0.1), (" B", -2.5))),
    )
    draw_one(server)
    first, second = server.requests
    assert (first["logprobs"], first["top_logprobs"]) == (True, 5)
    assert "logprobs" not in second


@pytest.mark.parametrize(
    "content",
    [
        None,
        "many",
        [],
        [3],
        [told(3, (" A", -1.0))],
        [told("A", (" A", "likely"))],
        [told("A", (" A", True))],
        [told("A", (" A", 2.0))],
        [{"token": "A", "top_logprobs": {"A": -1}}],
    ],
)
def test_log_probabilities_of_another_form_are_not_used(
    server: MisbehavingServer, content: Any
) -> None:
    server.usually = saying(with_logprobs(content))
    sampled = draw_one(server)
    assert (sampled.text, sampled.choices) == ("Better: A", None)


def test_a_key_that_comes_back_among_tokens_is_hidden(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.usually = saying(with_logprobs([told(KEY, (KEY, -1.0))]))
    sampled = draw_one(server, key_env="SOME_KEY")
    assert sampled.choices == (TokenChoice("[key]", (("[key]", -1.0),)),)
