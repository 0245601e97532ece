"""A fake OpenAI backend that costs almost nothing, so that the gateway is what is measured.

`python -m benchmarks.backend`; in: chat requests. `max_tokens` is the length of the answer, the model's name sets the
pace (`bench?token_seconds=0.05`, `bench?delay_seconds=0.1` for a plain answer). Out: numbered contents ("0 1 2 …") in
the form of vLLM, as one body or as SSE. A paced stream sends its first token at once; all paced streams share the ticks
of one timer. An unpaced stream sends one chunk a pass of the event loop, each in its own write, as a server does that
has many streams. `GET /stats` tells what was seen, `/stats?clear` also forgets it; `/v1/models` is answered too.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import re
import socket
import time
from dataclasses import dataclass
from itertools import count
from typing import cast
from urllib.parse import parse_qsl

import httptools
import orjson
import uvloop

TICK_SECONDS = 0.002
CACHED_BODY_BYTES = 64 * 1024
STAND_INS = {
    "gpt-4o": "bench",
    "gpt-4o-mini": "bench?token_seconds=0.05",
    "gpt-4.1": "bench?token_seconds=0.5",
    "gpt-4.1-mini": "bench?token_seconds=0.01",
}
"""For gateways that ask a backend only for models that they know: such names, and what each stands for."""
_TAG = re.compile(r"tag:(\w+)")
_CREATED = 1_700_000_000
_MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","created":%d,"owned_by":"bench"}]}' % _CREATED
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request asks for."""

    model: str
    tokens: int
    stream: bool
    include_usage: bool
    token_seconds: float
    delay_seconds: float
    prompt_tokens: int
    tag: str


def read_plan(body: bytes) -> Plan:
    """Return the plan of a request body."""
    request = orjson.loads(body)
    model = request["model"]
    options = dict(parse_qsl(STAND_INS.get(model, model).partition("?")[2]))
    prompt = request["messages"][-1]["content"]
    tag = _TAG.match(prompt) if isinstance(prompt, str) else None
    return Plan(
        model=model,
        tokens=int(request.get("max_tokens") or request.get("max_completion_tokens") or 16),
        stream=bool(request.get("stream")),
        include_usage=bool((request.get("stream_options") or {}).get("include_usage")),
        token_seconds=float(options.get("token_seconds", 0)),
        delay_seconds=float(options.get("delay_seconds", 0)),
        prompt_tokens=len(body) // 4,
        tag=tag.group(1) if tag else "",
    )


@functools.cache
def token(index: int) -> str:
    """Return the content of a chunk."""
    return f" {index}" if index else "0"


@functools.cache
def text(tokens: int) -> str:
    """Return the content of a whole answer."""
    return "".join(map(token, range(tokens)))


@functools.cache
def _token_tail(index: int) -> bytes:
    choice = {"index": 0, "delta": {"content": token(index)}, "logprobs": None, "finish_reason": None}
    return b'"choices":[' + orjson.dumps(choice) + b"]}\n\n\r\n"


@functools.lru_cache(maxsize=1000)
def _plain_tail(model: str, prompt_tokens: int, tokens: int) -> bytes:
    answer = {
        "object": "chat.completion",
        "created": _CREATED,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text(tokens), "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(prompt_tokens, tokens),
    }
    return orjson.dumps(answer)[1:]


def _usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


class Stream:
    """One streamed answer on its way."""

    __slots__ = ("_after", "_next", "_prefix", "due", "plan", "protocol")

    def __init__(self, protocol: Connection, plan: Plan, number: int) -> None:
        self.protocol = protocol
        self.plan = plan
        self.due = 0.0
        self._next = 0
        self._prefix = b'data: {"id":"chatcmpl-%032x","object":"chat.completion.chunk","created":%d,"model":%b,' % (
            number,
            _CREATED,
            orjson.dumps(plan.model),
        )
        self._after = len(self._prefix) - 2

    def _frame(self, tail: bytes) -> bytes:
        return b"%x\r\n%b%b" % (self._after + len(tail), self._prefix, tail)

    def head(self) -> bytes:
        """Return the response's head and the chunk with the role."""
        choice = (
            b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'
        )
        return _STREAM_HEAD + self._frame(choice + b"\n\n\r\n")

    def advance(self) -> bool:
        """Send the next chunk; returns whether more is to come."""
        index = self._next
        self._next = index + 1
        frame = self._frame(_token_tail(index))
        if self._next < self.plan.tokens:
            self.protocol.write(frame)
            return True
        self.protocol.write(frame + self._end())
        self.protocol.finished()
        return False

    def _end(self) -> bytes:
        parts = [
            self._frame(
                b'"choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null}]}'
                b"\n\n\r\n"
            )
        ]
        if self.plan.include_usage:
            usage = orjson.dumps(_usage(self.plan.prompt_tokens, self.plan.tokens))
            parts.append(self._frame(b'"choices":[],"usage":%b}\n\n\r\n' % usage))
        parts.append(_DONE)
        return b"".join(parts)


