"""The engine that asks servers, against vLLM's own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_reward_core.engines.base import SamplingParams
from meta_reward_core.engines.openai import load_endpoint_engine
from meta_reward_core.models.validation import hash_model_folder
from meta_reward_core.system.settings import ENDPOINTS_VARIABLE
from tests.vllm.installation import SEED_MODEL, counts_of, run_smoke, summary_of

KEY = "sk-for-this-test"
WARM = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=24)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a server that has the miniature's seed model, as the policy and as an outside judge."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = [f"policy-{hash_model_folder(SEED_MODEL)[:12]}", "judge-1"]
    options = {"model": SEED_MODEL, "host": "127.0.0.1", "port": port, "dtype": "float32"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [word for name, given in options.items() for word in (f"--{name}", str(given))]
    command += ["--generation-config", "vllm", "--served-model-name", *names]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        command, env={**os.environ, **settings, "VLLM_API_KEY": KEY}, process_group=0
    )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the server did not start"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return
    raise TimeoutError(url)


@pytest.fixture
def endpoints(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    # A seed kills this build as soon as a prompt is read in two steps.
    shared = {"base_url": address, "key_env": "SERVED_KEY", "send_seed": False}
    policy = shared | {
        "model": "policy-{weights}",
        "context_tokens": 256,
        "extra": {"return_token_ids": True},
    }
    setting = json.dumps({"local": policy, "outside": shared | {"model": "judge-1"}})
    monkeypatch.setenv(ENDPOINTS_VARIABLE, setting)
    monkeypatch.setenv("SERVED_KEY", KEY)
    return setting


def test_an_iteration_runs_through_a_server(endpoints: str, tmp_path: Path) -> None:
    settings = ("engine.endpoint=local", "evaluation.ground_truth=false")
    changes = [word for setting in settings for word in ("--set", setting)]
    assert run_smoke(tmp_path, "--engine", "openai", *changes).wait(400) == 0
    summary = summary_of(tmp_path)
    assert counts_of(summary, "generate")["completions"] == 252
    assert counts_of(summary, "judge")["unscored"] < 30
    assert counts_of(summary, "meta_judge")["battles"] > 500
    assert run_smoke(tmp_path, "--iterations", "2").wait(100) == 2, "it serves other weights"
    written = [file.read_bytes() for file in (tmp_path / "artifacts").rglob("*") if file.is_file()]
    assert not any(KEY.encode() in data for data in written)


def test_an_outside_judge_judges_what_the_model_says(endpoints: str, tmp_path: Path) -> None:
    settings = ("judge.endpoint=outside", "evaluation.ground_truth=false", "sample.prompts=12")
    changes = [word for setting in settings for word in ("--set", setting)]
    assert run_smoke(tmp_path, *changes).wait(400) == 0
    summary = summary_of(tmp_path)
    assert counts_of(summary, "judge")["judgments"] > 500


@pytest.mark.usefixtures("endpoints")
def test_prompts_that_do_not_fit_are_refused() -> None:
    engine = load_endpoint_engine("local", SEED_MODEL)
    texts = ["yes", "yes " * 240, "yes " * 400]
    sampled = engine.sample(
        [[{"role": "user", "content": text}] for text in texts], 2, sampling=WARM, seed=1
    )
    assert [{c.finish_reason for c in row} for row in sampled[1:]] == [{"refused"}, {"refused"}]
    assert "refused" not in {c.finish_reason for c in sampled[0]}
    assert "limit of 256 tokens" in str(sampled[1][0].refusal)
    assert all(0 < c.tokens <= 24 for c in sampled[0])
