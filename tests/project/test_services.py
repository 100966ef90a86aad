"""What a machine lacks for the tests is told, never skipped."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import services

SCRIPT = Path(__file__).parents[1] / "services.sh"


def test_a_server_that_is_missing_fails_the_test_and_says_how_to_install_it() -> None:
    with pytest.raises(AssertionError, match="apt-get install --yes postgresql"):
        services._program("no-such-program")


def test_a_redis_server_that_is_missing_is_told_in_the_same_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        pytest.raises(AssertionError, match="apt-get install --yes redis-server"),
        services.redis_server(),
    ):
        pass


def test_a_redis_server_is_killed_and_remembers(redis_server: services.RedisServer) -> None:
    with redis_server.client() as client:
        assert client.info("server")["redis_version"]
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        client.set("kept", "a message")
        redis_server.kill()
        redis_server.start()
        assert client.get("kept") == b"a message"


def test_the_script_is_quick_where_nothing_is_missing(postgres_url: str) -> None:
    done = subprocess.run([SCRIPT], env=os.environ, capture_output=True, timeout=5, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
