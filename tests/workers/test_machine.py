"""What is known of processes on this machine and on others."""

import os
import socket
import subprocess
import sys

from workers.machine import is_gone, machine_name


def test_a_process_that_has_ended_here_is_gone_and_one_elsewhere_is_unknown() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_gone(machine_name(), ended.pid)
    assert not is_gone(machine_name(), os.getpid())
    assert not is_gone("another", ended.pid)
    assert not is_gone(socket.gethostname(), ended.pid), "two machines may have one name"


def test_the_name_begins_with_the_hosts() -> None:
    assert machine_name().startswith(f"{socket.gethostname()}/")
