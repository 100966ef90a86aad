"""Processes of another environment that read lines and reply to each with numbers."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VLLM_PYTHON = Path(".venv-vllm/bin/python")


@dataclass(frozen=True)
class Ask:
    """A process that replies to each line with numbers."""

    process: "subprocess.Popen[str]"
    script: str

    def __call__(self, line: str) -> Sequence[float]:
        """Send a line; return the numbers in the reply."""
        self.send(line)
        return self.receive()

    def send(self, line: str) -> None:
        """Send a line."""
        print(line, file=self.process.stdin, flush=True)

    def receive(self) -> Sequence[float]:
        """Wait for the numbers in the reply."""
        assert self.process.stdout is not None
        while not (answer := self.process.stdout.readline()).startswith("drawn "):
            if not answer:
                raise SystemExit(f"{self.script} ended without an answer")
        return [float(word) for word in answer.split()[1:]]


@contextmanager
def asked_process(
    python: Path, script: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Ask]:
    """Run a script of this folder until the block ends.

    It replies to each input line with a line that starts with "drawn "; its other output is
    ignored.
    """
    command = [str(python.absolute()), str(Path(__file__).with_name(script)), *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield Ask(process, script)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def bare_vllm(where: Path, /, **work: Any) -> AbstractContextManager[Ask]:
    """Run a plain vLLM process; a request is a seed and the name of a list of calls.

    See engine_vllm.py. It responds with the generated tokens, and the prompt tokens looked up and
    found in the prefix cache.

    Args:
        where: a folder that its work is written to.
        work: what engine_vllm.py reads.
    """
    path = where / "work.json"
    path.write_text(json.dumps(work), encoding="utf-8")
    return asked_process(VLLM_PYTHON, "engine_vllm.py", str(path))