@dataclass
class Delayed:
    """Answers that took their time: from the first on, how much of it all together."""

    busy_seconds: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0

    def begin(self) -> float:
        """Return the moment."""
        now = time.monotonic()
        self.first_at = self.first_at or now
        return now

    def end(self, began: float) -> None:
        """Count one that began then."""
        self.last_at = time.monotonic()
        self.busy_seconds += self.last_at - began


class Server:
    """The streams in progress, what drives them, and the counters."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.numbers = count(1)
        self.requests = 0
        self.delayed = Delayed()
        self.open_streams = 0
        self.closed: list[tuple[str, float]] = []
        self._plans: dict[bytes, Plan] = {}
        self._eager: list[Stream] = []
        self._wheel: dict[int, list[Stream]] = {}
        self._ticking = False

    def plan(self, body: bytes) -> Plan:
        """Return the plan of a body; equal bodies are parsed once."""
        if len(body) > CACHED_BODY_BYTES:
            return read_plan(body)
        plan = self._plans.get(body)
        if plan is None:
            if len(self._plans) > 5000:
                self._plans.clear()
            plan = self._plans[body] = read_plan(body)
        return plan

    def start(self, stream: Stream) -> None:
        """Send a stream's head and see to the rest."""
        stream.protocol.write(stream.head())
        if stream.plan.token_seconds:
            stream.due = self._loop.time()
            if stream.advance():
                self._schedule(stream)
            return
        self._eager.append(stream)
        if len(self._eager) == 1:
            self._loop.call_soon(self._push)

    def _push(self) -> None:
        self._eager = [stream for stream in self._eager if stream.protocol.alive and stream.advance()]
        if self._eager:
            self._loop.call_soon(self._push)

    def _schedule(self, stream: Stream) -> None:
        stream.due += stream.plan.token_seconds
        self._wheel.setdefault(int(stream.due / TICK_SECONDS) + 1, []).append(stream)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        now = int(self._loop.time() / TICK_SECONDS)
        for tick in sorted(tick for tick in self._wheel if tick <= now):
            for stream in self._wheel.pop(tick):
                if stream.protocol.alive and stream.advance():
                    self._schedule(stream)
        self._ticking = bool(self._wheel)
        if self._ticking:
            self._loop.call_at(max(now + 1, min(self._wheel)) * TICK_SECONDS, self._tick)

    def stats(self, *, clear: bool) -> bytes:
        """Return the counters as JSON; `closed` holds (tag, monotonic time) of each answer the client left."""
        told = {"requests": self.requests, "open_streams": self.open_streams, "closed": self.closed}
        answer = orjson.dumps(told | vars(self.delayed))
        if clear:
            self.closed = []
            self.requests = 0
            self.delayed = Delayed()
        return answer


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._body: list[bytes] = []
        self._plan: Plan | None = None
        self.alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        self._transport = None
        if self._plan is not None:
            self._server.closed.append((self._plan.tag, time.monotonic()))
            self.finished()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser: answer."""
        url, self._url = self._url, b""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        if url.startswith(b"/stats"):
            self.write_json(self._server.stats(clear=url.endswith(b"?clear")))
            return
        if url.endswith(b"/models"):
            self.write_json(_MODELS)
            return
        server = self._server
        server.requests += 1
        plan = self._plan = server.plan(body)
        if plan.stream:
            server.open_streams += 1
            server.start(Stream(self, plan, next(server.numbers)))
        elif plan.delay_seconds:
            began = server.delayed.begin()
            asyncio.get_running_loop().call_later(plan.delay_seconds, self._answer_late, plan, began)
        else:
            self._answer(plan)

    def _answer_late(self, plan: Plan, began: float) -> None:
        self._server.delayed.end(began)
        self._answer(plan)

    def _answer(self, plan: Plan) -> None:
        tail = _plain_tail(plan.model, plan.prompt_tokens, plan.tokens)
        self.write_json(b'{"id":"chatcmpl-%032x",' % next(self._server.numbers) + tail)
        self.finished()

    def finished(self) -> None:
        """Say that the answer is complete, or nobody's."""
        if self._plan is not None and self._plan.stream:
            self._server.open_streams -= 1
        self._plan = None

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client left."""
        if self._transport is not None:
            self._transport.write(data)

    def write_json(self, body: bytes) -> None:
        """Send a whole answer."""
        self.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )


async def serve() -> None:
    """Listen on a free loopback port, tell it on standard output, and serve until killed."""
    server = Server()
    # Its collector shall not be heard in the gateway's times; connections, which are cycles, are still found one day.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    listener = await asyncio.get_running_loop().create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"port": listener.sockets[0].getsockname()[1]}), flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
