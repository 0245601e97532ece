"""`python -m benchmarks.curve_backend`: an OpenAI-compatible server whose capacity has a knee.

Each request runs at full speed while no more than the knee are in flight; past it they share what the knee brings, or
slightly less. It reads one JSON line a command (`{"knee": 32}`, `{"take": true}`) and answers the latter with what it
did since the last one. Each chunk is one token.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import random
import sys
import time
from typing import Any

TICK_SECONDS = 0.01
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: dict[str, Any] | str) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    line = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(line), line)


def _delta(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _chunk({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


FIRST, TOKEN, LAST = _delta({"role": "assistant", "content": "a"}), _delta({"content": "b"}), _delta({}, "stop")


class Curve:
    """The capacity, and every request in flight by the work at which its next token is due."""

    def __init__(self, knee: int, *, falls: float, tokens: float, first_seconds: float, speed: float) -> None:
        self.knee, self.falls, self.tokens, self.first_seconds, self.speed = knee, falls, tokens, first_seconds, speed
        self.work, self.at = 0.0, time.monotonic()
        self.heap: list[tuple[float, int, Call]] = []
        self.running = self.most = self.done_tokens = self.firsts = self.number = 0
        self.first_sum = self.slot_seconds = 0.0

    def begin(self, call: Call) -> None:
        self.move()
        self.running += 1
        self.most = max(self.most, self.running)
        call.left = max(1, round(random.lognormvariate(math.log(self.tokens) - 0.18, 0.6)))
        self._due(call, self.work + self.first_seconds * random.lognormvariate(-0.125, 0.5))

    def end(self, call: Call) -> None:
        self.move()
        self.running -= 1
        call.is_over = True

    def move(self) -> None:
        now = time.monotonic()
        passed, self.at = now - self.at, now
        self.slot_seconds += passed * self.running
        part = 1.0
        if self.running > self.knee:
            part = self.knee / self.running * max(0.2, 1 - self.falls * (self.running - self.knee) / self.knee)
        self.work += passed * part

    def step(self) -> None:
        self.move()
        while self.heap and self.heap[0][0] <= self.work:
            due, _, call = heapq.heappop(self.heap)
            if call.is_over:
                continue
            if not call.has_begun:
                call.has_begun = True
                self.firsts += 1
                self.first_sum += self.at - call.began_at
            self.done_tokens += 1
            call.left -= 1
            call.speak()
            if call.left:
                self._due(call, due + 1 / self.speed)
            else:
                self.end(call)
                call.finish()

    def take(self) -> dict[str, float]:
        self.move()
        told = {
            "tokens": self.done_tokens, "firsts": self.firsts, "first_seconds": self.first_sum, "most": self.most,
            "slot_seconds": self.slot_seconds, "running": self.running,
        }  # fmt: skip
        self.done_tokens = self.firsts = 0
        self.first_sum = self.slot_seconds = 0.0
        self.most = self.running
        return told

    def _due(self, call: Call, work: float) -> None:
        self.number += 1
        heapq.heappush(self.heap, (work, self.number, call))


class Call(asyncio.Protocol):
    """One connection, and the request that is on it."""

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.buffer = b""
        self.is_busy, self.is_over, self.has_begun, self.left = False, False, False, 0
        self.began_at = 0.0
        self.sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, rest = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        self.is_busy, self.is_over, self.has_begun, self.sent = True, False, False, 0
        self.began_at = time.monotonic()
        self.curve.begin(self)

    def speak(self) -> None:
        self.transport.write(HEAD + FIRST if not self.sent else TOKEN)
        self.sent += 1

    def finish(self) -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": self.sent, "total_tokens": self.sent + 1}
        told = _chunk(
            {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage}
        )
        self.is_busy = False
        self.transport.write(LAST + told + _chunk("[DONE]") + b"0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_busy and not self.is_over:
            self.curve.end(self)


async def main(settings: dict[str, float]) -> None:
    """Serve until standard input ends."""
    curve = Curve(
        int(settings["knee"]), falls=settings.get("falls", 0.0), tokens=settings.get("tokens", 16),
        first_seconds=settings.get("first_seconds", 0.2), speed=settings.get("speed", 8),
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Call(curve), "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    ticking = loop.create_task(_tick(curve))
    while line := await reader.readline():
        command = json.loads(line)
        if "knee" in command:
            curve.move()
            curve.knee = int(command["knee"])
        if command.get("take"):
            print(json.dumps(curve.take()), flush=True)
    ticking.cancel()


async def _tick(curve: Curve) -> None:
    while True:
        curve.step()
        await asyncio.sleep(TICK_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
