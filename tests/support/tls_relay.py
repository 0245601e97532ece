"""`TlsRelay`: TLS ended in front of a server that speaks none, such as a Redis that was built without it.

The relay is this module as a process: in come a certificate, its key and the port behind; out comes its own port.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import sys
from functools import partial
from pathlib import Path

from tests.support.processes import Process
from tests.support.startable import Startable
from tests.support.tls import KeyPair
from tests.support.waiting import wait_until

LISTENS = re.compile(r"listens on (\d+)\n")


class TlsRelay(Startable):
    """Clients that speak TLS to `port` reach the plain loopback port behind."""

    def __init__(self, folder: Path, pair: KeyPair, target_port: int) -> None:
        self._process = Process.python(
            "-m", __name__, pair.certificate, pair.key, str(target_port), log_file=folder / "tls-relay.log"
        )
        self.port = 0

    def start(self) -> TlsRelay:
        """Start it on a free port and wait until it listens."""
        self._process.start()
        wait_until(lambda: LISTENS.search(self._process.log()) or not self._process.running, 10, "the relay to listen")
        match = LISTENS.search(self._process.log())
        assert match, f"the relay does not start:\n{self._process.log()}"
        self.port = int(match[1])
        return self

    def stop(self) -> None:
        """End it and every connection; safe to call twice."""
        self._process.kill()


async def serve(certificate: str, key: str, target_port: int) -> None:
    """Relay until the process is killed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(partial(relay, target_port), "127.0.0.1", 0, ssl=context)
    print(f"listens on {server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201 - for the one who started it
    await server.serve_forever()


async def relay(target_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on both ways until one end closes, then close the other."""
    with contextlib.closing(writer), contextlib.suppress(OSError):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", target_port)
        with contextlib.closing(inner_writer):
            ways = [asyncio.create_task(pump(reader, inner_writer)), asyncio.create_task(pump(inner_reader, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on until either end closes."""
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
