"""What the supervisor does with parts that die, hang, talk or leave children behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

CHECKOUT = Path(__file__).parents[2]

DRIVER = """
import sys
from workers.ops.processes import start_child
from workers.ops.supervisor import Service, Supervisor

def part(name, script):
    command = ["/bin/bash", "-c", script]
    return Service(name, lambda: start_child(command), grace_seconds=1, stops_last=name == "last")

parts = [part(*words.split("=", 1)) for words in sys.argv[1:]]
Supervisor(parts, lambda line: print(line, flush=True)).run()
print("all stopped", flush=True)
"""


class Supervised:
    """A supervisor in a process of its own, and what it says."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []

    def read_until(self, text: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        raise AssertionError(f"never said {text!r}: {self.lines}")

    def stop(self) -> list[str]:
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=20)
        self.lines += output.splitlines()
        assert self.process.returncode == 0
        return self.lines

    def pid_said(self) -> psutil.Process:
        return psutil.Process(int(self.read_until("pid ").split("pid ")[1]))


@contextmanager
def supervised(**parts: str) -> Iterator[Supervised]:
    words = [f"{name}={script}" for name, script in parts.items()]
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield Supervised(process)
        finally:
            process.kill()


def gone(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=20)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_lines_carry_the_name_of_their_part() -> None:
    last_words = "trap 'printf \"no end\"; exit' TERM; echo hello; sleep 60 & wait"
    with supervised(one="sleep 60", three=last_words) as running:
        assert running.read_until("hello") == "three | hello"
        assert "three | no end" in running.stop()


def test_a_part_that_dies_is_started_again_ever_later() -> None:
    with supervised(one="exit 3") as running:
        for delay in ("0.5", "1", "2"):
            said = running.read_until("exit code")
            assert said == f"one | ended with exit code 3; started again in {delay} seconds"


def test_what_a_dead_part_leaves_behind_is_swept_up() -> None:
    """`setsid` puts it in a session of its own, so no signal to a group reaches it."""
    with supervised(one="setsid sleep 300 & echo pid $!; sleep 0.5") as running:
        left = running.pid_said()
        running.read_until("started again")
        assert gone(left)


def test_what_a_part_leaves_behind_at_the_end_is_swept_up() -> None:
    with supervised(one="setsid sleep 300 & echo pid $!; wait") as running:
        left = running.pid_said()
        running.stop()
        assert gone(left)


def test_a_part_that_will_not_stop_is_killed() -> None:
    with supervised(one="trap '' TERM; echo pid $$; while true; do sleep 1; done") as running:
        stubborn = running.pid_said()
        began = time.monotonic()
        running.stop()
        assert time.monotonic() - began < 10
        assert gone(stubborn)


def test_what_others_need_stops_last() -> None:
    bids_farewell = "trap 'sleep 0.3; echo {0} ends; exit' TERM; echo {0} up; sleep 60 & wait"
    scripts = {name: bids_farewell.format(name) for name in ("last", "first")}
    with supervised(**scripts) as running:
        running.read_until("up")
        running.read_until("up")
        said = running.stop()
        assert said.index("first | first ends") < said.index("last  | last ends")


def test_parts_die_with_a_supervisor_that_is_killed() -> None:
    with supervised(one="echo pid $$; sleep 300") as running:
        part = running.pid_said()
        running.process.kill()
        assert gone(part)


def test_it_stops_when_nobody_reads_any_more() -> None:
    with supervised(one="echo pid $$; while true; do echo on; sleep 0.1; done") as running:
        part = running.pid_said()
        assert running.process.stdout is not None
        os.close(os.dup(running.process.stdout.fileno()))
        running.process.stdout.close()
        running.process.wait(20)
        assert gone(part)


def test_ctrl_c_reaches_the_supervisor_alone() -> None:
    with supervised(one="trap 'echo interrupted' INT; echo up; sleep 60 & wait") as running:
        running.read_until("up")
        os.killpg(running.process.pid, signal.SIGINT)
        output, _ = running.process.communicate(timeout=20)
        assert "interrupted" not in output
        assert "all stopped" in output


@pytest.mark.parametrize("size", [200_000])
def test_a_line_without_end_is_cut(size: int) -> None:
    with supervised(
        one=f"head -c {size} /dev/zero | tr '\\0' x; echo; echo all; sleep 60"
    ) as running:
        running.read_until("all")
        assert sum(line.count("x") for line in running.lines) == size
