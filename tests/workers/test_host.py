"""What is known of processes on this machine and on others."""

import os
import socket
import subprocess
import sys

from workers.ops.host import get_machine_name, is_gone


def test_a_process_that_has_ended_here_is_gone_and_one_elsewhere_is_unknown() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_gone(get_machine_name(), ended.pid)
    assert not is_gone(get_machine_name(), os.getpid())
    assert not is_gone("another", ended.pid)
    assert not is_gone(socket.gethostname(), ended.pid), "two machines may have one name"


def test_the_name_begins_with_the_hosts() -> None:
    assert get_machine_name().startswith(f"{socket.gethostname()}/")
