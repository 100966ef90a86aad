"""A TCP proxy before a socket: a network that can fall silent, and can forget."""

import asyncio
import contextlib
import socket
import threading
from pathlib import Path


class Proxy:
    """Carries bytes between a port of this machine and a Unix socket.

    While it is dark nothing passes and nobody is told, as when a cable is pulled. What was sent in
    the dark arrives afterwards, unless the proxy forgets: then the connections of before stay
    silent for ever, as behind a router that was restarted.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._light = asyncio.Event()
        self._light.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._pipes: set[asyncio.Task[None]] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def go_dark(self) -> None:
        """Let nothing pass."""
        self._loop.call_soon_threadsafe(self._light.clear)

    def light_up(self, *, forgetting: bool = False) -> None:
        """Let everything pass again.

        Args:
            forgetting: but for the connections that are open now.
        """
        self._loop.call_soon_threadsafe(self._relight, forgetting)

    def _relight(self, forgetting: bool) -> None:
        if forgetting:
            for pipe in self._pipes:
                pipe.cancel()
        self._light.set()

    def stop(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._listening.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._accept, sock=self._listening))
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        for writer in self._writers:
            writer.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._light.wait()
        try:
            there, back = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        self._writers += [
            writer,
            back,
        ]  # or a forgotten connection would be closed, and so noticed
        for source, sink in ((reader, back), (there, writer)):
            pipe = asyncio.ensure_future(self._carry(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._light.wait()
                sink.write(data)
                await sink.drain()
        sink.close()
