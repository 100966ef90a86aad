"""Supervise several programs: start them, show their output, restart them, stop all.

One thread does everything, so that its child processes die with it. Orphaned descendants are
killed, so nothing keeps running when this ends.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from workers.ops.processes import adopt_orphans, kill_group, kill_orphans

Write = Callable[[str], None]

_POLL_SECONDS = 0.1
_FIRST_DELAY_SECONDS = 0.5
_MAX_DELAY_SECONDS = 30.0
_HEALTHY_SECONDS = 30.0  # a service that ran this long restarts with the first delay
_MAX_LINE_BYTES = 64 * 1024
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Service:
    """A program to keep running.

    Attributes:
        name: prefix of each of its output lines.
        start: starts it with its output in a pipe; returns None if it need not run now, and is
            called again later.
        grace_seconds: time allowed for a graceful stop.
        stops_last: whether to stop it last, because other services need it.
    """

    name: str
    start: Callable[[], subprocess.Popen[bytes] | None]
    grace_seconds: float = 5.0
    stops_last: bool = False


class _RunningService:
    """A supervised service and its process."""

    def __init__(self, definition: Service, say: Write) -> None:
        self.definition = definition
        self.process: subprocess.Popen[bytes] | None = None
        self.output: int | None = None
        self._print_line = say
        self._unread = b""
        self._began = 0.0
        self._start_at = 0.0
        self._delay = _FIRST_DELAY_SECONDS

    def start_when_due(self) -> None:
        """Start the service if it is not running and its delay is over."""
        if self.process is None and time.monotonic() >= self._start_at:
            self._began = time.monotonic()
            self._start_at = self._began + _FIRST_DELAY_SECONDS
            try:
                self.process = self.definition.start()
            except OSError as error:  # no memory or no process available; may succeed later
                self._plan_restart(f"cannot be started ({error})")
                return
            if self.process is not None and self.process.stdout is not None:
                self.output = self.process.stdout.fileno()
                os.set_blocking(self.output, False)

    def check_exit(self, *, stopping: bool) -> bool:
        """Clean up after a service that has ended; False if it is still running."""
        if self.process is None or self.process.poll() is None:
            return False
        code = self.process.returncode
        self._forget()
        if not stopping:
            self._plan_restart(_describe_exit(code))
        return True

    def show(self) -> None:
        """Show its new output lines."""
        while chunk := self._read():
            *lines, self._unread = (self._unread + chunk).split(b"\n")
            for line in lines:
                self._print_line(line.decode(errors="replace"))
            if len(self._unread) > _MAX_LINE_BYTES:
                self._show_rest()

    def _read(self) -> bytes:
        if self.output is None:
            return b""
        try:
            chunk = os.read(self.output, _MAX_LINE_BYTES)
        except BlockingIOError:
            return b""
        if not chunk:
            self.output = None
        return chunk

    def ask_to_stop(self) -> None:
        """Ask the service to stop gracefully."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        if self.process is not None:
            self._forget()

    def _forget(self) -> None:
        assert self.process is not None  # noqa: S101 callers have looked
        kill_group(self.process)
        self.show()
        self._show_rest()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = self.output = None

    def _show_rest(self) -> None:
        if self._unread:
            self._print_line(self._unread.decode(errors="replace"))
        self._unread = b""

    def _plan_restart(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._began > _HEALTHY_SECONDS:
            self._delay = _FIRST_DELAY_SECONDS
        self._print_line(f"{reason}; started again in {self._delay:g} seconds")
        self._start_at = now + self._delay
        self._delay = min(2 * self._delay, _MAX_DELAY_SECONDS)


def _describe_exit(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


class Supervisor:
    """Keeps services running until a signal stops it."""

    def __init__(self, parts: Sequence[Service], write: Write) -> None:
        """Prepare the services without starting them.

        Args:
            write: receives each output line, prefixed with the name of its service.
        """
        width = max(len(definition.name) for definition in parts)
        self._write = write
        self._services = [
            _RunningService(definition, self._make_writer(definition.name.ljust(width)))
            for definition in parts
        ]
        self._stop_requests = 0

    def run(self) -> None:
        """Keep all services running; return when all have stopped after a signal."""
        adopt_orphans()
        with self._handle_signals():
            try:
                while not self._stop_requests:
                    self._check_services()
            finally:
                self._stop(
                    [service for service in self._services if not service.definition.stops_last]
                )
                self._stop([service for service in self._services if service.definition.stops_last])
                kill_orphans(keep=())

    def _make_writer(self, prefix: str) -> Write:
        return lambda line: self._try_to_write(f"{prefix} | {line}")

    def _try_to_write(self, line: str) -> None:
        try:
            self._write(line)
        except OSError:  # the reader has exited, as in `make serve | head`
            self._stop_requests += 1
            self._write = lambda line: None  # noqa: ARG005

    def _check_services(self) -> None:
        for service in self._services:
            service.start_when_due()
        self._show_for_a_moment()
        deaths = [service.check_exit(stopping=False) for service in self._services]
        if any(deaths):
            kill_orphans(keep=self._list_pids())

    def _list_pids(self) -> set[int]:
        return {service.process.pid for service in self._services if service.process is not None}

    def _show_for_a_moment(self) -> None:
        with selectors.DefaultSelector() as selector:
            for service in self._services:
                if service.output is not None:
                    selector.register(service.output, selectors.EVENT_READ, service)
            ready = selector.select(_POLL_SECONDS)
        for key, _ in ready:
            key.data.show()

    def _stop(self, stopping: Sequence[_RunningService]) -> None:
        """Ask all to stop, wait, then kill; a second signal kills at once."""
        for service in stopping:
            service.ask_to_stop()
        asked = time.monotonic()
        requests = max(1, self._stop_requests)
        while any(service.process is not None for service in stopping):
            self._show_for_a_moment()
            for service in stopping:
                late = time.monotonic() > asked + service.definition.grace_seconds
                if late or self._stop_requests > requests:
                    service.kill()
                service.check_exit(stopping=True)

    @contextlib.contextmanager
    def _handle_signals(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self._stop_requests += 1

        before = {number: signal.signal(number, note) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
