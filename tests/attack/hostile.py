"""The hostile backend: a real server that answers each model with the bytes of its own script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator, Mapping

from tests.attack.scripts import Script


class HostileBackend:
    """Plays the script that the asked model's name chooses."""

    def __init__(self, scripts: Mapping[str, Script], most_bytes: int) -> None:
        self._scripts = scripts
        self._most_bytes = most_bytes
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: one request, then close."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if not lengths:
                return  # it is asked for its models, by nobody that matters here
            script = self._scripts[json.loads(await reader.readexactly(int(lengths[0])))["model"]]
            writer.write(script.start)
            await writer.drain()
            sent = 0
            while script.piece and sent < self._most_bytes:
                writer.write(script.piece)
                await writer.drain()
                sent += len(script.piece)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the worker has had enough, which is what is hoped for
        finally:
            writer.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[HostileBackend]:
        """Serve in a thread on a free loopback port."""
        loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

        async def serve() -> None:
            listener = await asyncio.start_server(self.answer, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
            ready.set()
            await stop.wait()
            listener.close()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        try:
            assert ready.wait(10), "the hostile backend does not listen"
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()
