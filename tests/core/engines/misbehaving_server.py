"""A real HTTP server in a thread that answers as a test wishes, one behaviour a request."""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it holds each body back until the headers are acknowledged
    server: "MisbehavingServer"
    body: dict[str, Any]

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.counted(self) as behave, contextlib.suppress(OSError):
            behave(self)

    def do_GET(self) -> None:
        self.server.followed.append(self.path)
        self.answer(200, b"{}")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


class MisbehavingServer(ThreadingHTTPServer):
    """Behaves as told for the first requests, and well afterwards.

    Attributes:
        coming: how the next requests are answered.
        usually: how all others are.
        requests: bodies in the order in which they came.
        headers: of these.
        followed: paths that were asked for by GET, as after a redirect.
        peak: the most requests that were under way at a time.
    """

    daemon_threads = True
    request_queue_size = 128  # a client that finds it full tries again after a second
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.coming: list[Behaviour] = []
        self.usually: Behaviour = well
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.followed: list[str] = []
        self.peak = 0
        self.ending = threading.Event()
        self._under_way = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @contextlib.contextmanager
    def counted(self, exchange: Exchange) -> Iterator[Behaviour]:
        with self._lock:
            self.requests.append(exchange.body)
            self.headers.append(dict(exchange.headers))
            self._under_way += 1
            self.peak = max(self.peak, self._under_way)
            behave = self.coming.pop(0) if self.coming else self.usually
        try:
            yield behave
        finally:
            with self._lock:
                self._under_way -= 1


@contextlib.contextmanager
def misbehaving_server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ending.set()
            server.shutdown()
            thread.join()


def completion(texts: list[str], *, ended: str = "stop", tokens: int | None = None) -> bytes:
    """A chat completion with these replies; without `tokens`, one for each word."""
    total = sum(len(text.split()) for text in texts) if tokens is None else tokens
    choices = [
        {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": ended}
        for at, text in enumerate(texts)
    ]
    return json.dumps({"choices": choices, "usage": {"completion_tokens": total}}).encode()


def well(exchange: Exchange) -> None:
    asked, seed = exchange.body["messages"][-1]["content"], exchange.body.get("seed", 0)
    texts = [f"{asked} {seed} {at}" for at in range(exchange.body["n"])]
    exchange.answer(200, completion(texts))


def saying(body: bytes, status: int = 200, **headers: str) -> Behaviour:
    return lambda exchange: exchange.answer(status, body, **headers)


def failing(status: int, message: str = "out of order", **fields: str) -> Behaviour:
    return saying(json.dumps({"error": {"message": message, **fields}}).encode(), status)


def fewer(exchange: Exchange) -> None:
    exchange.answer(200, completion(["only one"]))


def half_closed(exchange: Exchange) -> None:
    """Promise a thousand bytes, send a few, and hang up."""
    exchange.send_response(200)
    exchange.send_header("Content-Length", "1000")
    exchange.end_headers()
    exchange.wfile.write(b'{"choices": [')
    exchange.wfile.flush()
    exchange.close_connection = True


def reset(exchange: Exchange) -> None:
    """Cut the connection without a word."""
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.close_connection = True
    exchange.connection.close()


def silent(exchange: Exchange) -> None:
    """Take the request and say nothing."""
    exchange.server.ending.wait(30)
    exchange.close_connection = True


def dripping(exchange: Exchange) -> None:
    """Send a byte now and then, so that something always comes."""
    exchange.send_response(200)
    exchange.send_header("Content-Length", "1000")
    exchange.end_headers()
    while not exchange.server.ending.wait(0.02):
        exchange.wfile.write(b" ")
        exchange.wfile.flush()
