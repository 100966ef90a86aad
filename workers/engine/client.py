"""A worker's client of its engine process: start it, send requests, read messages, kill it.

The child keeps a model loaded between shards, and between shards and completions that users
request. Killing it frees its device and cancels its shard. Its failures (out of memory, a CUDA
error) do not affect the worker.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Final

from meta_reward_core import errors
from meta_reward_core.engines.base import Completion, Conversation, SamplingParams
from meta_reward_core.errors import EngineError, MetaRewardError
from meta_reward_core.iteration import Resource
from meta_reward_core.system.settings import build_environment_without_secrets
from meta_reward_core.system.signals import make_parent_death_preexec
from workers.engine.output import EngineOutput
from workers.ops.devices import (
    DeviceGroup,
    DevicePool,
    build_environment,
    get_pool,
    kill_process_group,
    list_cores,
)


@dataclass(frozen=True, slots=True)
class ShardRequest:
    """The shard to run; see `workers.engine.process`."""

    artifact_root: str
    scratch: str
    experiment: str
    iteration: int
    stage: str
    shard: int
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """The completions to sample from M_number of an experiment; see `workers.engine.process`."""

    artifact_root: str
    experiment: str
    number: int
    conversations: Sequence[Conversation]
    samples: int
    sampling: SamplingParams
    seed: int
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class ShardResult:
    """Result of a finished shard.

    Attributes:
        reused: whether an earlier attempt had left the finished files.
        device: device of the engine.
    """

    counts: dict[str, int]
    reused: bool
    device: str


class ShardFailedError(Exception):
    """A request failed in the engine process.

    Attributes:
        kind: class name of the error.
        retryable: whether another attempt may succeed.
    """

    def __init__(self, message: str, *, kind: str, retryable: bool) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.message = message
        self.kind = kind
        self.retryable = retryable

    def to_core_error(self) -> MetaRewardError:
        """Return the error as it would have been raised in this process."""
        found = getattr(errors, self.kind, None)
        if isinstance(found, type) and issubclass(found, MetaRewardError):
            return found(self.message)
        return EngineError(str(self))


class ShardStoppedError(Exception):
    """The engine process was killed on purpose during a shard."""


class EngineHost:
    """At most one engine process at a time.

    Args:
        find_pool: returns the shared record of the devices used by each child process.

    Attributes:
        groups: devices with which the child was started, if one is running.
    """

    def __init__(self, find_pool: Callable[[], DevicePool] = get_pool) -> None:
        self._find_pool = find_pool
        self._child: subprocess.Popen[bytes] | None = None
        self._output: EngineOutput | None = None
        self._model: str | None = None
        self._unread = b""
        self.groups: tuple[DeviceGroup, ...] = ()

    @property
    def pid(self) -> int | None:
        """Process id of the engine process; None if it is not running."""
        return self._child.pid if self._child else None

    def run(
        self,
        request: ShardRequest,
        *,
        resource: Resource,
        model: str,
        groups: Sequence[DeviceGroup] = (),
        on_message: Callable[[dict[str, Any]], None],
        can_continue: Callable[[], bool],
        every_seconds: float = 1.0,
    ) -> ShardResult:
        """Run a shard in the engine process.

        Args:
            model: a key that identifies a loaded engine.
            groups: devices that it may use; the engines of other pool processes on them are
                stopped. If empty, a running child keeps its devices.
            on_message: called with the child's messages about its progress.
            can_continue: called periodically; False kills the child.

        Raises:
            ShardFailedError: the shard failed, or the child died.
            ShardStoppedError: `can_continue` returned False.
        """
        self._prepare(resource, model, groups)
        try:
            answer = self._exchange(request, on_message, can_continue, every_seconds)
        finally:
            if resource == "trainer":
                self.kill()
        return _build_result(answer)

    def submit(
        self,
        request: ShardRequest,
        *,
        resource: Resource,
        model: str,
        groups: Sequence[DeviceGroup],
    ) -> None:
        """Run a shard in the engine process without waiting; see `run`.

        Raises:
            ShardFailedError: the child died.
        """
        self._prepare(resource, model, groups)
        with self._kill_on_error():
            self._ask(request)

    def fileno(self) -> int:
        """File descriptor that becomes readable when the engine process sends a message or dies."""
        assert self._child is not None and self._child.stdout is not None  # noqa: S101, PT018
        return self._child.stdout.fileno()

    def receive(self, on_message: Callable[[dict[str, Any]], None]) -> ShardResult | None:
        """Return the result of a submitted shard; None while it runs.

        Raises:
            ShardFailedError: the shard failed, or the child died.
        """
        with self._kill_on_error():
            while (message := self._read_message(0.0)) is not None:
                if _is_answer(message):
                    break
                on_message(message)
            self._log_output()
        return None if message is None else _build_result(self._check_answer(message))

    def sample(
        self,
        request: SampleRequest,
        *,
        model: str,
        groups: Sequence[DeviceGroup] = (),
        on_message: Callable[[dict[str, Any]], None],
        can_continue: Callable[[], bool],
        every_seconds: float = 1.0,
    ) -> list[list[Completion]]:
        """Sample completions in the engine process; arguments as in `run`.

        Returns:
            One list per conversation, in order, each of `request.samples` completions.

        Raises:
            ShardFailedError: the engine failed, or the child died.
            ShardStoppedError: `can_continue` returned False.
        """
        self._prepare("engine", model, groups)
        answer = self._exchange(request, on_message, can_continue, every_seconds)
        return [[Completion(**sampled) for sampled in replies] for replies in answer["finished"]]

    def _exchange(
        self,
        request: ShardRequest | SampleRequest,
        on_message: Callable[[dict[str, Any]], None],
        can_continue: Callable[[], bool],
        every_seconds: float,
    ) -> dict[str, Any]:
        """Send a request and wait for the last message; kill the process if interrupted."""
        with self._kill_on_error():
            self._ask(request)
            answer = self._wait_for_answer(on_message, can_continue, every_seconds)
            self._log_output()
        return self._check_answer(answer)

    @contextlib.contextmanager
    def _kill_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.kill()
            raise

    def _check_answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer.get("fault"):
            self.kill()
        if "failed" in answer:
            raise ShardFailedError(
                answer["failed"], kind=answer["kind"], retryable=answer["retryable"]
            )
        return answer

    def kill(self) -> None:
        """Kill the engine process and everything it started, and wait until they have ended."""
        if self._child is None:
            return
        kill_process_group(self._child.pid)
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            _close(stream)
        if self._output is not None:
            self._output.close()
        self._find_pool().forget_engine(self.groups, self._child.pid)
        self._child = self._output = self._model = None
        self._unread = b""
        self.groups = ()

    def _prepare(self, resource: Resource, model: str, groups: Sequence[DeviceGroup]) -> None:
        """Ensure that a process runs on these devices and has this model, or no model, loaded."""
        if self._child is not None and self._child.poll() is not None:
            self.kill()  # it was idle for too long, or was killed
        if resource == "trainer" or (
            resource == "engine" and self._model is not None and self._model != model
        ):
            self.kill()
        if groups and self.groups != tuple(groups):
            self.kill()
        self._find_pool().stop_other_engines(groups, keep=self.pid)
        if self._child is None:
            self._start(groups, trains=resource == "trainer")
        if resource == "engine":
            self._model = model

    def _start(self, groups: Sequence[DeviceGroup], *, trains: bool) -> None:
        self._output = EngineOutput()
        self.groups = tuple(groups)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "workers.engine.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output.file,
            env=build_environment_without_secrets(trains=trains) | build_environment(groups),
            process_group=0,
            preexec_fn=_make_preexec(list_cores(groups)),
        )
        self._find_pool().note_engine(groups, self._child.pid)

    def _ask(self, request: ShardRequest | SampleRequest) -> None:
        assert self._child is not None and self._child.stdin is not None  # noqa: S101, PT018
        try:
            self._child.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._make_death_error() from None

    def _wait_for_answer(
        self,
        on_message: Callable[[dict[str, Any]], None],
        can_continue: Callable[[], bool],
        every_seconds: float,
    ) -> dict[str, Any]:
        """Read messages until the last one about the request."""
        ask_at = time.monotonic() + every_seconds
        while True:
            message = self._read_message(max(ask_at - time.monotonic(), 0.0))
            if message is not None and _is_answer(message):
                return message
            if message is not None:
                on_message(message)
            if time.monotonic() >= ask_at:
                self._log_output()
                if not can_continue():
                    raise ShardStoppedError
                ask_at = time.monotonic() + every_seconds

    def _read_message(self, timeout_seconds: float) -> dict[str, Any] | None:
        """Wait for a line from the process; None after the timeout."""
        assert self._child is not None and self._child.stdout is not None  # noqa: S101, PT018
        if b"\n" not in self._unread:
            if not select.select([self._child.stdout], [], [], timeout_seconds)[0]:
                return None
            read = os.read(self._child.stdout.fileno(), 65536)
            if not read:
                raise self._make_death_error()
            self._unread += read
        line, found, rest = self._unread.partition(b"\n")
        if not found:
            return None
        self._unread = rest
        message: dict[str, Any] = json.loads(line)
        return message

    def _make_death_error(self) -> ShardFailedError:
        """Describe how the process ended."""
        assert self._child is not None  # noqa: S101
        code = self._child.wait()
        how = _describe_end(code)
        last = self._output.read_last_lines() if self._output is not None else ""
        return ShardFailedError(
            f"{how}\n{last}" if last else how, kind="EngineDied", retryable=True
        )

    def _log_output(self) -> None:
        if self._output is not None:
            self._output.log_new_lines()


def _is_answer(message: dict[str, Any]) -> bool:
    return "finished" in message or "failed" in message


def _build_result(answer: dict[str, Any]) -> ShardResult:
    return ShardResult(answer["finished"], answer["reused"], answer["device"])


def _make_preexec(cores: frozenset[int]) -> Callable[[], None]:
    """Build the function that the process runs first: it binds it to its parent and its cores."""
    die_with_parent = make_parent_death_preexec()

    def prepare() -> None:
        die_with_parent()
        if cores:
            os.sched_setaffinity(0, cores)

    return prepare


HOST: Final = EngineHost()
"""The child of this pool process, which runs one task at a time."""


def _describe_end(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "the engine's process was killed (SIGKILL): by a user, or by the system because "
            "memory ran out"
        )
    if code < 0:
        return f"the engine's process was terminated by {signal.Signals(-code).name}"
    return f"the engine's process ended with exit code {code}"


def _close(stream: IO[bytes] | None) -> None:
    if stream is None:
        return
    with contextlib.suppress(BrokenPipeError):
        stream.close()
