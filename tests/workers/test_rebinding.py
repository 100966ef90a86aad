"""Webhooks against a real resolver that changes its answer between look-ups.

The resolver and the servers live in a network namespace of their own, so this needs root or user
namespaces.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parents[2]

NAMESPACE: Final = """
import asyncio, fcntl, socket, struct, threading, os

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:  # ip link set lo up
    fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))

asked = []
answers = []

def serve_names(server):
    while True:
        query, client = server.recvfrom(512)
        end = query.index(0, 12)
        kind = struct.unpack(">H", query[end + 1 : end + 3])[0]
        if kind == 1:
            asked.append(kind)
        ips = [answers[min(len(asked), len(answers)) - 1]] if kind == 1 else []
        head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(ips), 0, 0)
        record = b"".join(
            b"\\xc0\\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(ip) for ip in ips
        )
        server.sendto(head + query[12 : end + 5] + record, client)

names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
threading.Thread(target=serve_names, args=[names], daemon=True).start()

connected = []
local = socket.create_server(("127.0.0.1", 0))
port = local.getsockname()[1]

def accept():
    while True:
        local.accept()[0].close()
        connected.append(1)

threading.Thread(target=accept, daemon=True).start()

import django
from django.conf import settings
settings.configure(META_REWARD_WEBHOOK_HOSTS=[f"rebind.test:{port}"])
from webapp.notifications.webhooks import WebhookError, post_signed

def post():
    del asked[:]
    try:
        asyncio.run(post_signed(f"https://rebind.test:{port}/", {}, secret="s"))
    except WebhookError as error:
        return str(error)
    raise AssertionError("it was delivered")

answers[:] = ["127.0.0.1"]
print("by name:", post())
answers[:] = ["192.0.2.1", "127.0.0.1"]  # harmless when it is checked, this machine afterwards
print("rebound:", post(), len(asked), "look-up")
print("connections to this machine:", len(connected))
"""


def test_a_name_that_rebinds_is_resolved_once_by_a_real_resolver(tmp_path: Path) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    mount = f"mount --bind {resolver} /etc/resolv.conf"
    begin = ["unshare", "--mount", "--net", *user, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*begin, "true"]).returncode:
        pytest.skip("no network namespace here: this needs root or user namespaces")
    done = subprocess.run(
        [*begin, sys.executable, "-c", NAMESPACE],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_name, rebound, connections = done.stdout.splitlines()
    assert (
        "rebind.test resolves to 127.0.0.1, which is not the address of a remote server" in by_name
    )
    assert "Network is unreachable" in rebound
    assert rebound.endswith(" 1 look-up")
    assert connections == "connections to this machine: 0"
