"""Two hosts on one machine: networks of their own, names of their own, and a cable between them.

Needs root and `ip`.
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_CLONE_NEWUTS = 0x04000000


def why_not() -> str:
    """Why this machine cannot have two hosts; "" if it can."""
    if shutil.which("ip") is None:
        return "there is no `ip`: install iproute2"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


@dataclass(frozen=True)
class Host:
    """A network of its own, with one address, and a name that processes see.

    Attributes:
        link: its end of the cable.
    """

    name: str
    address: str
    link: str

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread, and what it starts, be on this host."""
        ours = Path("/proc/thread-self/ns")
        with (ours / "net").open() as network, (ours / "uts").open() as name:
            try:
                self._enter()
                yield
            finally:
                _call("setns", network.fileno(), _CLONE_NEWNET)
                _call("setns", name.fileno(), _CLONE_NEWUTS)

    def _enter(self) -> None:
        with (Path("/run/netns") / self.name).open() as there:
            _call("setns", there.fileno(), _CLONE_NEWNET)
        _call("unshare", _CLONE_NEWUTS)
        socket.sethostname(self.name)

    def cut(self) -> None:
        """Pull the cable out."""
        _ip("-n", self.name, "link", "set", self.link, "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("-n", self.name, "link", "set", self.link, "up")


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts that reach each other, and nothing else."""
    number = os.getpid() % 100_000
    hosts = [Host(f"mr{end}{number}", f"10.77.0.{end}", f"mr{end}v{number}") for end in (1, 2)]
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
        one, two = hosts
        _ip("link", "add", one.link, "type", "veth", "peer", "name", two.link)
        for host in hosts:
            _ip("link", "set", host.link, "netns", host.name)
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.link)
            _ip("-n", host.name, "link", "set", "lo", "up")
            _ip("-n", host.name, "link", "set", host.link, "up")
        yield one, two
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "delete", host.name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _call(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
