"""The server's end of an HTTP/2 connection in a test's hands: `Http2Peer` over the streams of a `peers.Peer`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

from tests.support.peers import SECONDS, Peer


@dataclass
class Http2Peer:
    """Answers the newest request; reads only while it waits for something."""

    peer: Peer
    stream: int = 0
    """Of the newest request."""
    pings: int = 0
    """Answers to our pings."""
    _h2: h2.connection.H2Connection = field(
        default_factory=lambda: h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="ascii")
        )
    )
    _heads: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    _bodies: dict[int, bytes] = field(default_factory=dict)
    _whole: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._h2.initiate_connection()

    async def request(self) -> tuple[dict[str, str], bytes]:
        """Return headers, pseudo ones too, and body of the next request."""
        async with asyncio.timeout(SECONDS):
            while not self._heads or self._heads[0][0] not in self._whole:
                await self._read()
        self.stream, headers = self._heads.pop(0)
        return headers, self._bodies.pop(self.stream)

    async def head(self, status: int, *headers: tuple[str, str]) -> None:
        """Send a head, or an interim one."""
        self._h2.send_headers(self.stream, [(":status", str(status)), *headers])
        await self.flush()

    async def send(self, data: bytes) -> None:
        """Send a part of the body; waits while the client's window is shut."""
        while data:
            while not (room := min(self._h2.local_flow_control_window(self.stream), 16384)):
                await self._read()
            self._h2.send_data(self.stream, data[:room])
            data = data[room:]
            await self.flush()

    async def finish(self) -> None:
        """End the answer."""
        self._h2.end_stream(self.stream)
        await self.flush()

    async def trailer(self, *headers: tuple[str, str]) -> None:
        """End the answer with a trailer."""
        self._h2.send_headers(self.stream, headers, end_stream=True)
        await self.flush()

    async def refuse_stream(self) -> None:
        """End the answer by RST_STREAM."""
        self._h2.reset_stream(self.stream, error_code=2)
        await self.flush()

    async def go_away(self, last_stream: int) -> None:
        """Say that this connection ends, and up to which stream requests were looked at."""
        self._h2.close_connection(last_stream_id=last_stream)
        await self.flush()

    async def ping(self) -> None:
        """Ask for a sign of life."""
        self._h2.ping(b"12345678")
        await self.flush()

    async def flush(self) -> None:
        """Send what waits."""
        await self.peer.send(self._h2.data_to_send())

    async def _read(self) -> None:
        data = await self.peer.reader.read(1 << 16)
        if not data:
            raise ConnectionError("the client has closed")
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._heads.append((event.stream_id, {str(name): str(value) for name, value in event.headers}))
                self._bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                self._bodies[event.stream_id] += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._whole.add(event.stream_id)
            elif isinstance(event, h2.events.PingAckReceived):
                self.pings += 1
        await self.flush()
