"""Two hosts on one machine: network namespaces with a cable between them. Needs root and `ip`."""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNET = 0x40000000


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
    """A network of its own, with one address.

    Attributes:
        link: its end of the cable.
    """

    name: str
    address: str
    link: str

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread, and what it starts, be on this host."""
        with Path("/proc/thread-self/ns/net").open() as before:
            try:
                self._enter(Path("/run/netns") / self.name)
                yield
            finally:
                _set_namespace(before.fileno())

    @staticmethod
    def _enter(path: Path) -> None:
        with path.open() as there:
            _set_namespace(there.fileno())

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


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
